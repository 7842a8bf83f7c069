// The page of a model: pictures in, classes and boxes out. `ort` is ONNX Runtime Web.
const $ = (id) => document.getElementById(id);
const metadata = JSON.parse($("metadata").textContent);
const SIZE = metadata.image_size;
const MOST_PIXELS = 16e6; // of a canvas on a phone
const SHOWN = 420; // pixels of a picture's longer side
const TOP = 5;
const answers = [];
const model = { // as saving.js takes it
  classes: metadata.class_names, classifies: metadata.classifies, finds: metadata.localizer !== null, box_classes: metadata.has_box_classes,
};

async function unpack(id) {
  const text = atob($(id).textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  $(id).remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function load() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await unpack("wasm");
  return ort.InferenceSession.create(await unpack("model"), { executionProviders: ["wasm"] });
}

// Resizing as Pillow's bicubic filter does it, to the byte: two passes of fixed-point sums.
const ONE = 2 ** 22;

function bicubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

function kernels(source, from, to, target) {
  const scale = (to - from) / target, wide = Math.max(scale, 1), support = 2 * wide;
  return Array.from({ length: target }, (_, at) => {
    const center = from + (at + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(source, Math.trunc(center + support + 0.5));
    const weights = [];
    for (let i = first; i < last; i++) weights.push(bicubic((i - center + 0.5) / wide));
    const inverse = 1 / (weights.reduce((a, b) => a + b, 0) || 1);
    return { first, weights: weights.map((w) => Math.trunc(w * inverse * ONE + Math.sign(w) * 0.5)) };
  });
}

// An image {data, width, height}, `step` bytes per pixel, -> `target` columns of [from, to), 3 bytes.
function columns(image, from, to, target) {
  const { data, width, height, step } = image;
  const out = new Uint8ClampedArray(target * height * 3), all = kernels(width, from, to, target);
  for (let x = 0; x < target; x++) {
    const { first, weights } = all[x];
    for (let y = 0; y < height; y++) {
      let r = ONE / 2, g = ONE / 2, b = ONE / 2, at = (y * width + first) * step;
      for (const w of weights) {
        r += data[at] * w; g += data[at + 1] * w; b += data[at + 2] * w; at += step;
      }
      const to = (y * target + x) * 3;
      out[to] = r >> 22; out[to + 1] = g >> 22; out[to + 2] = b >> 22;
    }
  }
  return { data: out, width: target, height, step: 3 };
}

function transposed({ data, width, height, step }) {
  const out = new Uint8ClampedArray(width * height * 3);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const from = (y * width + x) * step, to = (x * height + y) * 3;
    out[to] = data[from]; out[to + 1] = data[from + 1]; out[to + 2] = data[from + 2];
  }
  return { data: out, width: height, height: width, step: 3 };
}

const rows = (image, from, to, target) => transposed(columns(transposed(image), from, to, target));

function resized(image, [left, top, width, height]) {
  if (image.width !== SIZE || left || width !== SIZE) image = columns(image, left, left + width, SIZE);
  if (image.height !== SIZE || top || height !== SIZE) image = rows(image, top, top + height, SIZE);
  return image.step === 3 ? image : transposed(transposed(image));
}

// The rectangle of a picture that becomes the square: [left, top, width, height].
function frame(width, height) {
  if (metadata.fit === "stretch") return [0, 0, width, height];
  const side = (metadata.fit === "crop" ? Math.min : Math.max)(width, height);
  return [Math.floor((width - side) / 2), Math.floor((height - side) / 2), side, side];
}

function square(image) {
  const [left, top, width, height] = frame(image.width, image.height);
  if (metadata.fit !== "pad") return resized(image, [left, top, width, height]);
  const wide = image.width > image.height; // the longer side is resized first, then the other padded
  image = wide ? columns(image, 0, image.width, SIZE) : rows(image, 0, image.height, SIZE);
  const mean = [0, 1, 2].map((channel) => {
    let sum = 0;
    for (let i = channel; i < image.data.length; i += 3) sum += image.data[i];
    return Math.round((sum * 3) / image.data.length);
  });
  const [columnCount, rowCount] = wide ? [SIZE, height] : [width, SIZE];
  const padded = { data: new Uint8ClampedArray(columnCount * rowCount * 3), width: columnCount, height: rowCount, step: 3 };
  for (let i = 0; i < padded.data.length; i++) padded.data[i] = mean[i % 3];
  const [x0, y0] = wide ? [0, -top] : [-left, 0];
  for (let y = 0; y < image.height; y++) {
    const row = image.data.subarray(y * image.width * 3, (y + 1) * image.width * 3);
    padded.data.set(row, ((y + y0) * columnCount + x0) * 3);
  }
  return resized(padded, [0, 0, columnCount, rowCount]);
}

function overlap(a, b) {
  const w = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), h = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const both = Math.max(w, 0) * Math.max(h, 0), area = (c) => (c[2] - c[0]) * (c[3] - c[1]);
  return both > 0 ? both / (area(a) + area(b) - both) : 0;
}

// Boxes of confidence `threshold` or more, in pixels of the picture.
function boxesOf(output, width, height) {
  const { decoding, threshold, nms_iou: limit } = metadata.localizer;
  const [, , steps] = output.confidences.dims, found = [];
  let lowest = 1;
  output.confidences.data.forEach((confidence, i) => {
    lowest = i % steps ? Math.min(lowest, confidence) : confidence;
    const value = decoding === "stop" ? lowest : confidence;
    const label = output.labels ? Number(output.labels.data[i]) : 0;
    if (value >= threshold) found.push([...output.boxes.data.slice(4 * i, 4 * i + 4), value, label]);
  });
  found.sort((a, b) => b[4] - a[4]);
  const kept = [];
  const apart = (a, b) => a[5] !== b[5] || overlap(a, b) <= limit; // boxes of several classes may overlap
  for (const box of found) if (limit >= 1 || kept.every((k) => apart(k, box))) kept.push(box);
  const [left, top, w, h] = frame(width, height), clip = (v, most) => Math.min(Math.max(v, 0), most);
  return kept
    .map(([x0, y0, x1, y1, confidence, label]) => ({
      box: [
        clip((x0 * w) / SIZE + left, width), clip((y0 * h) / SIZE + top, height),
        clip((x1 * w) / SIZE + left, width), clip((y1 * h) / SIZE + top, height),
      ],
      confidence,
      ...(metadata.has_box_classes && { class: metadata.class_names[label] }),
    }))
    .filter(({ box: [x0, y0, x1, y1] }) => x0 < x1 && y0 < y1);
}

function drawn(bitmap, width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // under transparency
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return [canvas, context];
}

async function predict(session, bitmap) {
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height)));
  const width = Math.round(bitmap.width * scale), height = Math.round(bitmap.height * scale);
  const { data } = drawn(bitmap, width, height)[1].getImageData(0, 0, width, height);
  const pixels = new Uint8Array(square({ data, width, height, step: 4 }).data);
  const output = await session.run({ images: new ort.Tensor("uint8", pixels, [1, SIZE, SIZE, 3]) });
  const logits = [...output.logits.data], largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest)), sum = powers.reduce((a, b) => a + b);
  const top = powers.map((power, i) => ({ class: metadata.class_names[i], probability: power / sum }));
  top.sort((a, b) => b.probability - a.probability);
  const limit = metadata.none_below;
  return { // in pixels of the picture as it was given, however small it was drawn
    width: bitmap.width, height: bitmap.height, top: metadata.classifies ? top.slice(0, TOP) : [],
    none: limit !== null && largest < limit,
    boxes: metadata.localizer ? boxesOf(output, bitmap.width, bitmap.height) : [],
  };
}

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text; // never markup: names are other people's
  parent?.append(made);
  return made;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function show(name, bitmap, answer) {
  const card = document.createElement("article");
  const scale = Math.min(1, SHOWN / Math.max(bitmap.width, bitmap.height));
  const size = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const [canvas, context] = drawn(bitmap, ...size);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name);
  const ratio = size[0] / answer.width;
  for (const { box: [x0, y0, x1, y1] } of answer.boxes) {
    for (const [color, line] of [["black", 4], ["#ffd400", 2]]) {
      Object.assign(context, { strokeStyle: color, lineWidth: line });
      context.strokeRect(x0 * ratio, y0 * ratio, (x1 - x0) * ratio, (y1 - y0) * ratio);
    }
  }
  card.append(canvas);
  const title = answer.none ? "none of these" : answer.top[0]?.class ?? `${answer.boxes.length} found`;
  element("h2", title, card);
  element("p", name, card).className = "quiet";
  const bars = element("ol", "", card);
  for (const { class: label, probability } of answer.top) {
    const bar = element("li", "", bars);
    element("i", "", bar).style.width = percent(probability).replace(" ", "");
    element("span", label, bar);
    element("span", percent(probability), bar);
  }
  if (metadata.localizer) {
    const text = answer.boxes.map((each) => `${each.class ?? "box"} (${each.box.map(Math.round).join(", ")}), ${percent(each.confidence)}`);
    element("p", text.join("; ") || "no box found", card);
  }
  $("answers").prepend(card);
}

function fail(name, reason) {
  const card = document.createElement("article");
  card.className = "failed";
  element("h2", "cannot be read", card);
  element("p", `${name}: ${reason}`, card);
  $("answers").prepend(card);
}

const session = load();
let queue = session.catch(() => {}); // each picture says that there is no model
let waiting = 0;
let round = 0; // Clear begins the next one
let rest = "Loading the model"; // what is said while no picture waits
const say = () => ($("status").textContent = waiting ? `${waiting} to go` : rest);

function ask(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
  if (files.length && !pictures.length) $("status").textContent = "That is not a picture";
  waiting += pictures.length;
  for (const file of pictures) {
    const name = file.name || "picture";
    const own = round;
    queue = queue.then(() => own === round && answer(file, name, own));
  }
}

async function answer(file, name, own) {
  say();
  try {
    const bitmap = await createImageBitmap(file).catch(() => {
      throw new Error("this browser cannot read it as a picture");
    });
    const found = await predict(await session, bitmap);
    if (own === round) {
      show(name, bitmap, found);
      answers.push({ name, answer: found });
    }
    bitmap.close();
  } catch (error) {
    if (own === round) fail(name, error.message);
  }
  if (own !== round) return; // cleared meanwhile
  waiting -= 1;
  say();
  $("save").hidden = !answers.length;
  $("clear").hidden = false;
}

for (const id of ["files", "capture"])
  $(id).addEventListener("change", (event) => {
    ask(event.target.files);
    event.target.value = "";
  });
addEventListener("paste", (event) => ask(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"])
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") ask(event.dataTransfer.files);
  });

const video = document.querySelector("video");
const stop = (stream) => stream?.getTracks().forEach((track) => track.stop());
let opening = 0; // the number of the latest; it ends when the camera is closed
function closeCamera() {
  opening += 1;
  stop(video.srcObject);
  video.srcObject = null;
  $("live").hidden = true;
  $("camera").focus();
}
$("camera").addEventListener("click", async () => {
  if (!$("live").hidden) return;
  const own = ++opening;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    if (own === opening) $("capture").click(); // a phone's own camera, where a page may not open it
    return;
  }
  if (own !== opening) return stop(stream);
  video.srcObject = stream;
  $("shoot").disabled = true; // until there is a picture
  $("live").hidden = false;
  await video.play().catch(() => {}); // closed before there was one
  if (own !== opening) return;
  $("shoot").disabled = false;
  $("shoot").focus();
});
$("stop").addEventListener("click", closeCamera);
$("live").addEventListener("keydown", (event) => event.key === "Escape" && closeCamera());
let shots = 0;
$("shoot").addEventListener("click", () => {
  const [canvas] = drawn(video, video.videoWidth, video.videoHeight);
  canvas.toBlob((blob) => ask([new File([blob], `camera ${++shots}`, { type: "image/png" })]));
});
$("clear").addEventListener("click", () => {
  $("answers").replaceChildren();
  answers.length = 0;
  round += 1;
  waiting = 0;
  say();
  $("save").hidden = $("clear").hidden = true;
  $("files").focus();
});
$("save").addEventListener("click", () => save(csvOf(answers, model), "answers.csv", "text/csv"));

session.then(() => "Ready", (error) => `The model cannot be loaded: ${error.message}`).then((state) => {
  rest = state;
  if (!waiting) say();
});
