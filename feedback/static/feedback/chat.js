// Chat: streams answers as plain text, and lets everything be done by keys.

import { bind, isTyping } from "../projects/keys.js";

const turns = document.getElementById("turns");
const composer = document.getElementById("composer");
const text = document.getElementById("text");
const announce = document.getElementById("announce");
const words = document.getElementById("chat-words").dataset;
const LOOK_AGAIN_MS = 2000;
const streams = new Map(); // answer id -> EventSource

// --- Streams ---------------------------------------------------------------------------------------
// Whoever connects first gets the whole answer so far; the browser's own reconnection goes on where it was.
function follow(answer) {
  if (streams.has(answer.id)) return;
  const place = answer.querySelector("[data-text]");
  const state = answer.querySelector("[data-state]");
  const source = new EventSource(answer.dataset.stream);
  const node = document.createTextNode("");
  let pending = "";
  place.replaceChildren(node);
  streams.set(answer.id, source);

  source.onopen = () => { state.textContent = ""; };
  source.addEventListener("delta", (event) => {
    if (!pending) requestAnimationFrame(() => { // one layout a frame, however fast the tokens come
      const stick = isAtEnd();
      node.appendData(pending);
      pending = "";
      if (stick) toEnd();
    });
    pending += JSON.parse(event.data).text;
  });
  source.addEventListener("done", () => finish(answer, source));
  source.addEventListener("error", (event) => {
    if (event.data !== undefined || source.readyState === EventSource.CLOSED) finish(answer, source);
    else state.textContent = words.lost; // the browser connects again by itself
  });
}

async function finish(answer, source) {
  source.close();
  const stick = isAtEnd();
  const hadFocus = answer.contains(document.activeElement);
  const turn = answer.closest(".turn");
  const isLastOfSeveral = turn.querySelectorAll(".answer").length > 1;
  await htmx.ajax("GET", answer.dataset.answer, { target: answer, swap: "outerHTML" });
  streams.delete(answer.id); // not before: until the swap the page still holds an answer to follow
  const now = document.getElementById(answer.id);
  if (now?.dataset.stream) { // the stream ended, and the answer has not: look again
    setTimeout(() => follow(now), LOOK_AGAIN_MS);
    return;
  }
  if (isLastOfSeveral) offerComparison(turn);
  if (hadFocus) document.getElementById(answer.id)?.focus({ preventScroll: true });
  if (stick) toEnd();
  announce.textContent = words.ready;
}

// The question "which is better?" comes with the turn, once both answers are there.
async function offerComparison(turn) {
  if (turn.querySelector("[data-stream]")) return;
  const response = await fetch(location.pathname);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const form = page.querySelector(`#${CSS.escape(turn.id)} [data-which]`);
  if (!form || turn.querySelector("[data-which]")) return;
  turn.append(document.adoptNode(form));
  htmx.process(form);
  toEnd();
}

const isAtEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 80;
const toEnd = () => scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
const followAll = (root) => root.querySelectorAll("[data-stream]").forEach(follow);

// --- Writing ---------------------------------------------------------------------------------------
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (text.value.trim()) composer.requestSubmit();
});
composer.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.elt !== composer) return;
  if (event.detail.successful) {
    text.value = "";
    turns.querySelector("[data-empty]")?.remove();
    toEnd();
  }
  text.focus();
});

document.addEventListener("htmx:afterSettle", () => {
  followAll(turns);
  const editor = turns.querySelector("[data-editor] textarea");
  if (editor && !editor.dataset.met) {
    editor.dataset.met = "yes";
    editor.focus();
    editor.setSelectionRange(editor.value.length, editor.value.length);
  }
});
// What was swapped under the focus gets it back: the same button if it is still there, else its answer.
let focused = null;
document.addEventListener("htmx:beforeSwap", (event) => {
  const active = document.activeElement;
  const inside = event.detail.target.contains(active) ? active.closest(".answer, .turn") : null;
  focused = inside ? { id: active.id, within: inside.id } : null;
});
document.addEventListener("htmx:afterSwap", () => {
  if (!focused) return;
  const target = (focused.id && document.getElementById(focused.id)) || document.getElementById(focused.within);
  target?.focus({ preventScroll: true });
  focused = null;
});

turns.addEventListener("keydown", (event) => {
  const editor = event.target.closest("[data-editor]");
  if (!editor) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) editor.requestSubmit();
  if (event.key === "Escape") editor.querySelector("[data-act=cancel]").click();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !isTyping(event.target) || event.target.closest("[data-editor]")) return;
  current()?.focus();
});

// --- Keys ------------------------------------------------------------------------------------------
const answers = () => [...turns.querySelectorAll(".answer")];
const current = () => document.activeElement.closest(".answer") ?? answers().at(-1);
const press = (name) => {
  const button = current()?.querySelector(`[data-act="${name}"]`);
  button?.click();
  return Boolean(button);
};
function move(by) {
  const all = answers();
  const here = document.activeElement.closest(".answer");
  const next = here ? all[all.indexOf(here) + by] : all.at(-1);
  next?.focus();
}
function prefer(side) {
  const turn = document.activeElement.closest(".turn") ?? [...turns.querySelectorAll(".turn")].at(-1);
  const button = turn?.querySelector(`[data-vote="${side}"]`);
  button?.click();
  return Boolean(button);
}
function tick(event) {
  const chip = current()?.querySelectorAll("[data-reasons] input[type=checkbox]")[Number(event.key) - 1];
  if (chip) chip.closest("details").open = true;
  chip?.click();
  return Boolean(chip);
}

bind({
  "/": () => text.focus(),
  n: () => document.querySelector("[data-new]").click(),
  j: () => move(1), k: () => move(-1),
  "+": () => press("up"), "=": () => press("up"), "-": () => press("down"),
  e: () => press("edit"), r: () => press("again"), u: () => press("undo"),
  s: () => turns.querySelector('[data-act="stop"]')?.click(),
  ArrowLeft: () => prefer("left"), ArrowRight: () => prefer("right"),
});
for (let digit = 1; digit <= 9; digit++) bind({ [digit]: tick });

followAll(turns);
if (turns.querySelector(".turn")) toEnd();
