// Short messages in the live region. Refusals stay until they are closed; the rest goes after a while.

const STAYS_MS = 7000;
const words = document.getElementById("words").dataset;

export function toast(text, { bad = false } = {}) {
  const element = document.getElementById("toast-template").content.firstElementChild.cloneNode(true);
  element.firstElementChild.textContent = text;
  element.classList.toggle("is-bad", bad);
  document.getElementById("toasts").append(element);
  settle(element);
  return element;
}

function settle(element) {
  element.querySelector("button")?.addEventListener("click", () => element.remove());
  if (!element.classList.contains("is-bad")) setTimeout(() => element.remove(), STAYS_MS);
}

// What a refused answer says: our error page carries its sentence in a header, so no page is parsed.
export function refusal(response) {
  const sentence = response?.headers?.get?.("X-Ratchet-Message");
  return sentence ? decodeURIComponent(sentence) : words.failed;
}

export const offline = () => words.offline;

for (const element of document.querySelectorAll("#toasts .toast")) settle(element);
