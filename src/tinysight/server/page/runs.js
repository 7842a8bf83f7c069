// Runs: a list, and of one run its curves, drawn again while it trains.

import { percent, shown } from "./answers.js";
import { call } from "./server.js";

const EVERY = 2000; // milliseconds between looks at a training
const WIDTH = 480;
const HEIGHT = 200;
const MARGIN = { left: 52, right: 8, top: 8, bottom: 24 };

const element = (id) => document.getElementById(id);
let timer = 0;
let turn = 0; // of looks: only the latest goes on
let chosen = "";

export function showRuns(visible) {
  clearTimeout(timer);
  turn += 1;
  if (visible) look();
}

async function look() {
  clearTimeout(timer);
  turn += 1;
  const own = turn;
  const status = element("runs-status");
  try {
    const runs = await call("api/runs");
    if (own !== turn) return;
    status.textContent = runs.length ? "" : "There is no run yet. Make one by: tinysight train small --data FOLDER";
    list(runs);
    const run = chosen && (await call(`api/runs/${encodeURIComponent(chosen)}`));
    if (own !== turn) return;
    if (run) draw(run);
    if (runs.some((run) => run.state === "training")) timer = setTimeout(look, EVERY);
  } catch (error) {
    if (own !== turn) return;
    status.textContent = error.message;
    timer = setTimeout(look, 2 * EVERY);
  }
}

function list(runs) {
  const parent = element("runs-list");
  const focused = document.activeElement?.dataset?.name;
  parent.replaceChildren(...runs.map((run) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.name = run.name;
    button.setAttribute("aria-expanded", String(run.name === chosen));
    button.append(text("strong", run.name), text("span", `${run.recipe} on ${run.data}`), text("span", run.monitored, "quiet"), text("span", run.state, "quiet state"));
    button.addEventListener("click", () => {
      chosen = chosen === run.name ? "" : run.name;
      element("run").hidden = !chosen;
      look();
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
  for (const button of parent.querySelectorAll("button")) if (button.dataset.name === focused) button.focus();
}

function text(tag, content, className = "") {
  const made = document.createElement(tag);
  made.textContent = shown(content);
  made.className = className;
  return made;
}

function draw(run) {
  const parts = [text("h2", run.name)];
  if (run.duration) parts.push(text("p", `trained in ${run.duration}`, "quiet"));
  const charts = document.createElement("div");
  charts.className = "charts";
  charts.append(...run.curves.filter(({ points }) => points.length).map(chart));
  if (!charts.children.length) parts.push(text("p", run.state === "finished" ? "It has no curves." : "No step has been logged yet.", "quiet"));
  parts.push(charts);
  if (run.has_report) {
    const link = text("a", "Report on its errors");
    link.href = `runs/${encodeURIComponent(run.name)}/report`;
    link.target = "_blank";
    link.rel = "noopener";
    parts.push(link);
  } else if (run.state === "finished") {
    parts.push(text("p", `A report on its errors is made by: tinysight report ${run.name}`, "quiet"));
  }
  element("run").replaceChildren(...parts);
  element("run").hidden = false;
}

export function chart({ name, points, unit = "epoch", share = true }) {
  const written = share ? percent : number;
  const at = (value) => (unit === "epoch" ? `epoch ${number(value)}` : `${Math.round(value)} ${unit}`);
  const figure = document.createElement("figure");
  const last = points[points.length - 1];
  figure.append(text("figcaption", `${name}: ${written(last[1])} at ${at(last[0])}`));
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [right, top] = [Math.max(...xs), Math.max(...ys) || 1];
  const bottom = Math.min(0, ...ys);
  const x = (value) => MARGIN.left + (value / right) * (WIDTH - MARGIN.left - MARGIN.right);
  const y = (value) => HEIGHT - MARGIN.bottom - ((value - bottom) / (top - bottom)) * (HEIGHT - MARGIN.bottom - MARGIN.top);
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": figure.textContent });
  for (const value of [bottom, (bottom + top) / 2, top]) {
    svg.append(make("line", { x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y(value), y2: y(value) }));
    svg.append(make("text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, written(value)));
  }
  svg.append(make("text", { x: x(right), y: HEIGHT - 6, "text-anchor": "end" }, at(right)));
  svg.append(make("polyline", { points: points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ") }));
  svg.append(make("circle", { cx: x(last[0]), cy: y(last[1]), r: 3 }));
  figure.append(svg);
  return figure;
}

function make(tag, attributes, content = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = content;
  return made;
}

const number = (value) => String(Number(value.toPrecision(3)));
