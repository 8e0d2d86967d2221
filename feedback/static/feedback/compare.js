// Compare. The next question is fetched while this one is read, so that a key shows it at once. Votes go out in
// the background, one after the other, and are kept until the server has them.

import { bind } from "../projects/keys.js";
import { refusal, toast } from "../projects/toast.js";

const place = document.getElementById("compare");
const unsent = document.getElementById("unsent");
const announce = document.getElementById("announce");
const words = document.getElementById("compare-words").dataset;
const STORE = `ratchet-votes:${location.pathname}`;
const RETRY_MS = [1000, 2000, 4000, 8000, 15000];

let outbox = JSON.parse(localStorage.getItem(STORE) ?? "[]");
let ahead = []; // forms fetched and not shown yet
let isWaiting = false; // the question on the page is answered, and no other is here yet
let isSending = false;
let undoNext = false; // asked for while votes were still going out
const answered = new Set(); // assignments voted on here; an answer that is late may bring one of them again

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

function show(form) {
  place.replaceChildren(document.adoptNode(form));
  for (const side of form.querySelectorAll(".is-chosen")) side.classList.remove("is-chosen");
  // It may have been fetched before there was anything to undo.
  if (answered.size) for (const button of form.querySelectorAll("[name=undo]")) button.disabled = false;
  isWaiting = false;
  shownAt = performance.now();
  hiddenMs = 0;
  scrollTo(0, 0);
  announce.textContent = isQuestion(form) ? words.next : words.nothing;
  noteAhead();
}

// A form from the server: shown when nothing is, else kept for the next key.
function take(form) {
  const here = shown();
  const known = [here, ...ahead].some((one) => one.dataset.assignment === form.dataset.assignment);
  if (isQuestion(form) && !known && !answered.has(form.dataset.assignment)) {
    if (isWaiting || !isQuestion(here)) show(form);
    else ahead.push(form);
  } else if (!isQuestion(form) && isWaiting && !outbox.length) show(form);
  noteAhead();
  const fresh = form.querySelector("[data-waiting]");
  const old = shown().querySelector("[data-waiting]");
  if (fresh && old) old.textContent = fresh.textContent;
}

// --- Votes -------------------------------------------------------------------------------------------
function vote(verdict) {
  const form = shown();
  if (isWaiting || !isQuestion(form)) return;
  const body = new URLSearchParams(new FormData(form));
  body.set("verdict", verdict);
  body.set("seconds", secondsSpent());
  answered.add(form.dataset.assignment);
  outbox.push({ url: form.action, body: body.toString() });
  if (ahead.length) {
    show(ahead.shift());
  } else {
    isWaiting = true;
    const chosen = { left: ["left"], right: ["right"], tie: ["left", "right"] }[verdict] ?? [];
    for (const side of chosen) place.querySelector(`[data-side="${side}"]`).classList.add("is-chosen");
  }
  send();
}

async function undo() {
  undoNext = isSending;
  if (isSending || !shown().querySelector("[name=undo]:not(:disabled)")) return;
  const token = new URLSearchParams(new FormData(shown())).toString();
  const outcome = await post({ url: place.dataset.undo, body: token });
  if (!outcome.form) return outcome.message ? undefined : toast(words.kept, { bad: true });
  if (isQuestion(shown()) && !isWaiting) ahead.unshift(shown());
  answered.delete(outcome.form.dataset.assignment);
  show(outcome.form);
}

async function send() {
  // Stored before it is sent: a closed tab or a lost network loses no vote, and its id makes a second sending harmless.
  localStorage.setItem(STORE, JSON.stringify(outbox));
  if (isSending) return;
  isSending = true;
  for (let attempt = 0; outbox.length; ) {
    const outcome = await post(outbox[0]);
    if (outcome.form || outcome.message) {
      attempt = 0;
      outbox.shift();
      localStorage.setItem(STORE, JSON.stringify(outbox));
      if (!unsent.hidden && !outbox.length) toast(words.sent);
      unsent.hidden = unsent.hidden || !outbox.length;
      if (outcome.form) take(outcome.form);
    } else {
      unsent.textContent = outcome.isSignedOut ? words.signedOut : words.kept;
      unsent.hidden = false;
      await rest(RETRY_MS[Math.min(attempt++, RETRY_MS.length - 1)]);
    }
  }
  isSending = false;
  localStorage.removeItem(STORE);
  if (undoNext) undo();
  else fetchAhead();
}

async function fetchAhead() {
  if (isSending || (ahead.length && !isWaiting) || (!isWaiting && !isQuestion(shown()))) return;
  const outcome = await ask(place.dataset.following, {});
  if (outcome.form) take(outcome.form);
}

// --- The server --------------------------------------------------------------------------------------
function post({ url, body }) {
  const fields = new URLSearchParams(body);
  // The token as it is now: after signing in again the one in a kept vote is old.
  const cookie = document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1];
  if (cookie) fields.set("csrfmiddlewaretoken", cookie);
  return ask(url, { method: "POST", body: fields });
}

// {form} when it was done, {message} when it was refused for good, {} when trying again makes sense.
async function ask(url, options) {
  const holding = [isWaiting ? null : shown(), ...ahead].map((form) => form?.dataset.assignment).filter(Boolean);
  try {
    const response = await fetch(url, {
      ...options, redirect: "manual", signal: AbortSignal.timeout(20000),
      headers: { "X-Partial": "compare", "X-Holding": holding.join(",") },
    });
    if (response.type === "opaqueredirect" || response.status === 403) return { isSignedOut: true };
    if (response.ok) return { form: parse(await response.text()) };
    if ([429, 502, 503, 504].includes(response.status)) return {};
    const message = refusal(response);
    toast(message, { bad: true });
    return { message };
  } catch {
    return {}; // no network, or no answer in time
  }
}

// Until the network is back, or some time has passed.
const rest = (ms) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  addEventListener("online", () => { clearTimeout(timer); resolve(); }, { once: true });
});

// --- Buttons and keys --------------------------------------------------------------------------------
place.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.submitter?.name === "undo") undo();
  else if (event.submitter?.name === "verdict") vote(event.submitter.value);
});

bind({
  1: () => vote("left"), ArrowLeft: () => vote("left"),
  2: () => vote("right"), ArrowRight: () => vote("right"),
  0: () => vote("tie"), t: () => vote("tie"),
  b: () => vote("both_bad"), s: () => vote("skip"), u: undo,
});

if (outbox.length) send();
else fetchAhead();
