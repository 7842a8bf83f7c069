"""The study `transfer`: how to learn from few images, by the number of images per class.

Each draw of some images per class is learned by every way, and judged by the same other images:
features of each trained encoder, fixed, with a last layer in closed form; the entire network,
trained on from the bundled encoder's; and a network of its own, from nothing.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinysight import run as runs
from tinysight.analysis.pictures import save_figure
from tinysight.analysis.plots import Curve, overlaid_curves
from tinysight.analysis.statistics import summarize
from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.data.load import load_at_size
from tinysight.data.selection import draw, drawn_rows
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import evaluate_run
from tinysight.files import write_atomic
from tinysight.finetuning.encoders import Encoder, find_encoder
from tinysight.finetuning.features import features_of
from tinysight.finetuning.finetune import MIN_EPOCHS, NUM_STEPS, Candidate, finetune, full_config
from tinysight.finetuning.lda import fit_views
from tinysight.finetuning.validation import crossvalidate, mean_distances
from tinysight.ops.metrics import topk_correct
from tinysight.predict.pretrained import at_hand
from tinysight.progress import counting
from tinysight.recipes import recipe
from tinysight.study.definitions import TRANSFER
from tinysight.study.plan import OVER
from tinysight.study.report import verdict
from tinysight.text import pluralize

logger = logging.getLogger("tinysight")
QUESTION = "Which way to learn from few images, by the number of images per class?"
COUNTS = (10, 30, 100, 300)
SCRATCH, FULL, CHOSEN = "from nothing", "entire network", "the encoder chosen"
REFERENCE = "bundled"  # the encoder that the entire network begins with
OUTCOMES = "outcomes.json"

Ints = npt.NDArray[np.int64]
Train = Callable[[Config, Dataset, Path], runs.Run]  # trains a run in a folder, or continues it


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The error of one way on one draw."""

    way: str
    per_class: int
    seed: int
    num_train: int
    num_judged: int
    error: float
    crossvalidated: float | None  # of fixed features
    seconds: float  # of learning, without the features


def usable_counts(dataset: Dataset, counts: Sequence[int]) -> list[int]:
    """Return the numbers that at most half of the images of the median class are; else raise."""
    rows = [row for split in dataset.splits if split != "test" for row in dataset.rows(split)]
    labels = dataset.labels[rows]
    numbers = np.bincount(labels[labels >= 0])
    if np.count_nonzero(numbers) < 2:
        raise ValueError(f"{dataset.name} has fewer than two classes with images, and needs two")
    most = int(np.median(numbers[numbers > 0])) // 2
    if not (usable := sorted({count for count in counts if 1 <= count <= most})):
        fewest = f"the fewest to compare, {min(counts)}, need twice as many"
        raise ValueError(
            f"{dataset.name} has {2 * most} images in a class, by the median; {fewest}"
        )
    return usable


@dataclass(frozen=True, eq=False)
class Transfer:
    """What the study learns from, and the folder that keeps its runs and outcomes."""

    folder: Path
    encoders: Sequence[Encoder]
    datasets: Sequence[Dataset]  # by encoder: the same images, at the size that it takes
    home: Path
    runtime: Runtime
    train: Train

    @staticmethod
    def of(data: str, folder: Path, *, home: Path, runtime: Runtime, train: Train) -> Transfer:
        """Prepare a folder or dataset for the encoders that are installed."""
        encoders = [find_encoder(name) for name in at_hand()]
        datasets = []
        for encoder in encoders:
            with counting("preparing images") as progress:
                own: dict[str, Any] = {"home": home, "progress": progress}
                datasets.append(load_at_size(data, encoder.image_size, **own))
        return Transfer(folder, encoders, datasets, home, runtime, train)

    def __post_init__(self) -> None:
        if any(dataset.files != self.base.files for dataset in self.datasets):
            names = " and ".join(sorted({dataset.name for dataset in self.datasets}))
            raise ValueError(f"{names} have other images; give the folder that they are made from")

    @property
    def base(self) -> Dataset:
        """The dataset of the trainings: that of the reference."""
        return self.datasets[[one.name for one in self.encoders].index(REFERENCE)]

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """Features of all images, by encoder (N, 2, F)."""
        found = {}
        for encoder, dataset in zip(self.encoders, self.datasets, strict=True):
            with counting(f"features of {encoder.name}") as progress:
                own: dict[str, Any] = {"home": self.home, "runtime": self.runtime}
                rows = np.arange(len(dataset))
                found[encoder.name] = features_of(encoder, dataset, rows, progress=progress, **own)
        return found

    def measure(self, way: str, per_class: int, seed: int) -> Outcome:
        """Learn a draw by a way, unless its run is there, and judge it."""
        features = {} if way in (FULL, SCRATCH) else self.features  # before the clock
        rows, begun, crossvalidated = drawn_rows(self.base, per_class, seed), time.monotonic(), None
        folder = self.folder / f"{per_class}-per-class-seed{seed}"
        name = f"{self.base.name}.draw{per_class}-{seed}"
        if way in (FULL, SCRATCH):
            view = draw(self.base, per_class, seed, name=name)
            config = self._full(folder, view, rows["train"]) if way == FULL else _scratch(seed)
            run = self.train(config, view, folder / way.replace(" ", "-"))
            if not run.is_finished:
                raise TimeoutError(OVER)
            found = evaluate_run(run, view, runtime=self.runtime)
            wrong = ~topk_correct(found.logits, found.labels, 1)
            seconds = float((run.summary() or {})["seconds"])
        else:
            labels = {split: torch.from_numpy(self.base.labels[own]) for split, own in rows.items()}
            views = {split: features[way][own] for split, own in rows.items()}
            num_classes = len(self.base.class_names)
            groups = np.arange(len(rows["train"]))
            judged = crossvalidate(views["train"], labels["train"], groups, num_classes)
            crossvalidated = None if judged is None else judged.error
            learned = fit_views(views["train"], labels["train"], num_classes)
            wrong = mean_distances(learned, views["val"]).argmax(dim=1) != labels["val"]
            seconds = round(time.monotonic() - begun, 1)
        return Outcome(
            way=way,
            per_class=per_class,
            seed=seed,
            num_train=len(rows["train"]),
            num_judged=len(wrong),
            error=float(wrong.double().mean()),
            crossvalidated=crossvalidated,
            seconds=seconds,
        )

    def _full(self, folder: Path, view: Dataset, rows: Ints) -> Config:
        """Write the run of fixed features that the entire network begins with."""
        start = folder / f"{REFERENCE}-start"
        if not (start / "weights.safetensors").is_file():
            shutil.rmtree(start, ignore_errors=True)
            features = self.features[REFERENCE][rows]
            labels = torch.from_numpy(self.base.labels[rows])
            encoder = next(one for one in self.encoders if one.name == REFERENCE)
            groups, num_classes = np.arange(len(rows)), len(view.class_names)
            judged = crossvalidate(features, labels, groups, num_classes)
            finetune([Candidate(encoder, view, features, labels, judged)], name=start)
        return full_config(runs.read_run(start), view)


def _scratch(seed: int) -> Config:
    config = recipe("small")
    data = replace(config.data, monitor="none")
    return replace(config, data=data, train=replace(config.train, seed=seed, keep_weights="last"))


def measure(study: Transfer, counts: Sequence[int], seeds: int) -> None:
    """Measure what is not measured yet, the quickest ways first, and keep each outcome at once."""
    known = read_outcomes(study.folder, digest=study.base.digest)
    done = {(one.way, one.per_class, one.seed) for one in known}
    ways = (*(encoder.name for encoder in study.encoders), FULL, SCRATCH)
    for way, seed, count in itertools.product(ways, range(seeds), counts):
        if (way, count, seed) not in done:
            own = study.measure(way, count, seed)
            logger.info("%d per class, seed %d, %s: %.2f %%", count, seed, way, 100 * own.error)
            known.append(own)
            content: dict[str, Any] = {"format": 1, "data_digest": study.base.digest}
            content |= {"outcomes": [asdict(one) for one in known]}
            study.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(study.folder / OUTCOMES, json.dumps(content, indent=1).encode())


def read_outcomes(folder: Path, *, digest: str | None = None) -> list[Outcome]:
    """Read what was measured, of data with a digest; nothing where there is no file."""
    path = folder / OUTCOMES
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_bytes())
        found = [Outcome(**one) for one in content["outcomes"]]
        measured = content.get("data_digest", digest)  # of older files not known
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to measure again") from None
    if digest is not None and measured != digest:
        raise ValueError(f"{path} has results of other images; choose another --name")
    return found


def report(folder: Path, *, data: str, command: str) -> str:
    """Write table.md and figure.png of what was measured, and return the verdicts."""
    outcomes = read_outcomes(folder)
    if not outcomes:
        raise ValueError(f"nothing of {folder} is measured yet, so there is nothing to report")
    outcomes += _chosen(outcomes)
    counts = sorted({one.per_class for one in outcomes})
    ways = list(dict.fromkeys(one.way for one in outcomes))
    errors = {
        (way, count): {one.seed: one.error for one in outcomes if _is(one, way, count)}
        for way in ways
        for count in counts
    }
    verdicts = [
        f"{count} per class: {verdict(way, errors[way, count], REFERENCE, others, images)}"
        for count in counts
        if (others := errors[REFERENCE, count])
        for images in [min(one.num_judged for one in outcomes if one.per_class == count)]
        for way in ways
        if way != REFERENCE and errors[way, count]
    ]
    text = markdown(outcomes, ways, counts, verdicts, data, command)
    write_atomic(folder / "table.md", text.encode())
    curves = []
    for way in ways:
        known = [count for count in counts if errors[way, count]]
        seeds = set.intersection(*(set(errors[way, count]) for count in known))
        lines = [[errors[way, count][seed] for count in known] for seed in sorted(seeds)]
        curves += [Curve(way, known, lines)] if lines else []
    title = f"{QUESTION}\n{data}"
    own = {"title": title, "ylabel": "error on other images (%)", "counts": "images per class"}
    save_figure(overlaid_curves(curves, **own), folder / "figure.png")
    return "\n".join(verdicts)


def _is(one: Outcome, way: str, count: int) -> bool:
    return (one.way, one.per_class) == (way, count)


def _chosen(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return what `tinysight finetune` gives: the encoder with the lowest cross-validated error."""
    groups: dict[tuple[int, int], list[Outcome]] = {}
    for one in outcomes:
        if one.crossvalidated is not None:
            groups.setdefault((one.per_class, one.seed), []).append(one)
    best = (min(own, key=lambda one: one.crossvalidated or 0.0) for own in groups.values())
    several = any(len(own) > 1 for own in groups.values())
    return [replace(one, way=CHOSEN) for one in best] if several else []


def markdown(
    outcomes: Sequence[Outcome],
    ways: Sequence[str],
    counts: Sequence[int],
    verdicts: Sequence[str],
    data: str,
    command: str,
) -> str:
    """Return the table of errors, what its numbers are, and the verdicts, as a page of Markdown."""
    lines = [["way", *(f"{count} per class" for count in counts), "time at the most images"]]
    lines.append(["---"] * len(lines[0]))
    for way in ways:
        cells = [way]
        for count in counts:
            found = [one.error for one in outcomes if _is(one, way, count)]
            summary = summarize(found) if found else None
            spread = "" if summary is None or summary.sd is None else f" ({100 * summary.sd:.2f})"
            cells.append("" if summary is None else f"{100 * summary.mean:.2f}{spread}")
        times = [one.seconds for one in outcomes if _is(one, way, counts[-1])]
        lines.append([*cells, runs.duration(summarize(times).mean) if times else ""])
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    most = max(one.num_judged for one in outcomes)
    seeds = len({one.seed for one in outcomes})
    return f"""# {QUESTION}

Study `{TRANSFER}` on {data}. Made by `{command}`.

Error in %, on up to {most:,} images not learned from; mean of {pluralize(seeds, "draw")} of the
images to learn from, or of those measured so far (standard deviation). All ways learn from the same
images.

{table}

- `bundled`, `lite0`: features of a trained encoder, fixed, and a last layer in closed form: what
  `tinysight finetune --from` does. `{CHOSEN}`: the one of lower cross-validated error.
- `{FULL}`: all layers, {NUM_STEPS} steps or {MIN_EPOCHS} epochs, from `{REFERENCE}`:
  `tinysight finetune --full`, without the images that it holds out.
- `{SCRATCH}`: the recipe `small`. The bundled encoder has learned from Tiny ImageNet, lite0 from
  ImageNet.

{chr(10).join(f"- {sentence}" for sentence in verdicts)}

![errors by the number of images](figure.png)
"""
