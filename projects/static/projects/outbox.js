// What somebody said is stored before it is sent, and forgotten when the server has it or has refused it: a closed tab,
// a lost network or an ended session loses nothing. Each entry has an id that the server knows again, so sending
// twice is harmless; each has a key of its own, so two tabs do not overwrite each other; and one tab sends at a time.
//
//   const outbox = new Outbox("work:/p/kitchen/", { post, unsent });
//   outbox.put({ url, body })     body: a query string with the entry's `id` in it
//
// post(entry) -> { done } when it arrived or was refused for good, { isSignedOut } or {} when it should be tried again.
// unsent: the element that says what has to wait and why (feedback/_unsent.html); a toast says when that has arrived.

import { uuid7 } from "./ids.js";
import { ask } from "./session.js";
import { toast } from "./toast.js";

const RETRY_MS = [1000, 2000, 4000, 8000, 15000];
const MOST_MS = 20000;
const AGAIN = [429, 502, 503, 504];

// For post(): { response, text } of what arrived or was refused for good, else { isSignedOut }, or {} to try it again.
export async function deliver(url, options) {
  try {
    const response = await ask(url, { ...options, redirect: "manual", signal: AbortSignal.timeout(MOST_MS) });
    if (response.type === "opaqueredirect" || [401, 403].includes(response.status)) return { isSignedOut: true };
    if (AGAIN.includes(response.status)) return {};
    return { response, text: response.ok ? await response.text() : "" };
  } catch {
    return {}; // no network, or no whole answer in time
  }
}

export class Outbox {
  constructor(name, { post, unsent }) {
    Object.assign(this, { prefix: `ratchet-outbox:${name}:`, post, unsent, isSending: false, hasWaited: false });
    this.memory = new Map(); // for a browser that keeps nothing
    if (this.keys().length) this.send();
  }

  get isEmpty() {
    return this.keys().length === 0;
  }

  keys() {
    const stored = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix));
    return [...new Set([...stored, ...this.memory.keys()])].sort();
  }

  put(entry) {
    // The clock first, so that they go out in the order in which they were said.
    const key = `${this.prefix}${String(Date.now()).padStart(15, "0")}:${uuid7()}`;
    this.memory.set(key, entry);
    try { localStorage.setItem(key, JSON.stringify(entry)); } catch { /* full or forbidden: this tab still has it */ }
    return this.send();
  }

  take(key) {
    return this.memory.get(key) ?? JSON.parse(localStorage.getItem(key) ?? "null");
  }

  forget(key) {
    this.memory.delete(key);
    try { localStorage.removeItem(key); } catch { /* nothing was kept */ }
  }

  // One sender among all tabs of this page.
  async send() {
    if (this.isSending) return;
    this.isSending = true;
    const work = () => this.empty();
    try {
      if (navigator.locks) await navigator.locks.request(this.prefix, work);
      else await work();
    } finally {
      this.isSending = false;
    }
    if (!this.isEmpty) this.send(); // said just now
  }

  async empty() {
    for (let attempt = 0, keys; (keys = this.keys()).length; ) {
      const entry = this.take(keys[0]); // null: another tab has just sent it
      const outcome = entry ? await this.post(entry) : { done: true };
      if (outcome.done) {
        attempt = 0;
        this.forget(keys[0]);
        continue;
      }
      this.hasWaited = true;
      this.unsent.textContent = outcome.isSignedOut ? this.unsent.dataset.signedOut : this.unsent.dataset.kept;
      this.unsent.hidden = false;
      await rest(RETRY_MS[Math.min(attempt++, RETRY_MS.length - 1)]);
    }
    if (this.hasWaited) toast(this.unsent.dataset.sent);
    this.unsent.hidden = true;
    this.hasWaited = false;
  }
}

// Until the network is back, somebody is signed in again, or some time has passed.
const rest = (ms) => new Promise((resolve) => {
  const wake = () => { clearTimeout(timer); resolve(); };
  const timer = setTimeout(wake, ms);
  addEventListener("online", wake, { once: true });
  document.addEventListener("signed-in", wake, { once: true });
});
