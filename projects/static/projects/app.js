// What every page does: dialogs, menus, keys, and refusals of htmx requests as toasts.

import "./copy.js";
import { bind, isTyping } from "./keys.js";
import "./session.js";
import "./tables.js";
import { offline, toast } from "./toast.js";

export function open(dialog) {
  if (dialog.open) return;
  dialog.showModal();
  // Where there is something to fill in, it comes before the button that closes.
  dialog.querySelector("form :is(select, textarea, input:not([type=hidden], [type=radio], [type=checkbox]))")?.focus();
  dialog.dispatchEvent(new CustomEvent("opened"));
}

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-dialog]");
  if (opener) open(document.getElementById(opener.dataset.dialog));
  if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
  if (event.target.tagName === "DIALOG") event.target.close(); // the backdrop
  for (const menu of document.querySelectorAll("[data-menu][open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("[data-menu][open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  } else if (isTyping(event.target) && !event.target.closest("dialog, [data-editor], .sidebar")) {
    event.target.blur(); // so that the keys are heard again; Tab goes on from here
  }
});

for (const button of document.querySelectorAll("[data-key]")) {
  bind({ [button.dataset.key]: () => button.click() });
}

// A button that was pressed is not pressed again before the answer.
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.matches("[hx-post], [data-own-submit]")) return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  if (xhr.status < 400) return;
  event.detail.shouldSwap = false;
  if (xhr.status === 401 && !isKept(event.detail.elt)) return; // the bar says it, unless a dialog hides it
  if (event.detail.requestConfig.verb === "get") return; // a poll that fails comes again by itself
  const sentence = xhr.getResponseHeader("X-Ratchet-Message");
  refuse(event.detail.elt, sentence ? decodeURIComponent(sentence) : document.getElementById("words").dataset.failed);
});
document.addEventListener("htmx:sendError", (event) => {
  if (event.detail.requestConfig.verb !== "get") refuse(event.detail.elt, offline());
});

// A form that leads to another page says itself why it did not, above its buttons, and keeps what was typed.
// Above all in a dialog: a toast lies behind it. Whatever else was refused is a toast.
function refuse(element, text) {
  if (!isKept(element)) return toast(text, { bad: true });
  unsay(element);
  const line = document.createElement("p");
  line.className = "refusal";
  line.setAttribute("role", "alert");
  line.textContent = text;
  element.lastElementChild.before(line);
  return line;
}
const isKept = (element) => Boolean(element.matches?.("form[hx-swap=none]"));
const unsay = (element) => element.querySelector?.(":scope > .refusal[role=alert]")?.remove();
document.addEventListener("htmx:beforeRequest", (event) => unsay(event.detail.elt));

// On a phone the tabs and the kinds of work are wider than the screen: the one we are on is in sight.
for (const here of document.querySelectorAll(".tabs [aria-current], .work-head [aria-current]")) {
  here.scrollIntoView({ block: "nearest", inline: "center" });
}
