// How each kind of question is answered on the page: answerer(form, words) gives
//   answer()  what to send, or a sentence that says what is missing
//   draft()   what was said so far, or null
//   fill(draft)
//   keys      key -> action; an action that returns false leaves the key to others
//   mark()    the row or card that the next digit is for
// `send(answer)` is called by buttons and keys that decide by themselves.

import { followDiff } from "../projects/diff.js";

export function answerer(form, words, send) {
  return { pair, rank, rate, correct }[form.dataset.asks](form, words, send);
}

const checked = (form, name) => form.querySelector(`[name="${name}"]:checked`)?.value;
const comment = (form) => form.elements.comment?.value.trim() ?? "";
const withComment = (form, answer) => (comment(form) ? { ...answer, comment: comment(form) } : answer);

function choose(form, name, value) {
  const input = form.querySelector(`[name="${name}"][value="${value}"]`);
  if (!input) return false;
  input.checked = input.type === "checkbox" ? !input.checked : true;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  return true;
}

function fillComment(form, draft) {
  if (!draft.comment || !form.elements.comment) return;
  form.elements.comment.value = draft.comment;
  form.querySelector("details.more").open = true;
}

// --- Two answers: the verdict is the key ---------------------------------------------------------------
function pair(form, words, send) {
  const vote = (verdict) => {
    const strength = Number(checked(form, "strength") ?? 0);
    const isDecided = verdict === "left" || verdict === "right";
    send(withComment(form, { verdict, ...(strength && isDecided ? { strength } : {}) }), verdict);
  };
  return {
    vote,
    answer: () => null,
    draft: () => (comment(form) ? { comment: comment(form) } : null),
    fill: (draft) => fillComment(form, draft),
    mark() {},
    keys: {
      1: () => vote("left"), ArrowLeft: () => vote("left"), 2: () => vote("right"), ArrowRight: () => vote("right"),
      0: () => vote("tie"), t: () => vote("tie"), b: () => vote("both_bad"),
    },
  };
}

// --- Three to eight answers: a rank each ---------------------------------------------------------------
function rank(form, words, send) {
  const cards = [...form.querySelectorAll("[data-card]")];
  const lanes = [...form.querySelectorAll("[data-lane]")];
  const rankOf = (card) => Number(checked(form, `rank-${card.dataset.card}`) ?? 0);
  let marked = 0;

  function mark(place = cards.findIndex((card) => !rankOf(card))) {
    marked = Math.max(0, Math.min(place < 0 ? marked : place, cards.length - 1));
    for (const card of cards) card.classList.toggle("is-marked", card === cards[marked]);
    cards[marked].scrollIntoView({ block: "nearest" });
  }
  function draw() {
    for (const lane of lanes) {
      const here = cards.filter((card) => rankOf(card) === Number(lane.dataset.lane));
      lane.lastElementChild.textContent = here.map((card) => card.dataset.letter).join(" = ");
    }
  }
  form.addEventListener("change", draw);
  for (const card of cards) {
    card.addEventListener("pointerdown", () => mark(cards.indexOf(card)));
    card.addEventListener("focusin", () => mark(cards.indexOf(card)));
    card.addEventListener("dragstart", (event) => {
      event.dataTransfer.setData("text/plain", card.dataset.card);
      event.dataTransfer.effectAllowed = "move";
      form.classList.add("is-dragging");
    });
    card.addEventListener("dragend", () => form.classList.remove("is-dragging"));
  }
  for (const lane of lanes) {
    lane.addEventListener("dragover", (event) => { event.preventDefault(); lane.classList.add("is-over"); });
    lane.addEventListener("dragleave", () => lane.classList.remove("is-over"));
    lane.addEventListener("drop", (event) => {
      event.preventDefault();
      lane.classList.remove("is-over");
      choose(form, `rank-${event.dataTransfer.getData("text/plain")}`, lane.dataset.lane);
      mark();
    });
  }
  const keys = {
    ArrowUp: () => mark(marked - 1), ArrowDown: () => mark(marked + 1),
    ArrowLeft: () => mark(marked - 1), ArrowRight: () => mark(marked + 1),
    b: () => send(withComment(form, { all_bad: true })),
  };
  for (let digit = 1; digit <= cards.length; digit++) {
    keys[digit] = () => { choose(form, `rank-${marked}`, digit); mark(); };
  }
  return {
    answer() {
      const ranks = cards.map(rankOf);
      if (ranks.includes(0)) return words.rankAll;
      if (!ranks.includes(1)) return words.first;
      return withComment(form, { ranks });
    },
    draft: () => (cards.some(rankOf) || comment(form) ? { ranks: cards.map(rankOf), comment: comment(form) } : null),
    fill(draft) {
      (draft.ranks ?? []).forEach((value, place) => value && choose(form, `rank-${place}`, value));
      fillComment(form, draft);
    },
    mark,
    keys,
    allBad: keys.b,
  };
}

// --- One answer: a value in each row of the form -------------------------------------------------------
function rate(form, words) {
  const rows = [...form.querySelectorAll("[data-aspect]")];
  const valueOf = (row) => checked(form, `rating-${row.dataset.aspect}`);
  let marked = 0;

  function mark(place = rows.findIndex((row) => valueOf(row) === undefined)) {
    marked = Math.max(0, Math.min(place < 0 ? marked : place, rows.length - 1));
    for (const row of rows) row.classList.toggle("is-marked", rows.length > 1 && row === rows[marked]);
  }
  // Reasons that fit the value: above the scale's middle, below it, or always.
  function offer(row) {
    const reasons = row.querySelector(".reasons"), value = valueOf(row);
    if (!reasons) return;
    const values = [...row.querySelectorAll(`[name="rating-${row.dataset.aspect}"]`)].map((one) => Number(one.value));
    const middle = (Math.min(...values) + Math.max(...values)) / 2;
    const side = Number(value) > middle ? "up" : Number(value) < middle ? "down" : "";
    for (const chip of reasons.querySelectorAll("[data-when]")) {
      chip.hidden = value === undefined || ![side, "any"].includes(chip.dataset.when);
      if (chip.hidden) chip.querySelector("input").checked = false;
    }
    reasons.hidden = !reasons.querySelector("[data-when]:not([hidden])");
  }
  form.addEventListener("change", (event) => {
    const row = event.target.closest("[data-aspect]");
    if (row) offer(row);
  });
  for (const row of rows) row.addEventListener("focusin", () => mark(rows.indexOf(row)));

  const keys = { ArrowUp: () => mark(marked - 1), ArrowDown: () => mark(marked + 1) };
  for (const digit of "0123456789") {
    keys[digit] = () => {
      const input = rows[marked].querySelector(`[data-digit="${digit}"]`);
      if (!input) return false;
      input.checked = true;
      input.dispatchEvent(new Event("change", { bubbles: true }));
      // With reasons to tick the row stays marked; the next digit is then for the next row.
      return mark();
    };
  }
  const letters = new Set([...form.querySelectorAll("[data-letter]")].map((one) => one.dataset.letter).filter(Boolean));
  for (const letter of letters) {
    keys[letter] = () => {
      const offered = [...form.querySelectorAll(`[data-letter="${letter}"]`)].filter((one) => !one.closest("[hidden]"));
      const input = offered.at(-1);
      if (!input) return false;
      input.checked = !input.checked;
      return input.dispatchEvent(new Event("change", { bubbles: true }));
    };
  }
  const read = () => {
    const ratings = {}, reasons = {};
    for (const row of rows) {
      const value = valueOf(row), key = row.dataset.aspect;
      if (value === undefined) continue;
      ratings[key] = Number(value);
      const ticked = [...row.querySelectorAll(`[name="reason-${key}"]:checked`)].map((one) => one.value);
      if (ticked.length) reasons[key] = ticked;
    }
    return withComment(form, { ratings, ...(Object.keys(reasons).length ? { reasons } : {}) });
  };
  return {
    answer() {
      const missing = rows.find((row) => row.hasAttribute("data-required") && valueOf(row) === undefined);
      if (missing || !Object.keys(read().ratings).length) return words.rateAll;
      return read();
    },
    draft: () => (Object.keys(read().ratings).length || comment(form) ? read() : null),
    fill(draft) {
      for (const [key, value] of Object.entries(draft.ratings ?? {})) choose(form, `rating-${key}`, value);
      for (const [key, ticked] of Object.entries(draft.reasons ?? {})) {
        for (const one of ticked) choose(form, `reason-${key}`, one);
      }
      fillComment(form, draft);
    },
    mark,
    keys,
  };
}

// --- One answer: how it should read --------------------------------------------------------------------
function correct(form, words, send) {
  const field = form.elements.text, original = field.dataset.original;
  const place = form.querySelector(".diff"), count = form.querySelector("[data-count]");
  followDiff(field, place, original, ({ gone, new: fresh }) => { count.textContent = gone || fresh ? `−${gone} +${fresh}` : ""; });
  const fine = () => send({ is_fine: true });
  return {
    answer: () => (field.value.trim() && field.value !== original ? { text: field.value } : words.change),
    draft: () => (field.value === original ? null : { text: field.value }),
    fill(draft) {
      if (!draft.text) return;
      field.value = draft.text;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    },
    mark() {},
    fine,
    keys: { e: () => field.focus(), f: fine },
  };
}
