// Thumbs of the chat, and why. Each is stored before it is sent, as the answers on the Work page are: a lost network,
// a closed tab or an ended session loses none, and its id makes it arrive once. It shows at once what was pressed;
// what is pressed before the server has answered follows the word before, whose id the page knows.

import { uuid7 } from "../projects/ids.js";
import { deliver, Outbox } from "../projects/outbox.js";
import { ask, csrfToken } from "../projects/session.js";
import { refusal, toast } from "../projects/toast.js";

const TWICE_MS = 500; // a double click is one press

export function keepThumbs(turns, words, unsent) {
  const said = new Map(); // id of an answer's element -> { id, value } as the server will have it; value 0: taken back
  const after = new Map(); // id of an answer's element -> what was pressed before its thumb arrived
  let last = { button: null, at: 0 };

  // What stands, as the page was told, or as it was said since.
  function standing(answer) {
    const id = answer.querySelector("[data-thumb]").elements.supersedes.value;
    const value = Number(answer.querySelector('[data-thumb] [aria-pressed="true"]')?.form.elements.value.value ?? 0);
    return said.get(answer.id) ?? { id, value };
  }
  function say(answer, next, url, fields) {
    said.set(answer.id, next);
    answer.setAttribute("aria-busy", "true");
    for (const form of answer.querySelectorAll("[data-thumb]")) {
      const isPressed = Number(form.elements.value.value) === next.value;
      form.querySelector("button").setAttribute("aria-pressed", isPressed);
    }
    outbox.put({ url, body: new URLSearchParams(fields).toString(), answer: answer.id });
  }
  function takeBack(answer) {
    const { id } = standing(answer);
    if (id) say(answer, { id: "", value: 0 }, words.retract.replace(/[0-]{36}/, id), {});
  }

  turns.addEventListener("submit", (event) => {
    const form = event.target, answer = form.closest(".answer");
    const isThumb = form.matches("[data-thumb]");
    if (!isThumb && !form.matches("[data-reasons]")) return;
    event.preventDefault();
    const button = event.submitter ?? form, now = performance.now();
    const isTwice = button === last.button && now - last.at < TWICE_MS;
    last = { button, at: now };
    if (isTwice) return;
    const before = standing(answer), fields = new FormData(form), value = Number(fields.get("value"));
    if (isThumb && before.id && before.value === value) return takeBack(answer);
    if (said.has(answer.id)) fields.set("id", uuid7()); // the form's own may be taken
    fields.set("supersedes", before.id);
    say(answer, { id: fields.get("id"), value }, form.action, fields);
  });
  turns.addEventListener("click", (event) => {
    if (event.target.closest("[data-act=undo]")) takeBack(event.target.closest(".answer"));
  });

  // True where a thumb is on its way: `action` then comes after it.
  function later({ id }, action) {
    if (!said.has(id)) return false;
    after.set(id, [...(after.get(id) ?? []), action]);
    return true;
  }

  const waits = (answer) => outbox.keys().filter((key) => outbox.take(key)?.answer === answer).length;

  async function post({ url, body, answer }) {
    const headers = { "X-CSRFToken": csrfToken() };
    const { response, text, isSignedOut } = await deliver(url, { method: "POST", body: new URLSearchParams(body), headers });
    if (!response) return { isSignedOut };
    const isLast = waits(answer) <= 1;
    if (isLast) said.delete(answer);
    if (!response.ok) toast(refusal(response), { bad: true });
    if (response.ok && isLast) show(answer, text);
    else if (isLast) await look(answer);
    return { done: true };
  }

  // Refused: what was pressed does not stand.
  async function look(id) {
    const url = document.getElementById(id)?.dataset.answer;
    const response = url ? await ask(url).catch(() => null) : null;
    if (response?.ok) show(id, await response.text());
  }

  // The answer as the server has it, where it is still on the page and nobody writes into it.
  function show(id, html) {
    const answer = document.getElementById(id);
    if (!answer || answer.querySelector("[data-editor]")) return;
    const focused = answer.contains(document.activeElement) ? document.activeElement : null;
    htmx.swap(answer, html, { swapStyle: "outerHTML", swapDelay: 0, settleDelay: 0 }, { eventInfo: { target: answer } });
    const same = focused?.id && document.getElementById(focused.id);
    if (focused) (same || document.getElementById(id))?.focus({ preventScroll: true });
    const actions = after.get(id) ?? [];
    after.delete(id);
    for (const action of actions) action();
  }

  const outbox = new Outbox(`chat:${words.home}`, {
    post,
    onState(state) {
      if (state === "sent") toast(words.sent);
      unsent.hidden = state === "sent";
      unsent.textContent = state === "signed-out" ? words.signedOut : words.kept;
    },
  });
  return { later };
}
