// Chat: streams answers as plain text, and lets everything be done by keys.

import { copyText } from "../projects/copy.js";
import { followDiff, showDiff } from "../projects/diff.js";
import { forgetDraft, keepDraft } from "../projects/draft.js";
import { bind, isTyping } from "../projects/keys.js";
import { toast } from "../projects/toast.js";
import { follow } from "./follow.js";
import "./history.js";
import { keepSaid } from "./said.js";

const turns = document.getElementById("turns");
const composer = document.getElementById("composer");
const text = document.getElementById("text");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const toEndButton = document.getElementById("to-end");
const announce = document.getElementById("announce");
const words = document.getElementById("chat-words").dataset;
const LOOK_AGAIN_MS = 2000;
const streams = new Map(); // answer id -> what follows it
const said = keepSaid(turns, words, document.getElementById("unsent"));
const isNarrow = matchMedia("(max-width: 48rem)");

// --- Scrolling: the end is followed only while somebody is there --------------------------------------
let isAtEnd = true;
const NEAR_PX = 80;
let lastY = 0;
function noteScroll() {
  const left = document.documentElement.scrollHeight - innerHeight - scrollY;
  // On the way up nothing is near enough: the first step of a smooth scroll is a small one.
  isAtEnd = left < (scrollY < lastY ? 2 : NEAR_PX);
  lastY = scrollY;
  toEndButton.hidden = isAtEnd;
}
function toEnd() {
  scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  isAtEnd = true;
}
const stick = () => { if (isAtEnd) toEnd(); else toEndButton.hidden = false; };
addEventListener("scroll", noteScroll, { passive: true });
addEventListener("resize", stick, { passive: true });
// At once, and not with the scroll event of the next frame, which our own scrolling would come before.
addEventListener("wheel", (event) => { if (event.deltaY < 0) isAtEnd = false; }, { passive: true });
addEventListener("keydown", (event) => {
  if (["PageUp", "Home", "ArrowUp"].includes(event.key) && !isTyping(event.target)) isAtEnd = false;
});
toEndButton.addEventListener("click", () => { toEnd(); text.focus(); });

// --- Streams ------------------------------------------------------------------------------------------
function begin(answer) {
  if (streams.has(answer.id)) return;
  const state = answer.querySelector("[data-state]");
  streams.set(answer.id, follow({
    url: answer.dataset.stream,
    look: answer.dataset.answer,
    place: answer.querySelector("[data-text]"),
    say: (sentence) => { state.textContent = sentence; },
    words,
    onText: stick,
    onEnd: () => finish(answer),
  }));
  noteAnswering();
}

async function finish(answer) {
  const hadFocus = answer.contains(document.activeElement);
  const turn = answer.closest(".turn");
  // With a sibling beside it the whole turn comes anew: "which is better?" belongs to it.
  const whole = turn.querySelectorAll(".answer").length > 1;
  const [url, target] = whole ? [turn.dataset.turn, turn] : [answer.dataset.answer, answer];
  await htmx.ajax("GET", url, { target, swap: "outerHTML" }).catch(() => {});
  streams.delete(answer.id); // not before: until the swap the page still holds an answer to follow
  noteAnswering();
  const now = document.getElementById(answer.id);
  if (now?.dataset.stream) { // the stream ended, and the answer has not, or the server is away: look again
    setTimeout(() => now.isConnected && begin(now), LOOK_AGAIN_MS);
    return;
  }
  if (hadFocus) now?.focus({ preventScroll: true });
  stick();
  announce.textContent = words.ready;
}

const running = () => [...turns.querySelectorAll("[data-stream]")];
function noteAnswering() {
  const isAnswering = running().length > 0;
  const hadFocus = document.activeElement === stop;
  stop.hidden = !isAnswering;
  send.hidden = isAnswering;
  if (hadFocus && !isAnswering) text.focus();
}
function stopAll() {
  const all = running();
  for (const answer of all) htmx.ajax("POST", answer.dataset.stop, { source: answer, swap: "none" });
  return all.length > 0;
}
// Refused: no process that we reach is making it any more. Nobody waits for it from now on.
turns.addEventListener("htmx:afterRequest", (event) => {
  const { elt: answer, xhr, pathInfo } = event.detail;
  if (!answer.dataset.stop || pathInfo?.requestPath !== answer.dataset.stop || ![404, 409].includes(xhr.status)) return;
  streams.get(answer.id)?.close();
  delete answer.dataset.stream;
  answer.querySelector("[data-text]").classList.remove("caret");
  noteAnswering();
});
stop.addEventListener("click", stopAll);

// --- Writing ------------------------------------------------------------------------------------------
const draftKey = () => `chat-${document.getElementById("conversation").value || location.pathname}`;
keepDraft(text, draftKey);

text.addEventListener("keydown", (event) => {
  if (event.key === "ArrowUp" && !text.value && press("edit-question", lastTurn())) event.preventDefault();
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  if (isNarrow.matches && matchMedia("(pointer: coarse)").matches) return; // a phone's Enter is a new line
  event.preventDefault();
  if (text.value.trim()) composer.requestSubmit();
});

// The answer that a question follows: of the last turn with one, the preferred, else the last on the page.
function followed() {
  const turn = [...turns.querySelectorAll(".turn")].findLast((one) => one.querySelector("[data-follow]"));
  const all = [...(turn?.querySelectorAll("[data-follow]") ?? [])];
  const isLeft = turn?.querySelector('[data-vote="left"][aria-pressed="true"]');
  return (isLeft ? all[0] : all.at(-1)) ?? null;
}
composer.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.elt !== composer || !running().length) return;
  event.preventDefault();
  toast(words.busy);
});
composer.addEventListener("htmx:configRequest", (event) => {
  if (event.detail.elt === composer) event.detail.parameters.after = followed()?.dataset.follow ?? "";
});
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.requestConfig.elt !== composer || !event.detail.shouldSwap) return;
  forgetDraft(draftKey());
  text.value = "";
  turns.querySelector("[data-empty]")?.remove();
  // What had no answer stays as a branch beside the new question.
  const last = followed()?.closest(".turn");
  for (const turn of [...turns.querySelectorAll(".turn")].filter((one) => !last || isAfter(one, last))) turn.remove();
});
composer.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.elt !== composer) return;
  if (event.detail.successful) {
    document.getElementById("here").value = document.getElementById("conversation").value;
    toEnd();
  }
  text.focus();
});
const isAfter = (one, other) =>
  Boolean(other.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING);

document.addEventListener("conversation-closed", () => {
  for (const one of streams.values()) one.close();
  streams.clear();
  turns.replaceChildren(document.getElementById("chat-empty").content.cloneNode(true));
  for (const id of ["conversation", "here"]) document.getElementById(id).value = "";
  history.pushState(null, "", words.home);
  noteAnswering();
});
addEventListener("popstate", () => location.reload());

// Whether raters may see it: what the box says is what the server has.
document.getElementById("opted-out").addEventListener("htmx:afterRequest", (event) => {
  const { elt: box, successful } = event.detail;
  if (!successful) box.checked = !box.checked;
  else toast(box.checked ? words.keptFrom : words.shownTo);
});

// --- Turns: what comes anew, and what goes with it ---------------------------------------------------
let focused = null;
document.addEventListener("htmx:beforeSwap", (event) => {
  const { target, shouldSwap, requestConfig } = event.detail;
  if (!shouldSwap || !turns.contains(target)) return;
  const draft = requestConfig.elt.querySelector?.("[data-draft]");
  if (draft && requestConfig.verb === "post") forgetDraft(draft.dataset.draft);
  if (requestConfig.elt.dataset.act === "cancel") {
    forgetDraft(requestConfig.elt.closest("[data-editor]").querySelector("[data-draft]").dataset.draft);
  }
  // Another branch: what followed the old one goes.
  if (requestConfig.elt.matches("[data-rest]")) while (target.nextElementSibling) target.nextElementSibling.remove();
  // What is swapped under the focus gets it back: the same button if it is still there, else its answer or turn.
  const active = document.activeElement;
  const within = target.contains(active) ? active.closest(".answer, .turn") : null;
  const index = [...turns.children].indexOf(target.closest(".turn"));
  focused = within ? { id: active.id, act: active.dataset.act, within: within.id, index } : null;
});
document.addEventListener("htmx:afterSwap", () => {
  if (!focused) return;
  const { id, act, within, index } = focused;
  const place = document.getElementById(within) ?? turns.children[index];
  const same = (id && document.getElementById(id)) || (act && place?.querySelector(`[data-act="${act}"]:enabled`));
  (same || place?.querySelector(".answer") || place)?.focus({ preventScroll: true });
  focused = null;
});
document.addEventListener("htmx:afterSettle", () => meet(turns));

// Everything that is new on the page: answers to follow, editors with their drafts and what they change.
function meet(root) {
  root.querySelectorAll("[data-stream]").forEach(begin);
  for (const field of root.querySelectorAll("[data-draft]:not([data-met])")) {
    field.dataset.met = "yes";
    const editor = field.closest("[data-editor]");
    const diff = editor.querySelector("[data-diff]");
    const told = editor.querySelector("[data-changed]");
    keepDraft(field, field.dataset.draft);
    if (diff) {
      const before = editor.querySelector("[data-source]").content.textContent.trim();
      followDiff(field, diff, before, ({ gone, new: fresh }) => {
        diff.hidden = !gone && !fresh;
        told.textContent = diff.hidden ? words.unchanged
          : words.changed.replace("{gone}", gone).replace("{new}", fresh);
      });
    }
    field.focus({ preventScroll: true });
    field.setSelectionRange(field.value.length, field.value.length);
    editor.scrollIntoView({ block: "nearest" });
  }
}
turns.addEventListener("toggle", (event) => {
  if (!event.target.matches("[data-changes]") || !event.target.open) return;
  const before = event.target.closest(".answer").querySelector("[data-source]").content.textContent;
  showDiff(event.target.querySelector(".diff"), before, event.target.querySelector("template").content.textContent);
}, true);

turns.addEventListener("click", async (event) => {
  if (!event.target.closest("[data-act=copy]")) return;
  const source = event.target.closest(".answer").querySelector("[data-source]").content.textContent;
  if (await copyText(source)) toast(words.copied);
});
turns.addEventListener("keydown", (event) => {
  const editor = event.target.closest("[data-editor]");
  if (!editor) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) editor.requestSubmit();
  if (event.key === "Escape") editor.querySelector("[data-act=cancel]").click();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !isTyping(event.target) || event.target.closest("[data-editor], .sidebar")) return;
  const answer = current();
  if (answer) answer.focus({ preventScroll: isAtEnd }); else event.target.blur();
});

// --- Keys ---------------------------------------------------------------------------------------------
const answers = () => [...turns.querySelectorAll(".answer")];
const current = () => document.activeElement.closest(".answer") ?? currentTurn()?.querySelector(".answer:last-of-type");
const lastTurn = () => [...turns.querySelectorAll(".turn")].at(-1);
const currentTurn = () => document.activeElement.closest(".turn") ?? lastTurn();
function press(name, place = current()) {
  const button = place?.querySelector(`[data-act="${name}"]:enabled`);
  button?.click();
  return Boolean(button);
}
function move(by) {
  const all = answers();
  const here = document.activeElement.closest(".answer");
  const next = here ? all[all.indexOf(here) + by] : all.at(-1);
  next?.focus();
}
function prefer(side) {
  const button = currentTurn()?.querySelector(`[data-vote="${side}"]`);
  button?.click();
  return Boolean(button);
}
function tick(event) {
  const answer = current();
  if (answer && said.later(answer, () => tick(event))) return true; // its reasons are not here yet
  const chip = answer?.querySelectorAll("[data-reasons] input[type=checkbox]")[Number(event.key) - 1];
  if (chip) chip.closest("details").open = true;
  chip?.click();
  return Boolean(chip);
}

bind({
  "/": () => text.focus(),
  n: () => document.querySelector("[data-new]").click(),
  j: () => move(1), k: () => move(-1),
  "+": () => press("up"), "=": () => press("up"), "-": () => press("down"),
  e: () => press("edit"), r: () => press("again"), u: () => press("undo"), c: () => press("copy"),
  q: () => press("edit-question", currentTurn()),
  "[": () => press("answer-before", currentTurn()), "]": () => press("answer-after", currentTurn()),
  "{": () => press("question-before", currentTurn()), "}": () => press("question-after", currentTurn()),
  s: stopAll,
  ArrowLeft: () => prefer("left"), ArrowRight: () => prefer("right"), t: () => prefer("tie"), b: () => prefer("both_bad"),
});
for (let digit = 1; digit <= 9; digit++) bind({ [digit]: tick });

meet(turns);
if (lastTurn()) {
  toEnd();
  requestAnimationFrame(toEnd); // turns that were not drawn yet had guessed heights
}
