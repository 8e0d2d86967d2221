// Blind battle: two streams as plain text, and a vote by key. What is on the page always comes from the server.

import { bind } from "../projects/keys.js";

const place = document.getElementById("battle");
const text = document.getElementById("text");
const LOOK_AGAIN_MS = 2000;
let streams = [];

// --- Streams: whoever connects gets the whole answer so far, so a reload takes them up again -----------
function follow(side) {
  const node = document.createTextNode("");
  const state = side.querySelector("[data-state]");
  const source = new EventSource(side.dataset.stream);
  let pending = "";
  side.querySelector("[data-text]").replaceChildren(node);
  streams.push(source);
  source.onopen = () => { state.textContent = ""; };
  source.addEventListener("delta", (event) => {
    if (!pending) requestAnimationFrame(() => {
      node.appendData(pending);
      pending = "";
    });
    pending += JSON.parse(event.data).text;
  });
  source.addEventListener("done", () => ended(side, source));
  source.addEventListener("error", (event) => {
    if (event.data !== undefined || source.readyState === EventSource.CLOSED) ended(side, source);
    else state.textContent = document.getElementById("battle-words").dataset.lost;
  });
}

function ended(side, source) {
  source.close();
  delete side.dataset.stream;
  side.querySelector("[data-text]").classList.remove("caret");
  if (!place.querySelector("[data-stream]")) refresh();
}

async function refresh() {
  await htmx.ajax("GET", location.pathname, { target: place, swap: "innerHTML" }).catch(() => {});
  if (!place.querySelector("[data-text]"))
    document.getElementById("announce").textContent = document.getElementById("battle-words").dataset.ready;
}

function followAll() {
  for (const source of streams) source.close();
  streams = [];
  place.querySelectorAll("[data-stream]").forEach(follow);
  // Both streams ended, and the page has not heard it: look again.
  if (!streams.length && place.querySelector("[data-text]")) setTimeout(refresh, LOOK_AGAIN_MS);
}

// --- Keys ---------------------------------------------------------------------------------------------
const press = (selector) => {
  const button = document.querySelector(selector);
  button?.click();
  return Boolean(button);
};
const vote = (verdict) => () => press(`#verdict [value="${verdict}"]`);
bind({
  1: vote("left"), ArrowLeft: vote("left"), 2: vote("right"), ArrowRight: vote("right"),
  0: vote("tie"), t: vote("tie"), b: vote("both_bad"),
  u: () => press("[data-undo]"), n: () => press("[data-new]"),
  "/": () => text?.focus(),
});

text?.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (text.value.trim()) text.form.requestSubmit();
});

if (place) {
  place.addEventListener("htmx:afterSwap", followAll);
  followAll();
}
