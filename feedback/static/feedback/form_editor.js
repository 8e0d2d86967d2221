// The rating form, edited without JSON. The textarea with the JSON stays what is sent: each change here is written
// there, and what is written there by hand is shown here. The server checks it and draws it as raters will see it;
// what it refuses is said at the field.

import { ask, csrfToken } from "../projects/session.js";

const json = document.getElementById("form-json");
const place = document.getElementById("aspects");
const preview = document.getElementById("form-preview");
const told = document.getElementById("form-told");
const general = document.getElementById("form-refusal");
const comment = document.getElementById("form-comment");
const words = document.getElementById("form-words").dataset;
const LOOK_MS = 400;
const MOST_POINTS = 11;

let form = { aspects: [], comment: true };
let timer = null, asked = 0;

// --- The document ------------------------------------------------------------------------------------
const aspect = (kind) => ({
  key: kind === "thumbs" ? "thumbs" : "", kind, label: "", help: "", low: 1, high: 5, anchors: [], reasons: [], required: true,
});
const points = ({ kind, low, high }) => {
  if (kind === "thumbs") return [1, -1];
  const count = Number.isInteger(low) && Number.isInteger(high) ? high - low + 1 : 0;
  return count > 1 && count <= MOST_POINTS ? Array.from({ length: count }, (_, at) => low + at) : [];
};
const hasThumbs = () => form.aspects.some((one) => one.kind === "thumbs");

// A stable key out of a label: what rows keep, so it follows the label only while it is new.
function keyFor(label, taken) {
  const plain = label.normalize("NFKD").toLowerCase().replace(/[^a-z0-9]+/g, "_").replace(/^[^a-z]+|_+$/g, "").slice(0, 36);
  let key = plain || "aspect";
  for (let number = 2; taken.includes(key); number++) key = `${plain || "aspect"}_${number}`;
  return key;
}

function read() {
  try {
    const given = JSON.parse(json.value);
    if (!given || !Array.isArray(given.aspects)) throw new Error();
    form = { ...given, aspects: given.aspects.map((one) => ({ ...aspect(one.kind ?? "scale"), ...one })) };
    return true;
  } catch {
    return false;
  }
}

function write() {
  // Anchors that say nothing, or are off the scale by now, are none.
  for (const one of form.aspects) {
    const known = points(one);
    if (known.length) one.anchors = one.anchors.filter(({ value, label }) => label && known.includes(value));
  }
  json.value = JSON.stringify(form, (name, value) => (name === "isNew" ? undefined : value), 2);
  look();
}

// --- Drawing -----------------------------------------------------------------------------------------
const clone = (name) => document.getElementById(name).content.firstElementChild.cloneNode(true);

// A field of the editor: `path` is where the server would say that it is wrong.
function bind(root, name, path, value, onInput) {
  const field = root.querySelector(`[data-field="${name}"]`);
  field.dataset.path = path;
  field.id = `f-${path}`;
  const label = field.closest("label") ?? root.querySelector(`[data-for="${name}"]`);
  if (label) label.htmlFor = field.id;
  if (field.type === "checkbox") field.checked = value;
  else field.value = value ?? "";
  field.addEventListener("input", () => {
    const isNumber = field.type === "number";
    onInput(field.type === "checkbox" ? field.checked : isNumber && field.value !== "" ? Number(field.value) : field.value);
    write();
  });
  return field;
}

function draw() {
  place.replaceChildren(...form.aspects.map(drawAspect));
  document.querySelector("[data-add=thumbs]").hidden = hasThumbs();
  comment.checked = form.comment !== false;
}

function drawAspect(one, at) {
  const row = clone("aspect-template"), path = `aspects.${at}`;
  const isThumbs = one.kind === "thumbs";
  row.dataset.at = at;
  row.querySelector("[data-title]").textContent =
    `${at + 1}. ${one.label || one.key || words.unnamed} (${isThumbs ? words.thumbs : words.scale})`;
  const key = bind(row, "key", `${path}.key`, one.key, (value) => { one.key = value; one.isNew = false; });
  bind(row, "label", `${path}.label`, one.label, (value) => {
    one.label = value;
    if (!one.isNew) return;
    one.key = keyFor(value, form.aspects.filter((other) => other !== one).map((other) => other.key));
    key.value = one.key;
  });
  bind(row, "help", `${path}.help`, one.help, (value) => { one.help = value; });
  bind(row, "required", `${path}.required`, one.required, (value) => { one.required = value; });
  for (const name of ["low", "high"]) {
    bind(row, name, `${path}.${name}`, one[name], (value) => { one[name] = value; }).addEventListener("input", () => {
      row.querySelector("[data-anchors]").replaceChildren(...drawAnchors(one, path));
    });
  }
  row.querySelector("[data-scale]").hidden = isThumbs;
  row.querySelector("[data-anchors]").append(...drawAnchors(one, path));
  row.querySelector("[data-reasons]").append(...one.reasons.map((reason, place) => drawReason(one, reason, `${path}.reasons.${place}`)));
  row.querySelector("[data-do=up]").disabled = at === 0;
  row.querySelector("[data-do=down]").disabled = at === form.aspects.length - 1;
  row.querySelector("[data-do=remove]").disabled = form.aspects.length === 1;
  return row;
}

function drawAnchors(one, path) {
  return points(one).map((value) => {
    const row = clone("anchor-template"), isThumbs = one.kind === "thumbs";
    row.querySelector("[data-value]").textContent = isThumbs ? (value > 0 ? words.up : words.down) : value;
    const place = () => one.anchors.findIndex((anchor) => anchor.value === value);
    bind(row, "anchor", `${path}.anchors.${value}`, one.anchors[place()]?.label, (label) => {
      const kept = one.anchors.filter((anchor) => anchor.value !== value);
      one.anchors = [...kept, { value, label }].sort((a, b) => a.value - b.value);
    });
    return row;
  });
}

function drawReason(one, reason, path) {
  const row = clone("reason-template");
  const key = bind(row, "reason-key", `${path}.key`, reason.key, (value) => { reason.key = value; reason.isNew = false; });
  bind(row, "reason-label", `${path}.label`, reason.label, (value) => {
    reason.label = value;
    if (!reason.isNew) return;
    reason.key = keyFor(value, one.reasons.filter((other) => other !== reason).map((other) => other.key));
    key.value = reason.key;
  });
  bind(row, "reason-when", `${path}.when`, reason.when ?? "any", (value) => { reason.when = value; });
  row.querySelector("[data-do=remove-reason]").addEventListener("click", () => {
    one.reasons.splice(one.reasons.indexOf(reason), 1);
    change(words.removed, () => place.children[form.aspects.indexOf(one)].querySelector("[data-do=add-reason]"));
  });
  return row;
}

// --- Changes of the order and the number -----------------------------------------------------------
function change(sentence, focus) {
  draw();
  write();
  told.textContent = sentence;
  focus()?.focus();
}
const within = (at, selector) => () => place.children[at]?.querySelector(selector);

place.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button) return;
  const at = Number(button.closest("[data-at]").dataset.at), one = form.aspects[at];
  const step = { up: -1, down: 1 }[button.dataset.do];
  if (step) {
    form.aspects.splice(at, 1);
    form.aspects.splice(at + step, 0, one);
    const isAtEnd = at + step === 0 || at + step === form.aspects.length - 1;
    const sentence = words.moved.replace("{place}", at + step + 1).replace("{count}", form.aspects.length);
    change(sentence, within(at + step, isAtEnd ? `[data-do=${step < 0 ? "down" : "up"}]` : `[data-do=${button.dataset.do}]`));
  } else if (button.dataset.do === "remove") {
    form.aspects.splice(at, 1);
    change(words.removed, within(Math.min(at, form.aspects.length - 1), "[data-field=label]"));
  } else if (button.dataset.do === "add-reason") {
    one.reasons.push({ key: keyFor("reason", one.reasons.map((other) => other.key)), label: "", when: "any", isNew: true });
    change(words.added, within(at, "[data-reasons] > :last-child [data-field=reason-label]"));
  }
});
for (const button of document.querySelectorAll("[data-add]")) {
  button.addEventListener("click", () => {
    const fresh = aspect(button.dataset.add);
    if (!fresh.key) Object.assign(fresh, { key: keyFor("", form.aspects.map((one) => one.key)), isNew: true });
    form.aspects.push(fresh);
    change(words.added, within(form.aspects.length - 1, "[data-field=label]"));
  });
}
comment.addEventListener("input", () => { form.comment = comment.checked; write(); });
json.addEventListener("input", () => {
  if (read()) { draw(); look(); } else refuse("", words.unreadable);
});

// --- What the server says of it ----------------------------------------------------------------------
function look() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    const mine = ++asked;
    const body = new URLSearchParams({ form: json.value });
    try {
      const response = await ask(json.dataset.preview, { method: "POST", body, headers: { "X-CSRFToken": csrfToken() } });
      if (!response.ok || mine !== asked) return;
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const refusal = page.querySelector("[data-refusal]");
      if (refusal) return refuse(refusal.dataset.param, refusal.textContent);
      refuse("", "");
      preview.replaceChildren(...page.body.childNodes);
    } catch { /* no network: the next change looks again, and saving checks it anyway */ }
  }, LOOK_MS);
}

// At the field that the server names, else at the nearest around it, else above all.
function refuse(param, sentence) {
  for (const old of place.querySelectorAll(".refusal")) old.remove();
  for (const field of place.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }
  general.hidden = true;
  if (!sentence) return;
  let field = null;
  for (let path = param; path && !field; path = path.includes(".") ? path.slice(0, path.lastIndexOf(".")) : "") {
    field = document.getElementById(`f-${path}`) ?? document.getElementById(`f-${path}.high`) ?? document.getElementById(`f-${path}.key`);
    if (field?.closest("[hidden]")) field = document.getElementById(`f-${path}.key`);
  }
  general.textContent = sentence;
  general.hidden = Boolean(field);
  if (!field) return;
  const message = document.createElement("p");
  message.className = "refusal small";
  message.id = "refused-field";
  message.textContent = sentence;
  (field.closest("label") ?? field).after(message);
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", message.id);
  told.textContent = sentence;
}

// The preview is to look at: its values are nobody's.
preview.addEventListener("change", (event) => {
  const row = event.target.closest("[data-aspect]"), reasons = row?.querySelector(".reasons");
  if (reasons) reasons.hidden = false;
});

if (read()) {
  draw();
  look();
  document.getElementById("form-editor").hidden = false;
  document.getElementById("form-as-json").open = false;
}
