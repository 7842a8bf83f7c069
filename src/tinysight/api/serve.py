"""A page on a model, served on this computer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinysight.api.data import Folder
from tinysight.api.models import load_model
from tinysight.files import expand
from tinysight.run import Run
from tinysight.server import http

PICTURES = "pictures"  # the folder of classes taught on the page, where none is given


def serve(
    model: Run | Folder | None = None,
    *,
    folder: Folder = PICTURES,
    threshold: float | None = None,
    **options: Any,
) -> None:
    """Serve a page where pictures are answered and classes are taught, until Ctrl-C or SIGTERM.

    Args:
        model: a run or its name, a weights file, or (None) the bundled model.
        folder: where the classes that are taught are kept, as a folder of class folders.
        threshold: of a localizer, the confidence from which a box is accepted; None: its own.
        options: host, port, token, started; see `server.http.serve`.
    """
    predictor = load_model(model, threshold=threshold)
    http.serve(predictor, folder=expand(folder).absolute(), learn=learn, **options)


def learn(folder: Path) -> dict[str, Any]:
    """Finetune on a folder of class folders; return what the page shows of it."""
    from tinysight.api.finetune import finetune_result
    from tinysight.evaluation.evaluate import Evaluation

    found = finetune_result(folder, "bundled", command=f"tinysight finetune {folder}")
    shown: dict[str, Any] = {"run": str(found.run.folder), "num_images": found.num_images}
    shown |= {"curve": [(point.per_class, point.error) for point in found.curve]}
    if (judged := found.judged) is not None:
        shown |= {"error_rate": judged.error, "low": judged.low, "high": judged.high}
        split = found.run.config.data.train
        evaluation = Evaluation.load(found.run.scores_path(split))
        names = load_model(found.run).metadata.class_names
        shown["confusions"] = _confusions(evaluation, names)
    if (ahead := found.forecast) is not None:
        shown["forecast"] = {"more": ahead.more, "low": ahead.low, "high": ahead.high}
    return shown


def _confusions(evaluation: Any, names: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """Return the pairs that are mistaken most often: label, answer, how often."""
    counts: dict[tuple[int, int], int] = {}
    pairs = zip(evaluation.labels.tolist(), evaluation.logits.argmax(dim=1).tolist(), strict=True)
    for label, answer in pairs:
        if label >= 0 and label != answer:
            counts[label, answer] = counts.get((label, answer), 0) + 1
    most = sorted(counts.items(), key=lambda item: -item[1])[:5]
    return [(names[label], names[answer], count) for (label, answer), count in most]
