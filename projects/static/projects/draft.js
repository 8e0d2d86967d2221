// What somebody writes survives a reload, a lost session and a closed tab: keepDraft(field, key) brings back what
// was written under this key and keeps what is written now; forgetDraft(key) when it has arrived.

const PREFIX = "ratchet-draft:";
const KEEP_MS = 300;
const MOST_CHARS = 200_000;

export function keepDraft(field, key) {
  const name = typeof key === "function" ? key : () => key; // a key may change: a new conversation gets its id
  const kept = read(name());
  const given = field.value;
  if (kept && kept !== given) {
    field.value = kept;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  let timer = null;
  const keep = () => {
    clearTimeout(timer);
    timer = null;
    if (field.value.trim() && field.value !== given) write(name(), field.value);
    else forgetDraft(name());
  };
  field.addEventListener("input", () => { timer ??= setTimeout(() => field.isConnected && keep(), KEEP_MS); });
  field.addEventListener("blur", () => timer && keep());
  addEventListener("pagehide", () => timer && field.isConnected && keep());
}

export function forgetDraft(key) {
  try { localStorage.removeItem(PREFIX + key); } catch { /* a browser that keeps nothing has nothing to forget */ }
}

function read(key) {
  try { return localStorage.getItem(PREFIX + key); } catch { return null; }
}

function write(key, text) {
  if (text.length > MOST_CHARS) return;
  try { localStorage.setItem(PREFIX + key, text); } catch { /* full or forbidden: the field itself still has it */ }
}
