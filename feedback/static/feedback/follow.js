// Reads an answer's stream into `place`, as plain text. It goes on after a lost connection where it was, whether
// the browser connects again by itself (Last-Event-ID) or gives up and we do (`seen`).

import { ask } from "../projects/session.js";

const RETRY_MS = [500, 1000, 2000, 4000, 8000, 15000];
const SLOW_MS = 6000;
const LEAST_CHARS = 1000, MOST_CHARS = 5000;

// follow({ url, look, place, say, words, onText, onEnd }): `look` is an address that answers 2xx while the page may
// see the answer; `say` shows a sentence about the connection; `onEnd` is called once. Returns { close }.
export function follow({ url, look, place, say, words, onText = () => {}, onEnd }) {
  const writer = new Writer(place);
  let source = null, seen = "", pending = "", attempt = 0, isOver = false;
  const slow = setTimeout(() => say(words.slow ?? ""), SLOW_MS);

  const flush = () => {
    if (!pending || isOver) return;
    const text = pending;
    pending = "";
    writer.write(text);
    onText();
  };
  const end = () => {
    if (isOver) return;
    flush();
    close();
    onEnd();
  };
  function close() {
    isOver = true;
    clearTimeout(slow);
    source?.close();
  }
  function connect() {
    if (isOver) return;
    source = new EventSource(seen ? `${url}?seen=${seen}` : url);
    source.onopen = () => { attempt = 0; say(""); };
    source.addEventListener("delta", (event) => {
      clearTimeout(slow);
      seen = event.lastEventId || seen;
      if (!pending) requestAnimationFrame(flush); // one layout a frame, however fast the tokens come
      pending += JSON.parse(event.data).text;
    });
    source.addEventListener("done", end);
    source.addEventListener("error", (event) => {
      if (event.data !== undefined) end(); // the server's word that it broke off
      else if (source.readyState === EventSource.CLOSED) again();
      else say(words.lost); // the browser connects again by itself
    });
  }
  // The server refused the stream, or a proxy said 502: see whether the answer is still there for us.
  async function again() {
    try {
      const response = await ask(look);
      if (response.status === 404) return end();
      if (response.status === 401) {
        document.addEventListener("signed-in", connect, { once: true });
        return say("");
      }
    } catch { /* no network: try again below */ }
    say(words.lost);
    setTimeout(connect, RETRY_MS[Math.min(attempt++, RETRY_MS.length - 1)]);
  }
  connect();
  return { close };
}

// Appends to a text node, and begins a new block now and then: the browser lays out the last block alone, so that
// the thousandth line costs as much as the first.
class Writer {
  constructor(place) {
    this.place = place;
    place.replaceChildren();
    this.begin();
  }

  begin(text = "") {
    this.node = document.createTextNode(text);
    const block = document.createElement("div");
    block.dir = "auto";
    block.append(this.node);
    this.place.append(block);
  }

  write(text) {
    this.node.appendData(text);
    for (let at; (at = cutIn(this.node.data)); ) {
      const rest = this.node.data.slice(at);
      this.node.deleteData(at, rest.length);
      this.begin(rest);
    }
  }
}

// After the first line end beyond the least size; a line without an end is cut at a space, once it is far too long.
function cutIn(text) {
  const line = text.indexOf("\n", LEAST_CHARS) + 1;
  if (line || text.length < MOST_CHARS) return line;
  const at = text.lastIndexOf(" ", MOST_CHARS - 1) + 1 || MOST_CHARS;
  return /[\uDC00-\uDFFF]/.test(text[at] ?? "") ? at - 1 : at; // never within a character
}
