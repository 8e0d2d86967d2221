// A run as it goes: its numbers, a small plot of each that its method tells, and its page again when it is over.

const live = document.getElementById("live");
const words = document.getElementById("run-words").dataset;
const states = document.getElementById("state-words").content;
const lost = live.querySelector("[data-lost]");
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 180;
const PAD = { top: 10, right: 12, bottom: 24, left: 44 };

// A plot shows itself with its first number.
const series = Object.fromEntries([...document.querySelectorAll("[data-plot]")].map((place) => [place.dataset.plot, []]));
let total = 0;
let drawing = 0;

// --- Numbers -----------------------------------------------------------------------------------------
const clock = (seconds) => {
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return (parts[0] ? parts : parts.slice(1)).map((part, place) => place ? String(part).padStart(2, "0") : part).join(":");
};
const FORMATS = {
  loss: (value) => value.toFixed(3),
  reward_accuracy: (value) => `${Math.round(value * 100)} %`,
  reward_margin: (value) => value.toFixed(2),
  tokens_per_second: (value) => Math.round(value).toString(),
  seconds_left: clock,
};
const format = (name, value) => (FORMATS[name] ?? ((number) => Number(number.toPrecision(4)).toString()))(value);

function showState(facts) {
  total = facts.total;
  const progress = live.querySelector("[data-progress]");
  progress.max = facts.total || 1;
  progress.value = facts.step;
  for (const place of live.querySelectorAll("[data-fact]")) {
    const name = place.dataset.fact;
    if (name === "status") {
      const word = states.querySelector(`[data-state="${facts.status}"]`);
      place.className = word?.className ?? "tag";
      place.textContent = word?.textContent ?? facts.status;
    } else {
      const value = facts[name];
      const isTold = value !== null && value !== undefined;
      place.textContent = isTold ? (FORMATS[name] ?? String)(value) : "–";
      if (isTold) place.closest("[data-of-pairs]")?.removeAttribute("hidden");
    }
  }
}

// --- Plots -------------------------------------------------------------------------------------------
function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function ticks(low, high) {
  const rough = (high - low) / 3 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(value);
  return found;
}

function draw(name) {
  const points = series[name];
  const place = document.querySelector(`[data-plot="${name}"]`);
  if (!points.length) return;
  place.closest("figure").hidden = false;
  document.querySelector("[data-none]")?.closest("figure").toggleAttribute("hidden", name !== "loss");
  const width = place.clientWidth;
  const values = points.map((point) => point.value);
  const isShare = name === "reward_accuracy";
  const low = isShare ? 0 : Math.min(0, ...values);
  const high = isShare ? 1 : Math.max(...values) * 1.05 || 1;
  const last = Math.max(total, points.at(-1).step, 1);
  const x = (step) => PAD.left + (step / last) * (width - PAD.left - PAD.right);
  const y = (value) => HEIGHT - PAD.bottom - ((value - low) / (high - low)) * (HEIGHT - PAD.top - PAD.bottom);
  const latest = format(name, values.at(-1));
  const svg = element("svg", {
    class: "plot", width, height: HEIGHT, role: "img",
    "aria-label": `${words.latest}: ${latest}, ${words.step} ${points.at(-1).step}`,
  });
  for (const value of isShare ? [0, 0.5, 1] : ticks(low, high)) {
    svg.append(element("line", { class: isShare && value === 0.5 ? "half" : "grid", x1: PAD.left, x2: width - PAD.right, y1: y(value), y2: y(value) }));
    svg.append(element("text", { x: PAD.left - 6, y: y(value) + 4, "text-anchor": "end" }, isShare ? FORMATS[name](value) : Number(value.toPrecision(3))));
  }
  svg.append(element("text", { x: PAD.left, y: HEIGHT - 6 }, "0"));
  svg.append(element("text", { x: width - PAD.right, y: HEIGHT - 6, "text-anchor": "end" }, `${words.step} ${last}`));
  const path = points.map((point) => `${x(point.step).toFixed(1)} ${y(point.value).toFixed(1)}`).join("L");
  svg.append(element("path", { class: "trend", d: `M${path}` }));
  svg.append(element("circle", { class: "point", r: 4, cx: x(points.at(-1).step), cy: y(values.at(-1)) }));
  place.replaceChildren(svg);
}

function drawSoon() {
  if (drawing) return;
  drawing = requestAnimationFrame(() => {
    drawing = 0;
    Object.keys(series).forEach(draw);
  });
}
const sizes = new ResizeObserver(drawSoon);
for (const place of document.querySelectorAll("[data-plot]")) sizes.observe(place);

// --- The stream --------------------------------------------------------------------------------------
const source = new EventSource(live.dataset.events);
source.onopen = () => { lost.hidden = true; };
source.onerror = () => { lost.hidden = false; };
source.addEventListener("state", (event) => {
  showState(JSON.parse(event.data));
  drawSoon();
});
source.addEventListener("progress", (event) => {
  const { step, metrics } = JSON.parse(event.data);
  for (const [name, points] of Object.entries(series)) {
    if (typeof metrics[name] !== "number") continue;
    // A run that was resumed tells some steps again: the later word counts.
    while (points.length && points.at(-1).step >= step) points.pop();
    points.push({ step, value: metrics[name] });
  }
  drawSoon();
});
source.addEventListener("done", () => {
  source.close();
  lost.hidden = true;
  if (live.dataset.finished === "yes") return;
  htmx.ajax("GET", location.pathname, { target: "#run-facts", swap: "innerHTML" });
});
