// What is said of answers in the chat: thumbs and why, flags, better texts, and which of two is better. Each is stored
// before it is sent, as the answers on the Work page are: a lost network, a closed tab or an ended session loses none,
// and its id makes it arrive once. The page shows at once what was pressed; what is pressed before the server has
// answered follows the word before, whose id the page knows. An editor stays until its text has arrived.

import { forgetDraft } from "../projects/draft.js";
import { uuid7 } from "../projects/ids.js";
import { deliver, Outbox } from "../projects/outbox.js";
import { ask, csrfToken } from "../projects/session.js";
import { refusal, toast } from "../projects/toast.js";

const TWICE_MS = 500; // a double click is one press

// A form's buttons are the values of one subject. In `place` it is shown, and comes back from the server.
function subjectOf(form) {
  const answer = form.closest(".answer"), turn = form.closest(".turn");
  if (form.matches("[data-thumb], [data-reasons]")) {
    return { key: answer.id, place: answer, buttons: [...answer.querySelectorAll("[data-thumb] button")] };
  }
  if (form.matches("[data-better]")) return { key: `${answer.id} better`, place: answer, buttons: [form.querySelector("button")] };
  const buttons = [...form.querySelectorAll("button[name]")];
  if (form.matches("[data-flag]")) return { key: `${answer.id} ${buttons[0].value}`, place: answer, buttons };
  if (!form.matches("[data-which]")) return null;
  return { key: `${form.elements.left.value} ${form.elements.right.value}`, place: turn, buttons };
}

function paint({ place, buttons }, value) {
  place.setAttribute("aria-busy", "true");
  const [{ form }] = buttons;
  if (form.matches("[data-better]")) return;
  for (const button of buttons) button.setAttribute("aria-pressed", button.value === value);
  if (form.matches("[data-flag]")) {
    const menu = form.closest("details");
    menu.querySelector("[data-flagged]").hidden = !menu.querySelector('[aria-pressed="true"]');
    if (menu.contains(document.activeElement)) menu.querySelector("summary").focus();
    menu.open = false;
  }
  if (form.matches("[data-which]")) {
    const chosen = { left: [0], right: [1], tie: [0, 1] }[value] ?? [];
    place.querySelectorAll(".beside").forEach((side, at) => side.classList.toggle("is-chosen", chosen.includes(at)));
    const back = form.querySelector("[data-act=retract-vote]");
    if (!value && document.activeElement === back) buttons[0].focus();
    back.hidden = !value;
    place.querySelector("[data-act=single]").disabled = true; // it leads to the better one, once that is known
  }
}

// True where the editor holds more than what was sent from it.
const isWritten = (editor) => editor.dataset.sent !== editor.elements.text.value;

export function keepSaid(turns, words, unsent) {
  const said = new Map(); // subject's key -> { id, value, subject } as the server will have it; value "": taken back
  const behind = new Map(); // id of a turn -> ids of its places that were not shown, as more of it was on its way
  const after = new Map(); // id of an answer's element -> what was pressed before its thumb arrived
  let last = { button: null, at: 0 };

  // What stands, as the page was told, or as it was said since.
  function standing({ key, buttons }) {
    const value = buttons.find((button) => button.getAttribute("aria-pressed") === "true")?.value ?? "";
    return said.get(key) ?? { id: buttons[0].form.elements.supersedes.value, value };
  }
  function say(subject, { id, value }, url, fields) {
    said.set(subject.key, { id, value, subject });
    paint(subject, value);
    const { place, buttons: [{ form }] } = subject, body = new URLSearchParams(fields).toString();
    const draft = form.elements.text?.dataset.draft;
    outbox.put({ url, body, place: place.id, turn: place.closest(".turn").id, draft });
  }
  function takeBack(subject) {
    const { id } = standing(subject);
    for (const form of subject.place.querySelectorAll("[data-touched]")) delete form.dataset.touched;
    if (id) say(subject, { id: "", value: "" }, words.retract.replace(/[0-]{36}/, id), {});
  }

  turns.addEventListener("submit", (event) => {
    const form = event.target, subject = subjectOf(form);
    if (!subject) return;
    event.preventDefault();
    delete form.dataset.touched;
    const button = event.submitter ?? form, now = performance.now();
    const isEditor = form.matches("[data-better]");
    const isTwice = isEditor ? !isWritten(form) : button === last.button && now - last.at < TWICE_MS;
    last = { button, at: now };
    if (isTwice) return;
    const before = standing(subject), fields = new FormData(form);
    const isValue = !isEditor && subject.buttons.includes(button);
    if (isValue && before.id && before.value === button.value) {
      if (!form.matches("[data-which]")) takeBack(subject);
      return;
    }
    if (isValue) fields.set(button.name, button.value);
    if (isEditor) form.dataset.sent = form.elements.text.value;
    if (said.has(subject.key)) fields.set("id", uuid7()); // the form's own may be taken
    fields.set("supersedes", before.id);
    say(subject, { id: fields.get("id"), value: isValue ? button.value : fields.get("value") }, form.action, fields);
  });
  turns.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act=undo], [data-act=retract-vote]");
    if (button) takeBack(subjectOf(button.form));
  });

  // Reasons that were ticked and a comment that was written without "Save": they go out before their answer gives way.
  turns.addEventListener("input", (event) => {
    const form = event.target.closest("[data-reasons]");
    if (form) form.dataset.touched = "";
  });
  const saveTouched = (place) => {
    for (const form of place.querySelectorAll("[data-reasons][data-touched]")) {
      form.dispatchEvent(new Event("submit", { bubbles: true, cancelable: true })); // a page that goes submits no form
    }
  };
  turns.addEventListener("htmx:beforeRequest", ({ target }) => saveTouched(target.closest(".turn") ?? target));
  addEventListener("pagehide", () => saveTouched(turns));

  // True where a thumb is on its way: `action` then comes after it.
  function later({ id }, action) {
    if (!said.has(id)) return false;
    after.set(id, [...(after.get(id) ?? []), action]);
    return true;
  }

  const waits = (turn) => outbox.keys().filter((key) => outbox.take(key)?.turn === turn).length;

  async function post({ url, body, place, turn, draft }) {
    const headers = { "X-CSRFToken": csrfToken() };
    const { response, text, isSignedOut } = await deliver(url, { method: "POST", body: new URLSearchParams(body), headers });
    if (!response) return { isSignedOut };
    if (draft && response.ok) forgetDraft(draft);
    if (draft && !response.ok && await reopen(place, url, refusal(response))) return { done: true };
    if (!response.ok) toast(refusal(response), { bad: true });
    const places = (behind.get(turn) ?? new Set()).add(place);
    behind.set(turn, places);
    if (waits(turn) > 1) return { done: true };
    behind.delete(turn);
    if (places.size > 1) await look(turn);
    else if (response.ok) show(place, text);
    else await look(place); // what was pressed does not stand
    return { done: true };
  }

  // A better text that was refused, where its editor is still open: the editor anew, which knows what stands, with the
  // words in it and why. False where it is not.
  async function reopen(id, url, why) {
    const editor = document.getElementById(id)?.querySelector("[data-better]");
    const response = editor ? await ask(url).catch(() => null) : null;
    if (!response?.ok) return false;
    const { value } = editor.elements.text;
    editor.dataset.sent = value;
    show(id, await response.text());
    const { text } = document.getElementById(id).querySelector("[data-better]").elements;
    text.value = value;
    text.dispatchEvent(new Event("input", { bubbles: true }));
    text.setAttribute("aria-invalid", "true");
    document.getElementById(text.getAttribute("aria-describedby")).textContent = why;
    text.focus();
    return true;
  }

  async function look(id) {
    const { answer, turn } = document.getElementById(id)?.dataset ?? {};
    const response = answer || turn ? await ask(answer ?? turn).catch(() => null) : null;
    show(id, response?.ok ? await response.text() : "");
  }

  // The place as the server has it, where it is still on the page, nobody writes into it, and nothing else that was
  // pressed there is about to replace it: htmx drops the answer to a button that is gone.
  function show(id, html) {
    const place = document.getElementById(id);
    if (!place) return;
    const isBusy = !html || place.querySelector("[data-stream], .htmx-request")
      || [...place.querySelectorAll("[data-editor]")].some(isWritten);
    for (const [key, { id: now, subject }] of said) {
      const there = document.getElementById(subject.place.id);
      if (there && !place.contains(there)) continue;
      said.delete(key);
      for (const { form } of isBusy ? subject.buttons : []) {
        form.elements.supersedes.value = now;
        form.elements.id.value = uuid7();
      }
    }
    place.removeAttribute("aria-busy");
    if (isBusy) {
      for (const button of place.querySelectorAll("[data-act=single]")) button.disabled = false;
      return;
    }
    const focused = place.contains(document.activeElement) ? document.activeElement : null;
    htmx.swap(place, html, { swapStyle: "outerHTML", swapDelay: 0, settleDelay: 0 }, { eventInfo: { target: place } });
    const fresh = document.getElementById(id);
    const same = focused?.id ? document.getElementById(focused.id) : null;
    if (focused) (same?.checkVisibility() ? same : fresh.closest(".answer") ?? fresh.querySelector(".answer"))?.focus({ preventScroll: true });
    for (const answer of [fresh, ...fresh.querySelectorAll(".answer")]) {
      const actions = after.get(answer.id) ?? [];
      after.delete(answer.id);
      for (const action of actions) action();
    }
  }

  const outbox = new Outbox(`chat:${words.home}`, { post, unsent });
  return { later };
}
