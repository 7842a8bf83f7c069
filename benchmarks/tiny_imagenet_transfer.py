"""Does ImageNet transfer to Tiny ImageNet? EfficientNet-Lite0, frozen, with two last layers.

    python benchmarks/tiny_imagenet_transfer.py --features DIR

Features of train, minival and val at 160 pixels are kept in DIR (an interruption loses 500 images
at most); of minival and val those of the mirror images, too. ONNX Runtime computes them where it is
installed, half again as fast as torch. Linear discriminant analysis and logistic regression with
dropout learn from train; minival chooses between them, and val is measured once.

ImageNet's pictures include those of Tiny ImageNet, at full size, val perhaps among them: this is a
question of the report (section 5), and no result to compare with training from nothing."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.data.dataset import Dataset, open_dataset
from tinysight.evaluation.evaluate import Evaluation
from tinysight.finetuning.encoders import find_encoder
from tinysight.finetuning.lda import fit
from tinysight.ops.augment import resize

SIZE, BATCH, CHUNK = 160, 20, 500
SHRINKAGES = (0.05,)
EPOCHS, LOGISTIC_BATCH, LR, DROPOUT = 10, 500, 1e-3, 0.5

Ints = npt.NDArray[np.int64]
Compute = Callable[[Tensor], Tensor]


class Pooled(nn.Module):
    """Images (B, 3, S, S) in 0..255 -> means of the features (B, 2432)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = find_encoder("lite0").network(2)

    def forward(self, images: Tensor) -> Tensor:
        return self.network.forward_features(images).mean(dim=(2, 3))


def fast(folder: Path) -> Compute:
    """Return the network, by ONNX Runtime where it is installed."""
    pooled = Pooled().eval()
    try:
        import onnxruntime
    except ImportError:
        return pooled.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
    path = folder / "lite0.onnx"
    if not path.exists():
        torch.onnx.export(pooled, (torch.zeros(BATCH, 3, SIZE, SIZE),), path, dynamo=True)
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name

    def compute(images: Tensor) -> Tensor:
        padded = F.pad(images, (0, 0, 0, 0, 0, 0, 0, BATCH - len(images)))
        return torch.from_numpy(session.run(None, {name: padded.numpy()})[0][: len(images)])

    return compute


def extract(dataset: Dataset, split: str, flip: bool, folder: Path) -> Tensor:
    """Return the roots of a split's features, float16 (N, 2432); compute those that are missing."""
    rows, compute, parts = dataset.rows(split), None, []
    for start in range(rows.start, rows.stop, CHUNK):
        path = folder / f"{split}-{int(flip)}-{start:06d}.npy"
        if not path.exists():
            compute = compute or fast(folder)
            own = range(start, min(start + CHUNK, rows.stop))
            np.save(temporary := path.with_suffix(".tmp.npy"), _chunk(compute, dataset, own, flip))
            temporary.rename(path)
            print(path.name, flush=True)
        means = torch.from_numpy(np.load(path)).float()
        parts.append((means.clamp_min(0) + 1e-5).sqrt().half())
    return torch.cat(parts)


@torch.inference_mode()
def _chunk(compute: Compute, dataset: Dataset, rows: range, flip: bool) -> npt.NDArray[np.float16]:
    found = []
    for start in range(rows.start, rows.stop, BATCH):
        images = torch.from_numpy(np.array(dataset.images[start : min(start + BATCH, rows.stop)]))
        images = images.permute(0, 3, 1, 2).float()
        found.append(compute(resize(images.flip(-1) if flip else images, SIZE).contiguous()))
    return torch.cat(found).half().numpy()


def logistic(features: Tensor, labels: Tensor, num_classes: int) -> Compute:
    """Fit logistic regression with dropout on standardized features; return features -> logits."""
    generator = torch.Generator().manual_seed(0)
    mean, deviation = features.float().mean(dim=0), features.float().std(dim=0) + 1e-3
    layer = nn.Linear(features.shape[1], num_classes)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=LR, weight_decay=0.01)
    steps = EPOCHS * (len(labels) // LOGISTIC_BATCH)
    for step in range(steps):
        if step % (len(labels) // LOGISTIC_BATCH) == 0:
            order = torch.randperm(len(labels), generator=generator)
        own = order[step * LOGISTIC_BATCH % len(labels) :][:LOGISTIC_BATCH]
        x = (features[own].float() - mean) / deviation
        kept = torch.rand(x.shape, generator=generator) >= DROPOUT
        loss = F.cross_entropy(layer(x * kept / (1 - DROPOUT)), labels[own], label_smoothing=0.1)
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    layer.requires_grad_(False)
    return lambda x: layer((x.float() - mean) / deviation)


def main() -> None:
    """Compute the features, choose on minival, measure val once, and print a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.features.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset("tiny-imagenet")
    labels = torch.from_numpy(np.array(dataset.labels))

    def of(split: str) -> tuple[Tensor, Tensor]:
        rows = dataset.rows(split)
        both = [extract(dataset, split, flip, given.features) for flip in (False, True)]
        return torch.stack(both), labels[rows.start : rows.stop]

    minival, val = of("minival"), of("val")
    rows = dataset.rows("train")
    learned = (extract(dataset, "train", False, given.features), labels[rows.start : rows.stop])

    def logits(compute: Compute, views: Tensor) -> Tensor:
        return (compute(views[0]) + compute(views[1])) / 2

    heads: dict[str, Compute] = {
        f"LDA, shrinkage {s}": fit(*learned, 200, s).logits for s in SHRINKAGES
    }
    heads["logistic"] = logistic(*learned, 200)
    errors = {}
    for name, compute in heads.items():
        wrong = logits(compute, minival[0]).argmax(dim=1) != minival[1]
        errors[name] = float(wrong.double().mean())
        print(f"minival, {name}: {100 * errors[name]:.2f} %", flush=True)
    best = min(errors, key=lambda name: errors[name])
    rows = dataset.rows("val")
    found = Evaluation(
        dataset.name,
        "val",
        logits(heads[best], val[0]),
        val[1],
        torch.arange(rows.start, rows.stop),
    )
    row = {"encoder": "lite0 at 160 px", "head": best, "minival": errors, **asdict(found.metrics)}
    print(json.dumps(row, indent=1))
    if given.out is not None:
        given.out.write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
