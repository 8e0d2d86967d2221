// Compare: a vote is shown at once, sent once, kept when the network is lost, and followed by the next question.

import { bind } from "../projects/keys.js";
import { refusal, toast } from "../projects/toast.js";

const place = document.getElementById("compare");
const unsent = document.getElementById("unsent");
const announce = document.getElementById("announce");
const words = document.getElementById("compare-words").dataset;
const STORE = `ratchet-vote:${location.pathname}`;
const RETRY_MS = [1000, 2000, 4000, 8000, 15000];

let shownAt = performance.now();
let hiddenMs = 0;
let hiddenSince = null;
let sending = false;

document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenSince = performance.now();
  else if (hiddenSince !== null) {
    hiddenMs += performance.now() - hiddenSince;
    hiddenSince = null;
  }
});

const form = () => place.querySelector("form");

function show(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  place.replaceChildren(...page.body.childNodes);
  shownAt = performance.now();
  hiddenMs = 0;
  scrollTo(0, 0);
  announce.textContent = form().hasAttribute("data-nothing") ? words.nothing : words.next;
}

function vote(verdict) {
  const current = form();
  if (sending || !current || current.hasAttribute("data-nothing")) return;
  const body = new URLSearchParams(new FormData(current));
  body.set("verdict", verdict);
  body.set("seconds", ((performance.now() - shownAt - hiddenMs) / 1000).toFixed(2));
  const chosen = { left: ["left"], right: ["right"], tie: ["left", "right"] }[verdict] ?? [];
  for (const side of chosen) place.querySelector(`[data-side="${side}"]`).classList.add("is-chosen");
  send({ url: current.action, body: body.toString() });
}

function undo() {
  const current = form();
  if (sending || !current.querySelector("[name=undo]:not(:disabled)")) return;
  send({ url: current.dataset.undo, body: new URLSearchParams(new FormData(current)).toString() });
}

async function send(post) {
  sending = true;
  // Kept before it is sent: a closed tab or a lost network loses no vote. Its id makes a second sending harmless.
  localStorage.setItem(STORE, JSON.stringify(post));
  for (let attempt = 0; ; attempt++) {
    const outcome = await deliver(post);
    if (outcome.done) {
      localStorage.removeItem(STORE);
      if (!unsent.hidden) toast(words.sent);
      unsent.hidden = true;
      sending = false;
      if (outcome.html) show(outcome.html);
      return;
    }
    unsent.textContent = outcome.signedOut ? words.signedOut : words.kept;
    unsent.hidden = false;
    await rest(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]);
  }
}

async function deliver(post) {
  const body = new URLSearchParams(post.body);
  // The token of the page as it is now: after signing in again the one in the kept vote is old.
  const cookie = document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1];
  if (cookie) body.set("csrfmiddlewaretoken", cookie);
  try {
    const response = await fetch(post.url, {
      method: "POST", body, redirect: "manual", headers: { "X-Partial": "compare" }, signal: AbortSignal.timeout(20000),
    });
    if (response.type === "opaqueredirect" || response.status === 403) return { signedOut: true };
    if (response.ok) return { done: true, html: await response.text() };
    if (response.status >= 500 || response.status === 429) return {};
    toast(refusal(response), { bad: true });
    return { done: true, html: await next() };
  } catch {
    return {}; // no network, or no answer in time
  }
}

async function next() {
  const response = await fetch(location.pathname, { headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  return page.getElementById("compare")?.innerHTML ?? "";
}

// Until the network is back, or some time has passed.
const rest = (ms) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  addEventListener("online", () => { clearTimeout(timer); resolve(); }, { once: true });
});

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

const kept = localStorage.getItem(STORE);
if (kept) send(JSON.parse(kept));
