// The list of conversations: found as one types, renamed in place, deleted with a way back.

import { bind } from "../projects/keys.js";
import { toast } from "../projects/toast.js";

const find = document.getElementById("find");
const here = document.getElementById("here");
const sidebar = document.getElementById("sidebar");
const words = document.getElementById("chat-words").dataset;
const rows = () => [...sidebar.querySelectorAll("[data-conversation]")];
const swap = { target: "#conversations", swap: "outerHTML" };

function rename(row) {
  const form = row.querySelector("[data-rename]");
  form.hidden = false;
  row.classList.add("is-renamed");
  form.title.focus();
  form.title.select();
}

function leave(row) {
  const form = row.querySelector("[data-rename]");
  if (form.hidden) return;
  form.hidden = true;
  form.reset();
  row.classList.remove("is-renamed");
  row.querySelector("a").focus();
}

sidebar.addEventListener("click", (event) => {
  const row = event.target.closest("[data-conversation]");
  if (row && event.target.closest("[data-act=rename]")) rename(row);
});
sidebar.addEventListener("submit", (event) => { event.target.dataset.sending = "yes"; });
sidebar.addEventListener("htmx:afterRequest", (event) => { delete event.detail.elt.dataset?.sending; });
sidebar.addEventListener("focusout", (event) => {
  const form = event.target.closest("[data-rename]");
  const row = form?.closest("[data-conversation]");
  if (!row || form.dataset.sending) return; // taken away under the focus, when the new list came
  if (form.title.value.trim() && form.title.value !== form.title.defaultValue) form.requestSubmit();
  else { form.hidden = true; row.classList.remove("is-renamed"); }
});
sidebar.addEventListener("keydown", (event) => {
  const row = event.target.closest("[data-conversation]");
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape" && event.target === find && find.value) {
    find.value = "";
    find.dispatchEvent(new Event("search"));
  } else if (event.key === "Escape" && row) {
    leave(row);
    event.stopPropagation();
  } else if (event.target.closest("input") && row) {
    return; // its name is being written
  } else if (event.key === "F2" && row) {
    rename(row);
  } else if (event.key === "Delete" && row) {
    row.querySelector("[data-act=delete]").click();
  } else if (step) {
    const all = rows();
    const to = row ? all[all.indexOf(row) + step] : step > 0 ? all[0] : null;
    (to?.querySelector("a") ?? find).focus();
  } else if (event.key === "Enter" && event.target === find) {
    rows()[0]?.querySelector("a").click();
  } else return;
  event.preventDefault();
});

// What was swapped away under the focus: the same row again, else its neighbour.
let place = null;
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.target.id !== "conversations") return;
  const row = document.activeElement.closest?.("[data-conversation]");
  place = row ? { id: row.id, index: rows().indexOf(row) } : null;
});
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "conversations" || !place) return;
  const all = rows();
  (document.getElementById(place.id) ?? all[Math.min(place.index, all.length - 1)] ?? sidebar)
    .querySelector("a")?.focus();
  place = null;
});

let offer = null; // the toast that offers to undo a deletion
document.addEventListener("conversation-deleted", (event) => {
  const { id, restore, address } = event.detail;
  const wasHere = id === here.value;
  if (wasHere) document.dispatchEvent(new CustomEvent("conversation-closed"));
  offer?.remove();
  offer = toast(words.deleted, {
    action: {
      label: words.undo,
      run: async () => {
        await htmx.ajax("POST", restore, { ...swap, values: { here: here.value, q: find.value } });
        if (wasHere) location.assign(address);
      },
    },
  });
});

bind({
  f: () => {
    if (getComputedStyle(sidebar).display === "none") sidebar.showPopover();
    find.focus();
  },
  z: () => {
    const button = offer?.isConnected && offer.querySelector("[data-action]");
    if (button) button.click();
    return Boolean(button);
  },
});
