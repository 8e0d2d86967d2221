// Short messages in the live region. Refusals stay until they are closed; the rest goes after a while, those that
// offer to undo something after a longer one, and none while it has the focus or the pointer.

const STAYS_MS = 7000;
const OFFER_STAYS_MS = 15000;
const words = document.getElementById("words").dataset;

// `action` is { label, run }: a button, such as undo. `run` is called once.
export function toast(text, { bad = false, action = null } = {}) {
  const element = document.getElementById("toast-template").content.firstElementChild.cloneNode(true);
  element.firstElementChild.textContent = text;
  element.classList.toggle("is-bad", bad);
  if (action) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = action.label;
    button.dataset.action = "";
    button.addEventListener("click", () => { element.remove(); action.run(); }, { once: true });
    element.firstElementChild.after(button);
  }
  document.getElementById("toasts").append(element);
  settle(element, action ? OFFER_STAYS_MS : STAYS_MS);
  return element;
}

function settle(element, ms = STAYS_MS) {
  element.querySelector("[data-close-toast]")?.addEventListener("click", () => element.remove());
  if (element.classList.contains("is-bad")) return;
  setTimeout(function leave() {
    if (element.matches(":hover, :focus-within")) setTimeout(leave, 1000);
    else element.remove();
  }, ms);
}

// What a refused answer says: our error page carries its sentence in a header, so no page is parsed.
export function refusal(response) {
  const sentence = response?.headers?.get?.("X-Ratchet-Message");
  return sentence ? decodeURIComponent(sentence) : words.failed;
}

export const offline = () => words.offline;

for (const element of document.querySelectorAll("#toasts .toast")) settle(element);
