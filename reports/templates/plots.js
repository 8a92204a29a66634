"use strict";
// The page's data, its figures, and their colours in light, dark and print.
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const PAPER = { width: 680, height: 420 }; // pixels that fit on A4 and on letter, with words beside them
const plots = [];
let printing = false;

// Figures arrive in light colours; on dark paper every colour is replaced by its partner.
function coloured(value) {
  if (root.dataset.theme !== "dark" || printing) return structuredClone(value);
  if (typeof value === "string") return data.dark[value] ?? value;
  if (Array.isArray(value)) return value.map(coloured);
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item)]));
  return value;
}

// On a narrow screen the names of lines move from the right margin to the lines' empty left end, and axes say
// less; on a projector letters grow.
function fitted(layout, width) {
  if (printing) return { ...layout, width: PAPER.width, height: Math.min(layout.height, PAPER.height) };
  if (width >= 1250) return enlarged(layout, 1.25);
  if (width >= 620) return layout;
  layout.margin = { ...layout.margin, l: Math.min(layout.margin.l ?? 52, 52), r: 14 };
  const axis = layout.xaxis ?? {};
  if (axis.title?.font) axis.title.font.size = 11; // as long titles as fit on a phone
  if (axis.nticks) axis.nticks = Math.min(axis.nticks, 4);
  if (axis.ticktext) {
    const step = Math.ceil((11 * axis.ticktext.length) / (width - 80));
    const some = (_, i) => i % step === 0;
    [axis.tickvals, axis.ticktext] = [axis.tickvals.filter(some), axis.ticktext.filter(some)];
  }
  for (const label of layout.annotations ?? [])
    if (label.ax !== undefined) label.ax = 0;
    else if (label.xanchor === "left") Object.assign(label, { x: 0, xshift: 2, yshift: 9 });
  return layout;
}

// Every letter of a layout, larger.
function enlarged(value, times) {
  if (Array.isArray(value)) return value.map((item) => enlarged(item, times));
  if (!value || typeof value !== "object") return value;
  const grown = ([key, item]) => [key, key === "size" ? times * item : enlarged(item, times)];
  return Object.fromEntries(Object.entries(value).map(grown));
}

function draw({ element, figure }) {
  const config = { displayModeBar: false, responsive: true };
  const layout = fitted(coloured(figure.layout), element.clientWidth);
  return Plotly.react(element, coloured(figure.data), layout, config);
}

// Figures are drawn when they come near the screen, so that long pages open at once.
const nearing = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const item = plots.find(({ element }) => element === target);
      if (isIntersecting && item && !item.shown) show(item);
    }
  },
  { rootMargin: "800px" },
);

function show(item) {
  item.shown = true;
  nearing.unobserve(item.element);
  draw(item);
  item.whenShown?.();
}

function plot(element, figure) {
  const item = { element, figure, shown: false };
  element.style.height = `${figure.layout.height}px`;
  plots.push(item);
  nearing.observe(element);
  return item;
}

// Changes one trace, on the screen and in the figure that a change of theme draws again.
function update(item, name, change) {
  if (!item) return;
  const index = item.figure.data.findIndex((trace) => trace.name === name);
  for (const [path, value] of Object.entries(change)) {
    const keys = path.split(".");
    const last = keys.pop();
    keys.reduce((inner, key) => (inner[key] ??= {}), item.figure.data[index])[last] = value;
  }
  if (!item.shown) return;
  const wrapped = Object.fromEntries(Object.entries(change).map(([path, value]) => [path, [value]]));
  Plotly.restyle(item.element, wrapped, [index]);
}

function rescale({ element, figure, shown }, path, value) {
  const [axis, key] = path.split(".");
  figure.layout[axis][key] = value;
  if (shown) Plotly.relayout(element, { [path]: value });
}

function drawAll() {
  for (const item of plots) if (item.shown) draw(item);
}

function setTheme(theme) {
  root.dataset.theme = theme;
  drawAll();
}

function print(on) {
  printing = on;
  for (const item of plots) {
    if (on && !item.shown) show(item);
    else draw(item);
    if (!on) Plotly.Plots.resize(item.element); // gives the width back to the page
  }
}

// Words and numbers.
const percent = (ratio) => {
  const value = 100 * ratio;
  return `${value.toFixed(value >= 10 ? 0 : value >= 1 ? 1 : 2)} %`;
};
function signed(value) {
  if (value === null || value === undefined) return "–";
  const digits = Math.abs(value).toFixed(3);
  return (Number(digits) === 0 ? "±" : value < 0 ? "−" : "+") + digits;
}
const fixed = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));
const milliseconds = (value) => (value === null ? "–" : `${value.toPrecision(3)} ms`);
function engineering(value, unit) {
  const scales = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
  const [scale, prefix] = scales.find(([least]) => value >= least) ?? [1, ""];
  return `${(value / scale).toPrecision(3)} ${prefix}${unit}`.trim();
}

function node(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
