// Why an answer: a heat map of what it rests on, and the training pictures nearest to it.

import { create, isolated, percent, shown } from "./answers.js";
import { call } from "./server.js";

const PAUSE = 500; // milliseconds between looks at what is being computed
const UNCHANGED = 0.05; // of a probability
const SPACE = "http://www.w3.org/2000/svg";

// Two buttons of an answer, and places for what they show; nothing is computed before.
export function explanations(item, figure) {
  const list = create("ol", { className: "nearest", hidden: true });
  const switches = [switching("Heat map", "aria-pressed", async () => {
    const found = await asked("api/heat", item);
    if (!tools.closest(".card")) return ""; // the card was filled again meanwhile
    figure.append(drawHeat(found, item.answer));
    figure.classList.add("heated");
    return said(found);
  }, () => {
    for (const layer of figure.querySelectorAll("svg.heat")) layer.remove();
    figure.classList.remove("heated");
  })];
  if (item.nearest) {
    switches.push(switching("Nearest training pictures", "aria-expanded", async (status) => {
      list.replaceChildren(...(await nearest(item, status)).map(neighbor));
      list.hidden = false;
      return "";
    }, () => (list.hidden = true)));
  }
  const tools = create("div", { className: "row why" }, ...switches.map(({ button }) => button));
  return [tools, ...switches.map(({ status }) => status), list];
}

const asked = (path, item) => call(`${path}?model=${item.model}`, { method: "POST", body: item.blob });

// A button that shows something, which takes a while or fails, and hides it again.
function switching(name, state, show, hide) {
  const status = create("p", { className: "quiet", role: "status" });
  const button = create("button", { type: "button", textContent: name });
  button.setAttribute(state, "false");
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-busy")) return;
    status.classList.remove("error");
    status.textContent = "";
    if (button.getAttribute(state) === "true") {
      button.setAttribute(state, "false");
      hide();
      return;
    }
    button.setAttribute("aria-busy", "true");
    status.textContent = "Computing…";
    try {
      status.textContent = await show(status);
      button.setAttribute(state, "true");
    } catch (error) {
      status.textContent = error.message;
      status.classList.add("error");
    }
    button.removeAttribute("aria-busy");
  });
  return { button, status };
}

function said({ class: name, probability, covered, heat }) {
  const what = name === "" ? "the surest box" : shown(name);
  if (!heat.flat().some((share) => share === 1)) return `No part alone matters much for ${what}.`;
  const still = probability - covered < UNCHANGED ? "still " : "";
  return `${what}: ${percent(probability)}, and ${still}${percent(covered)} with the brightest part covered.`;
}

async function nearest(item, status) {
  for (;;) {
    const { nearest, prepared } = await asked("api/nearest", item);
    if (nearest) return nearest;
    status.textContent = `Looking at the training pictures: ${Math.round(100 * prepared)} %`;
    await new Promise((done) => setTimeout(done, PAUSE));
  }
}

function neighbor({ file, class: name, distance, image }) {
  const label = name ? [isolated(name)] : [];
  const picture = create("img", { src: image, alt: "", title: shown(file) });
  return create("li", {}, picture, ...label, create("span", { className: "quiet", textContent: distance.toFixed(2) }));
}

// The shares as a layer over the part of the picture that the model sees.
function drawHeat({ heat, frame: [x, y, width, height] }, { width: right, height: bottom }) {
  const canvas = create("canvas", { width: heat[0].length, height: heat.length });
  const context = canvas.getContext("2d");
  heat.forEach((row, top) => row.forEach((share, left) => {
    context.fillStyle = `rgb(255 ${Math.round(200 * share)} 0 / ${0.75 * share})`;
    context.fillRect(left, top, 1, 1);
  }));
  const [layer, picture] = [["class", "heat"], ["width", right]].map(([name, value]) => {
    const svg = document.createElementNS(SPACE, "svg"); // the inner one cuts off what is padding
    svg.setAttribute("viewBox", `0 0 ${right} ${bottom}`);
    svg.setAttribute(name, value);
    return svg;
  });
  picture.setAttribute("height", bottom);
  layer.setAttribute("aria-hidden", "true");
  const image = document.createElementNS(SPACE, "image");
  const values = { href: canvas.toDataURL(), x, y, width, height, preserveAspectRatio: "none" };
  for (const [name, value] of Object.entries(values)) image.setAttribute(name, value);
  picture.append(image);
  layer.append(picture);
  return layer;
}
