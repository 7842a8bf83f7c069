// Answers as files, in the forms that `tinysight predict` writes: CSV, and COCO's JSON.
// An answer is what `predict --json` prints of a picture, with its width and height. Items may come
// from several models: `of` is an item's own, without which it is the one given.
// The page of `tinysight serve` and the one that `tinysight export` writes share this file.

// The class of a box: its own where boxes have classes, else the picture's.
const boxClass = (box, answer, model) => (model.box_classes ? box.class : answer.top[0]?.class ?? "");

// Items that have an answer, each with its model, and these models; the one given where there is none.
function answered(items, given) {
  const found = items.filter(({ answer }) => answer).map(({ name, answer, of = given }) => ({ name, answer, model: of }));
  return [found, found.length ? [...new Set(found.map(({ model }) => model))] : [given]];
}

export function csvOf(items, given) {
  const [found, models] = answered(items, given);
  const corners = models.some(({ finds }) => finds) ? ["x0", "y0", "x1", "y1", "confidence"] : [];
  const rows = [["file", ...corners, "class", "probability"]];
  for (const { name, answer, model } of found) {
    const best = answer.none ? undefined : answer.top[0];
    const probability = best ? best.probability.toFixed(6) : "";
    for (const each of answer.boxes ?? []) {
      const numbers = [...each.box.map((edge) => edge.toFixed(2)), each.confidence.toFixed(6)];
      rows.push([name, ...numbers, boxClass(each, answer, model), probability]);
    }
    if (!answer.boxes?.length) rows.push([name, ...corners.map(() => ""), best?.class ?? "", probability]);
  }
  return rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n";
}

function quoted(value) {
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

export function cocoOf(items, given) {
  const [found, models] = answered(items.filter(({ of = given }) => of.finds), given);
  const own = models.flatMap((model) => (model.classifies || model.box_classes ? model.classes : ["object"]));
  const names = [...new Set(own)];
  const numbers = new Map(names.map((name, index) => [name, index + 1]));
  const images = [];
  const annotations = [];
  for (const { name, answer, model } of found) {
    const image = images.length + 1;
    images.push({ id: image, file_name: name, width: answer.width, height: answer.height });
    for (const each of answer.boxes ?? []) {
      const [x0, y0, x1, y1] = each.box;
      const sides = [x1 - x0, y1 - y0].map((side) => Math.round(side * 100) / 100);
      annotations.push({
        id: annotations.length + 1,
        image_id: image,
        category_id: numbers.get(boxClass(each, answer, model) || "object"),
        bbox: [x0, y0, ...sides],
        area: Math.round(sides[0] * sides[1] * 100) / 100,
        iscrowd: 0,
        score: each.confidence,
      });
    }
  }
  const categories = names.map((name, index) => ({ id: index + 1, name }));
  return JSON.stringify({ images, annotations, categories });
}

export function save(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
