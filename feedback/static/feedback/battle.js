// Blind battle: two streams as plain text, and a vote by key. A vote is stored before it is sent, and shown at once; all
// else on the page comes from the server.

import { forgetDraft, keepDraft } from "../projects/draft.js";
import { bind } from "../projects/keys.js";
import { deliver, Outbox } from "../projects/outbox.js";
import { ask, csrfToken } from "../projects/session.js";
import { refusal, toast } from "../projects/toast.js";
import { follow } from "./follow.js";

const place = document.getElementById("battle");
const text = document.getElementById("text");
const words = document.getElementById("battle-words").dataset;
const announce = document.getElementById("announce");
const LOOK_AGAIN_MS = 2000;
const DRAFT = `battle-${location.pathname}`;
const streams = new Map(); // name of the side -> what follows it

// --- Streams: whoever connects gets the whole answer so far, so a reload takes them up again -----------
const sides = () => [...place.querySelectorAll("[data-stream]")];
const here = (name, part) => place.querySelector(`[data-side="${name}"] ${part}`);

function begin(side) {
  const name = side.dataset.side;
  const written = here(name, "[data-text]");
  const one = follow({
    url: side.dataset.stream,
    look: location.pathname,
    place: written,
    say: (sentence) => { here(name, "[data-state]").textContent = sentence; },
    words,
    onEnd: () => {
      streams.delete(name);
      delete place.querySelector(`[data-side="${name}"]`).dataset.stream;
      written.classList.remove("caret");
      if (!sides().length) refresh();
    },
  });
  streams.set(name, { ...one, written });
}

async function refresh() {
  const response = await ask(location.pathname).catch(() => null);
  const isVoting = place.querySelector("#verdict [aria-busy]"); // its answer shows everything
  if (response?.ok && !isVoting) show(await response.text());
  if (!place.querySelector("[data-text]")) announce.textContent = words.ready;
  else if (!streams.size) setTimeout(refresh, LOOK_AGAIN_MS); // the server is away: look again
}

// After a vote the page comes anew, while answers may still be written: what is there of them moves over as it is.
function followAll() {
  for (const side of sides()) {
    const known = streams.get(side.dataset.side);
    if (known) here(side.dataset.side, "[data-text]").replaceWith(known.written);
    else begin(side);
  }
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

if (text) {
  keepDraft(text, DRAFT);
  text.form.addEventListener("submit", () => forgetDraft(DRAFT)); // a refusal brings the text back
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (text.value.trim()) text.form.requestSubmit();
  });
}

// --- Votes, and taking them back ------------------------------------------------------------------------
place?.addEventListener("submit", (event) => {
  const form = event.target, verdict = event.submitter?.value ?? "";
  if (!form.matches("[data-say]")) return;
  event.preventDefault();
  if (form.getAttribute("aria-busy")) return; // it is on its way
  form.setAttribute("aria-busy", "true");
  for (const button of form.querySelectorAll("button")) button.setAttribute("aria-pressed", button === event.submitter);
  for (const side of place.querySelectorAll("[data-side]")) {
    side.classList.toggle("is-chosen", [side.dataset.side, "tie"].includes(verdict));
  }
  outbox.put({ url: form.action, body: new URLSearchParams(verdict ? { verdict } : {}).toString(), battle: location.pathname });
});

async function post({ url, body, battle }) {
  const headers = { "X-CSRFToken": csrfToken() };
  const { response, text: html, isSignedOut } = await deliver(url, { method: "POST", body: new URLSearchParams(body), headers });
  if (!response) return { isSignedOut };
  if (!response.ok) toast(refusal(response), { bad: true });
  if (battle !== location.pathname) return { done: true };
  if (response.ok) show(html);
  else {
    place.querySelector("#verdict [aria-busy]")?.removeAttribute("aria-busy");
    await refresh();
  }
  return { done: true };
}

// Whoever had the focus on a button gets it back: on the same one, else on what comes next.
function show(html) {
  const pressed = place.contains(document.activeElement) ? document.activeElement : null;
  place.innerHTML = html;
  const [same, next, first] = [`#verdict [value="${pressed?.value}"]`, "[data-new]", "#verdict button"];
  if (pressed) [same, next, first].map((one) => place.querySelector(one)).find(Boolean)?.focus({ preventScroll: true });
  followAll();
}

if (place) followAll();
const outbox = new Outbox(`battle:${words.home}`, { post, unsent: document.getElementById("unsent") });
