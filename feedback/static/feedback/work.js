// Work. The next question is fetched while this one is read, so that a key shows it at once. Answers go out in the
// background, one after the other, and are kept until the server has them.

import { bind, isTyping } from "../projects/keys.js";
import { deliver, Outbox } from "../projects/outbox.js";
import { ask as fetchAs, csrfToken } from "../projects/session.js";
import { refusal, toast } from "../projects/toast.js";
import { answerer } from "./answers.js";

const place = document.getElementById("work");
const unsent = document.getElementById("unsent");
const announce = document.getElementById("announce");
const words = document.getElementById("work-words").dataset;
const DRAFT_MS = 800;
const RENEW_MS = 4 * 60_000; // a place is held for 15 minutes

let ahead = []; // forms fetched and not shown yet
let isWaiting = false; // the question on the page is answered, and no other is here yet
let desk = null; // the answerer of the form on the page
const answered = new Set(); // assignments answered here; a response that is late may bring one of them again

// --- What is on the page -----------------------------------------------------------------------------
const shown = () => place.querySelector("form");
const isQuestion = (form) => Boolean(form?.dataset.assignment);
const parse = (html) => new DOMParser().parseFromString(html, "text/html").querySelector("form");

let shownAt = performance.now();
let hiddenMs = 0;
let hiddenSince = null;
document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenSince = performance.now();
  else if (hiddenSince !== null) {
    hiddenMs += performance.now() - hiddenSince;
    hiddenSince = null;
  }
});
const secondsSpent = () => ((performance.now() - shownAt - hiddenMs) / 1000).toFixed(2);

function noteAhead() {
  place.dataset.ahead = ahead.length;
}

function lay(form) {
  desk = isQuestion(form) ? answerer(form, words, send) : null;
  if (desk && form.dataset.draft) desk.fill(JSON.parse(form.dataset.draft));
  desk?.mark();
}

function show(form) {
  const hadFocus = place.contains(document.activeElement);
  place.replaceChildren(document.adoptNode(form));
  if (hadFocus) (form.querySelector(".question") ?? document.getElementById("main")).focus({ preventScroll: true });
  for (const side of form.querySelectorAll(".is-chosen")) side.classList.remove("is-chosen");
  // It may have been fetched before there was anything to undo.
  if (answered.size) for (const button of form.querySelectorAll("[name=undo]")) button.disabled = false;
  isWaiting = false;
  shownAt = performance.now();
  hiddenMs = 0;
  scrollTo(0, 0);
  lay(form);
  announce.textContent = isQuestion(form) ? words.next : words.nothing;
  noteAhead();
}

// A form from the server: shown when nothing is, else kept for the next key. `unsent`: answers that the server
// did not have when it said so; that nothing is left is believed only without any.
function take(form, unsent = outbox.keys().length) {
  const here = shown();
  const known = [here, ...ahead].some((one) => one.dataset.assignment === form.dataset.assignment);
  if (isQuestion(form) && !known && !answered.has(form.dataset.assignment)) {
    if (isWaiting || !isQuestion(here)) show(form);
    else ahead.push(form);
  } else if (!isQuestion(form) && isWaiting && !unsent) show(form);
  noteAhead();
  for (const count of ["[data-waiting]", "[data-today]"]) {
    const fresh = form.querySelector(count), old = shown().querySelector(count);
    if (fresh && old) old.textContent = fresh.textContent;
    if (fresh && old && count === "[data-today]") old.hidden = fresh.hidden;
  }
}

// --- Answers -----------------------------------------------------------------------------------------
// `verdict` marks what was chosen, where the next question is not here yet.
function send(answer, verdict = "") {
  const form = shown();
  if (isWaiting || !isQuestion(form)) return;
  if (typeof answer === "string") return void toast(answer, { bad: true });
  leave(form, verdict, form.action, { answer: JSON.stringify(answer), seconds: secondsSpent() });
}

function skip(reason) {
  const form = shown();
  if (!isWaiting && isQuestion(form)) leave(form, "", form.dataset.skip, { reason });
}

// "answer:reason": the answer is flagged, and the question goes to others.
function flag(value) {
  const form = shown();
  if (!isWaiting && isQuestion(form)) leave(form, "", form.dataset.flag, { flag: value });
}

function leave(form, verdict, url, fields) {
  clearTimeout(draftTimer);
  draftTimer = null;
  const body = new URLSearchParams({ id: form.elements.id.value, ...fields });
  answered.add(form.dataset.assignment);
  if (ahead.length) {
    show(ahead.shift());
  } else {
    isWaiting = true;
    const chosen = { left: ["left"], right: ["right"], tie: ["left", "right"] }[verdict] ?? [];
    for (const side of chosen) place.querySelector(`[data-side="${side}"]`).classList.add("is-chosen");
  }
  outbox.put({ url, body: body.toString() }).then(fetchAhead);
}

// An answer that was refused for what it says: its question is as it was where it is still on the page, and may come
// again where it is not. What others answered meanwhile (409) is not asked again.
function reopen(url) {
  for (const assignment of answered) if (url.includes(assignment)) answered.delete(assignment);
  if (isWaiting && url.includes(shown().dataset.assignment)) isWaiting = false;
}

async function undo() {
  if (!shown().querySelector("[name=undo]:not(:disabled)")) return;
  while (outbox.isSending && navigator.onLine) await new Promise((resolve) => setTimeout(resolve, 20));
  const outcome = await post({ url: place.dataset.undo, body: "" });
  if (!outcome.form) return outcome.done ? undefined : toast(unsent.dataset.kept, { bad: true });
  if (isQuestion(shown()) && !isWaiting) ahead.unshift(shown());
  answered.delete(outcome.form.dataset.assignment);
  ahead = ahead.filter((form) => form.dataset.assignment !== outcome.form.dataset.assignment);
  show(outcome.form);
}

async function fetchAhead() {
  if (outbox.isSending || (ahead.length && !isWaiting) || (!isWaiting && !isQuestion(shown()))) return;
  const outcome = await ask(place.dataset.following, {});
  if (outcome.form) take(outcome.form);
}

// --- Drafts, and the place that is held --------------------------------------------------------------
let draftTimer = null;
place.addEventListener("input", keepSoon);
place.addEventListener("change", keepSoon);

function keepSoon() {
  clearTimeout(draftTimer);
  const form = shown(), of = desk;
  if (of) draftTimer = setTimeout(keep, DRAFT_MS, form, of);
}

function keep(form, of, options = {}) {
  draftTimer = null;
  const draft = of.draft();
  if (draft && form === shown()) quietly(form.dataset.keep, { draft: JSON.stringify(draft) }, options);
}

// Who leaves in mid-word finds it again: the request outlives the page.
addEventListener("pagehide", () => {
  if (draftTimer && desk && !isWaiting) keep(shown(), desk, { keepalive: true });
});

setInterval(() => {
  if (!document.hidden && !isWaiting && isQuestion(shown())) quietly(shown().dataset.renew, {});
}, RENEW_MS);

// What is typed stays on the page whatever comes of this; a place that was lost is said once.
let isLostSaid = "";
async function quietly(url, fields, options) {
  try {
    const response = await fetchAs(url, { method: "POST", body: signed(fields), ...options });
    if (response.status === 409 && isLostSaid !== url) {
      isLostSaid = url;
      toast(refusal(response), { bad: true });
    }
  } catch { /* no network: the next one keeps it */ }
}

// --- The server --------------------------------------------------------------------------------------
function signed(fields) {
  const body = new URLSearchParams(fields);
  body.set("csrfmiddlewaretoken", csrfToken() || document.querySelector("[name=csrfmiddlewaretoken]").value);
  return body;
}

async function post({ url, body }) {
  const outcome = await ask(url, { method: "POST", body: signed(body) });
  if (outcome.form && url !== place.dataset.undo) take(outcome.form, outbox.keys().length - 1);
  return outcome;
}

// {done, form} when it was done, {done} when it was refused for good, {} when trying again makes sense.
async function ask(url, options) {
  const holding = [isWaiting ? null : shown(), ...ahead].map((form) => form?.dataset.assignment).filter(Boolean);
  const headers = { "X-Partial": "work", "X-Holding": holding.join(",") };
  const { response, text, isSignedOut } = await deliver(url, { ...options, headers });
  if (!response) return { isSignedOut };
  if (response.ok) return { done: true, form: parse(text) };
  toast(refusal(response), { bad: true });
  if (response.status === 422) reopen(url);
  return { done: true };
}

const outbox = new Outbox(`work:${location.pathname}`, { post, unsent });

// --- Buttons and keys --------------------------------------------------------------------------------
place.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.submitter?.name === "undo") undo();
  else if (event.submitter?.name === "verdict") desk?.vote(event.submitter.value);
});
place.addEventListener("click", (event) => {
  const button = event.target.closest("[data-answer], [data-skip-for], [data-flag-as]");
  if (!button) return;
  if ("skipFor" in button.dataset) skip(button.dataset.skipFor);
  else if ("flagAs" in button.dataset) flag(button.dataset.flagAs);
  else if (button.dataset.answer === "all_bad") desk.allBad();
  else if (button.dataset.answer === "fine") desk.fine();
  else send(desk.answer());
});

const own = (key) => () => (desk?.keys[key] ? desk.keys[key]() : false);
const keys = {};
for (const key of [..."0123456789abdefhijklmnopqrtvwxyz", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]) keys[key] = own(key);
bind({
  ...keys,
  s: () => skip(""),
  u: () => { undo(); },
  c: () => {
    const more = shown().querySelector("details.more");
    if (!more) return false;
    more.open = true;
    return more.querySelector("textarea").focus();
  },
  // A focused button or summary is pressed by Enter itself.
  Enter: (event) => {
    if (event.target.closest("button, a, summary") || !desk || shown().dataset.asks === "pair") return false;
    return send(desk.answer());
  },
});
place.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !isTyping(event.target)) return;
  event.preventDefault();
  if (desk && shown().dataset.asks !== "pair") send(desk.answer());
});

lay(shown());
fetchAhead();
