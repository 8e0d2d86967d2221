// What changed between two texts, word by word: wordDiff(before, after) gives pieces [kind, text], where kind is
// "same", "gone" or "new". All that is not new, joined, is `before`; all that is not gone is `after`.
//
// Words that stand once on both sides and keep their order are anchors (patience); between two anchors Myers'
// algorithm finds the least change. So a text of 50,000 characters takes milliseconds, whatever was done to it.

const WORDS = /[\p{L}\p{N}\p{M}_'’]+|[^\S\n]+|\n+|./gsu;
const ONE_BY_ONE = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u; // no spaces between words
const MOST_EDITS = 250; // between two anchors; beyond it a stretch counts as rewritten
const DELAY_MS = 60;

export function wordDiff(before, after) {
  const a = words(before), b = words(after);
  const out = [];
  between(a, 0, a.length, b, 0, b.length, out);
  return tidied(out);
}

// <del> and <ins> for the reader, `place` is emptied first. Returns how many words are gone and new.
export function showDiff(place, before, after) {
  const pieces = wordDiff(before, after);
  const count = { gone: 0, new: 0 };
  const nodes = pieces.map(([kind, text]) => {
    if (kind === "same") return document.createTextNode(text);
    count[kind] += (text.match(/[\p{L}\p{N}]+/gu) ?? []).length;
    const node = document.createElement(kind === "gone" ? "del" : "ins");
    node.textContent = text;
    return node;
  });
  place.replaceChildren(...nodes);
  return count;
}

// Keeps `place` up to date while somebody types in `field`. `tell` hears the counts.
export function followDiff(field, place, before, tell = () => {}) {
  let timer = null;
  const draw = () => {
    timer = null;
    tell(showDiff(place, before, field.value));
  };
  field.addEventListener("input", () => { timer ??= setTimeout(draw, DELAY_MS); });
  draw();
}

// Scripts without spaces are compared by character, all others by word.
function words(text) {
  const found = text.match(WORDS) ?? [];
  return ONE_BY_ONE.test(text) ? found.flatMap((word) => (ONE_BY_ONE.test(word) ? [...word] : word)) : found;
}

function between(a, a0, a1, b, b0, b1, out) {
  while (a0 < a1 && b0 < b1 && a[a0] === b[b0]) { out.push(["same", a[a0++]]); b0++; }
  let tail = 0;
  while (a0 < a1 - tail && b0 < b1 - tail && a[a1 - 1 - tail] === b[b1 - 1 - tail]) tail++;
  a1 -= tail;
  b1 -= tail;
  const anchors = a0 < a1 && b0 < b1 ? anchorsIn(a, a0, a1, b, b0, b1) : [];
  if (anchors.length) {
    for (const [inA, inB] of anchors) {
      between(a, a0, inA, b, b0, inB, out);
      out.push(["same", a[inA]]);
      [a0, b0] = [inA + 1, inB + 1];
    }
    between(a, a0, a1, b, b0, b1, out);
  } else {
    least(a.slice(a0, a1), b.slice(b0, b1), out);
  }
  for (let place = a1; place < a1 + tail; place++) out.push(["same", a[place]]);
}

// Pairs of places of words that stand once on each side, in the longest order that both sides share.
function anchorsIn(a, a0, a1, b, b0, b1) {
  const seen = new Map();
  for (let i = a0; i < a1; i++) if (/[\p{L}\p{N}]/u.test(a[i])) seen.set(a[i], seen.has(a[i]) ? null : [i, -1]);
  for (let j = b0; j < b1; j++) {
    const pair = seen.get(b[j]);
    if (pair) seen.set(b[j], pair[1] < 0 ? [pair[0], j] : null);
  }
  const pairs = [...seen.values()].filter((pair) => pair && pair[1] >= 0); // in the order of a
  const ends = [], back = []; // ends[n]: the pair with the lowest place in b that ends a run of n + 1
  pairs.forEach(([, j], index) => {
    let low = 0, high = ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (pairs[ends[middle]][1] < j) low = middle + 1; else high = middle;
    }
    back[index] = low ? ends[low - 1] : -1;
    ends[low] = index;
  });
  const run = [];
  for (let index = ends.at(-1) ?? -1; index >= 0; index = back[index]) run.unshift(pairs[index]);
  return run;
}

// Myers, "An O(ND) difference algorithm", greedy, with the furthest reach of each diagonal kept a step.
function least(a, b, out) {
  const rewritten = () => {
    for (const word of a) out.push(["gone", word]);
    for (const word of b) out.push(["new", word]);
  };
  if (!a.length || !b.length) return rewritten();
  const most = Math.min(a.length + b.length, MOST_EDITS);
  let reach = new Map([[1, 0]]);
  const steps = [];
  for (let edits = 0; edits <= most; edits++) {
    steps.push(new Map(reach));
    for (let k = -edits; k <= edits; k += 2) {
      const down = k === -edits || (k !== edits && (reach.get(k - 1) ?? -1) < (reach.get(k + 1) ?? -1));
      let x = down ? reach.get(k + 1) : reach.get(k - 1) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      reach.set(k, x);
      if (x >= a.length && x - k >= b.length) return walkBack(a, b, steps, out);
    }
  }
  return rewritten();
}

function walkBack(a, b, steps, out) {
  let x = a.length, y = b.length;
  const found = [];
  for (let edits = steps.length - 1; edits >= 0; edits--) {
    const reach = steps[edits], k = x - y;
    const down = k === -edits || (k !== edits && (reach.get(k - 1) ?? -1) < (reach.get(k + 1) ?? -1));
    const fromX = edits ? reach.get(down ? k + 1 : k - 1) : 0;
    const fromY = edits ? fromX - (down ? k + 1 : k - 1) : 0;
    while (x > fromX && y > fromY) { found.push(["same", a[--x]]); y--; }
    if (edits) found.push(down ? ["new", b[--y]] : ["gone", a[--x]]);
  }
  out.push(...found.reverse());
}

// Neighbours joined. What is the same between two changes belongs to them when it is a space or a sign alone, or
// little beside both: a phrase that was written anew reads as one, and not as a few words that happen to recur.
function tidied(pieces) {
  const out = []; // { same } or { gone, fresh }
  for (const [kind, text] of pieces) {
    const last = out.at(-1);
    if (kind === "same") {
      if (last?.same) last.same += text; else out.push({ same: text });
      continue;
    }
    if (last && !last.same) last[kind === "gone" ? "gone" : "fresh"] += text;
    else out.push({ gone: kind === "gone" ? text : "", fresh: kind === "new" ? text : "" });
  }
  const joined = [];
  for (const piece of out) {
    joined.push(piece);
    while (joined.length > 2 && isLittle(...joined.slice(-3))) {
      const [before, { same }, after] = joined.splice(-3);
      joined.push({ gone: before.gone + same + after.gone, fresh: before.fresh + same + after.fresh });
    }
  }
  return joined.flatMap(({ same, gone, fresh }) =>
    [["same", same], ["gone", gone], ["new", fresh]].filter(([, text]) => text));
}

function isLittle(before, { same }, after) {
  if (!same || before.same || after.same) return false;
  const size = ({ gone, fresh }) => gone.length + fresh.length;
  const isReplaced = before.gone && before.fresh && after.gone && after.fresh;
  return (isReplaced && /^[^\S\n]+$/.test(same)) || same.length * 3 <= Math.min(size(before), size(after));
}
