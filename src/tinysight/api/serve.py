"""A page on a model, served on this computer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinysight.api.data import Folder, load_dataset
from tinysight.api.models import load_model
from tinysight.files import expand
from tinysight.run import Run
from tinysight.server import http

MOST_CONFUSED = 5  # pairs of classes that the page names
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


def learn(folder: Path | None) -> dict[str, Any]:
    """Finetune on a folder of class folders; return what the page shows of it.

    None: only load what that needs, so that the first folder is learned as soon as the others.
    """
    from tinysight.analysis.errors import confused_pairs, count_confusions
    from tinysight.api.finetune import finetune_result
    from tinysight.evaluation.evaluate import Evaluation

    if folder is None:
        return {}
    found = finetune_result(folder, "bundled", command=f"tinysight finetune {folder}")
    shown: dict[str, Any] = {"run": str(found.run.folder), "num_images": found.num_images}
    shown |= {"curve": [(point.per_class, point.error) for point in found.curve]}
    if (judged := found.judged) is not None:
        shown |= {"error_rate": judged.error, "low": judged.low, "high": judged.high}
        evaluation = Evaluation.load(found.run.scores_path(found.run.config.data.train))
        own = evaluation.labels >= 0
        labels, predicted = evaluation.labels[own], evaluation.logits[own].argmax(dim=1)
        counts = count_confusions(labels.numpy(), predicted.numpy(), evaluation.logits.shape[1])
        names = load_dataset(found.run.config.data.name).class_names
        shown["confusions"] = [
            (names[pair.first], names[pair.second], pair.forth)
            for pair in confused_pairs(counts, limit=MOST_CONFUSED)
        ]
    if (ahead := found.forecast) is not None:
        shown["forecast"] = {"more": ahead.more, "low": ahead.low, "high": ahead.high}
    return shown
