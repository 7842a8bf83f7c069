// Drawn shapes, so that the page can be tried without any picture at hand.

import { create } from "./answers.js";

const SIDE = 96;
export const SHAPES = { circle, cross, triangle };

// Pictures of one of SHAPES, each in other colors, size, place and angle.
export async function drawn(name, count) {
  const pictures = [];
  for (let number = 1; number <= count; number += 1) {
    pictures.push({ name: `${name} ${number}.png`, blob: await draw(SHAPES[name]) });
  }
  return pictures;
}

function draw(shape) {
  const canvas = create("canvas", { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d");
  const hue = Math.random() * 360;
  const color = (turn, light) => `hsl(${Math.floor((hue + turn) % 360)} 60% ${Math.floor(light)}%)`;
  const light = 25 + Math.random() * 50;
  context.fillStyle = color(0, light);
  context.fillRect(0, 0, SIDE, SIDE);
  context.translate(38 + Math.random() * 20, 38 + Math.random() * 20);
  context.rotate((Math.random() - 0.5) * 0.8);
  context.fillStyle = color(90 + Math.random() * 180, (light + 45) % 80 + 10);
  shape(context, 18 + Math.random() * 14);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

function circle(context, radius) {
  context.beginPath();
  context.arc(0, 0, radius, 0, 7);
  context.fill();
}

function cross(context, radius) {
  context.fillRect(-radius, -radius / 4, 2 * radius, radius / 2);
  context.fillRect(-radius / 4, -radius, radius / 2, 2 * radius);
}

function triangle(context, radius) {
  context.beginPath();
  context.moveTo(0, -radius);
  context.lineTo(radius, 0.8 * radius);
  context.lineTo(-radius, 0.8 * radius);
  context.fill();
}
