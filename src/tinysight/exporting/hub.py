"""A folder that others can load: weights, graph, labels and a README, as model hubs have them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from tinysight.files import write_atomic
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.weights import weights_bytes

FRAMES = {
    "crop": """\
width = height = min(image.size)
left, top = (image.width - width) // 2, (image.height - height) // 2
""",
    "stretch": """\
(width, height), left, top = image.size, 0, 0
""",
    "pad": """\
width = height = max(image.size)
left, top = (image.width - width) // 2, (image.height - height) // 2
mean = np.asarray(image).mean((0, 1)).round().astype(int)
padded = Image.new("RGB", (width, height), tuple(mean.tolist()))
padded.paste(image, (-left, -top))
image = padded
""",
}
EXAMPLE = """\
import json
import numpy as np, onnxruntime
from PIL import Image, ImageOps

config = json.load(open("config.json", encoding="utf-8"))
names, none_below = config["id2label"], config["none_below"]
size = json.load(open("preprocessor_config.json", encoding="utf-8"))["size"]
image = ImageOps.exif_transpose(Image.open("photo.jpg"))
if image.mode.startswith("I"):  # 16-bit gray
    image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
if image.has_transparency_data:
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    image = white
image = image.convert("RGB")
{frame}columns = image.resize((size, image.height), Image.Resampling.BICUBIC{columns})
square = columns.resize((size, size), Image.Resampling.BICUBIC{rows})
session = onnxruntime.InferenceSession("model.onnx")
logits, *found = session.run(None, {{"images": np.asarray(square)[None]}})
"""
CLASSES = """\
probabilities = np.exp(logits[0] - logits.max())
probabilities /= probabilities.sum()
if none_below is not None and logits[0].max() < none_below:
    print("none of these; the nearest:")
for index in np.argsort(-probabilities)[:5]:
    print(f"{probabilities[index]:.3f}  {names[str(index)]}")
"""
CONFIDENCES = {  # by the decoding
    "filter": "found[1]",
    "stop": "np.minimum.accumulate(found[1], axis=2)",
}
BOXES = """\
boxes, confidences = found[0].reshape(-1, 4), {confidences}.reshape(-1)
surest = confidences.argmax()
box = boxes[surest] * (width, height, width, height) / size + (left, top, left, top)
kind = names[str(found[2].reshape(-1)[surest])] if len(found) > 2 else "box"
print(f"{{confidences[surest]:.3f}}  {{kind}} {{box.round(1).tolist()}}")
"""


def write_folder(folder: Path, model: nn.Module, onnx: bytes, metadata: ModelMetadata) -> int:
    """Write the files into a folder, made if it is not there; return their bytes.

    Raises ValueError for a folder that holds anything but an earlier export.
    """
    if folder.is_dir() and not _is_ours(folder) and any(folder.iterdir()):
        raise ValueError(f"{folder} holds other files; name another folder by --out")
    folder.mkdir(exist_ok=True)
    files = {
        "model.safetensors": weights_bytes(model, metadata),
        "model.onnx": onnx,
        "config.json": _json(_config(metadata)),
        "preprocessor_config.json": _json({"size": metadata.image_size, "fit": metadata.fit}),
        "labels.txt": "".join(f"{_line(name)}\n" for name in metadata.class_names).encode(),
        "README.md": _readme(metadata).encode(),
    }
    for name, content in files.items():
        write_atomic(folder / name, content)
    return sum(map(len, files.values()))


def _is_ours(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return str(config["model_type"]).startswith("tinysight-")
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _config(metadata: ModelMetadata) -> dict[str, Any]:
    names = metadata.class_names
    return {
        "model_type": f"tinysight-{metadata.model}",
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "num_labels": len(names),
        "localizer": metadata.localizer or None,
        "none_below": metadata.none_below,
    }


def _readme(metadata: ModelMetadata) -> str:
    """Return the page: its head is YAML, each value written as JSON, which YAML includes."""
    val = metadata.results.get("val", {})
    metrics = [
        {"type": name, "value": round(value, 4)}
        for name, value in (
            ("accuracy", 1 - val["top1_error"] if "top1_error" in val else None),
            ("loc50", val.get("loc50")),
        )
        if value is not None
    ]
    task = {"type": "object-detection" if metadata.localizer else "image-classification"}
    result = {"task": task, "dataset": {"name": metadata.data, "type": metadata.data}}
    index = [{"name": metadata.recipe, "results": [result | {"metrics": metrics}]}]
    head = {
        "library_name": "tinysight",
        "pipeline_tag": task["type"],
        "tags": ["onnx", *["image-classification"] * metadata.classifies],
        "model-index": index if metrics else [],
    }
    yaml = "".join(
        f"{key}: {json.dumps(value, ensure_ascii=True)}\n" for key, value in head.items()
    )
    size = metadata.image_size
    outputs = "`logits` (B, classes)"
    if metadata.localizer:
        outputs += ", `boxes` (B, cells, boxes, 4) as x0, y0, x1, y1 in pixels, `confidences`"
    if metadata.has_box_classes:
        outputs += ", `labels`"
    about = re.sub(r"([<>&*_`\[\]\\])", r"\\\1", _line(metadata.describe()))
    return f"""---
{yaml}---
# {re.sub(r"[^ -~]|[<>&`]", "?", metadata.recipe)}

{about}.

`model.onnx` takes `images`, uint8 (B, {size}, {size}, 3), RGB, and gives {outputs}; cropping,
normalization and the average over the mirror image are inside. With NumPy, Pillow and onnxruntime:

```python
{example_of(metadata)}```

With tinysight: `tinysight predict model.safetensors photo.jpg`, or `model.onnx`.
"""


def example_of(metadata: ModelMetadata) -> str:
    """Return a program that uses the folder's ONNX file with NumPy alone."""
    columns = rows = ""
    if metadata.fit == "crop":
        columns = ", box=(left, 0, left + width, image.height)"
        rows = ", box=(0, top, size, top + height)"
    example = EXAMPLE.format(frame=FRAMES[metadata.fit], columns=columns, rows=rows)
    boxes = BOXES.format(confidences=CONFIDENCES[metadata.localizer.get("decoding", "filter")])
    return example + CLASSES * metadata.classifies + boxes * bool(metadata.localizer)


def _line(text: str) -> str:
    """Return a name as one line."""
    return " ".join(text.split())


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "surrogateescape")
