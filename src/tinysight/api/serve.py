"""A page on a model, served on this computer."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinysight.api import sort
from tinysight.api.data import Folder, load_dataset
from tinysight.api.models import load_model
from tinysight.data.corrected_folder import class_folders
from tinysight.data.dataset import data_home
from tinysight.data.tree import Folder as Files
from tinysight.data.tree import images_below
from tinysight.files import expand
from tinysight.predict.predictor import Predictor
from tinysight.run import Run, read_run
from tinysight.server import http

if TYPE_CHECKING:
    from tinysight.finetuning.finetune import Finetuned
    from tinysight.finetuning.neighbors import Neighbors

logger = logging.getLogger("tinysight")

MOST_CONFUSED = 5  # pairs of classes that the page names
MISTAKES_SHOWN = 4  # pictures of each
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
        folder: where the classes that are taught are kept, as a folder of class folders; pictures
            in it without a class can be sorted there.
        threshold: of a localizer, the confidence from which a box is accepted; None: its own.
        options: host, port, token, started; see `server.http.serve`.
    """
    predictor = load_model(model, threshold=threshold)
    own: dict[str, Any] = {"folder": expand(folder).absolute(), "learn": learn, "sorter": sort}
    http.serve(predictor, **own, training_images=training_images, **options)


def learn(folder: Path | None) -> dict[str, Any]:
    """Finetune on a folder of class folders; return what the page shows of it.

    None: only load what that needs, so that the first folder is learned as soon as the others.
    """
    import tinysight.analysis.errors
    import tinysight.evaluation.evaluate  # noqa: F401 (what `shown` needs)
    from tinysight.api.finetune import finetune_result

    if folder is None:
        return {}
    folders = class_folders(images_below(Files(folder), "", only_images=True))
    if any(folders.values()) and (loose := [path for path, name in folders.items() if not name]):
        some = loose[0] if len(loose) == 1 else f"{loose[0]} and {len(loose) - 1} more"
        raise ValueError(
            f"outside of the classes' folders: {some}; open Sort, which learns the pictures in"
            " these folders, and others once they are labeled there"
        )
    command = f"tinysight finetune {shlex.quote(str(folder))} --from bundled"
    return shown(finetune_result(folder, "bundled", command=command))


def shown(found: Finetuned) -> dict[str, Any]:
    """Return what the page shows of a finetuned run."""
    from tinysight.analysis import errors
    from tinysight.evaluation.evaluate import Evaluation

    shown: dict[str, Any] = {"run": str(found.run.folder), "num_images": found.num_images}
    dataset = load_dataset(found.run.config.data.name)
    shown["num_kept_back"] = len(dataset.rows("val")) if "val" in dataset.splits else 0
    shown |= {"curve": [(point.per_class, point.error) for point in found.curve]}
    if (judged := found.judged) is not None:
        shown |= {"error_rate": judged.error, "low": judged.low, "high": judged.high}
        evaluation = Evaluation.load(found.run.scores_path(found.run.config.data.train))
        own = evaluation.labels >= 0
        labels, predicted, rows = (
            each[own].numpy()
            for each in (evaluation.labels, evaluation.logits.argmax(dim=1), evaluation.rows)
        )
        counts = errors.count_confusions(labels, predicted, evaluation.logits.shape[1])
        shown["confusions"] = []
        for pair in errors.confused_pairs(counts, limit=MOST_CONFUSED):
            mistaken = rows[(labels == pair.first) & (predicted == pair.second)]
            files = [Path(dataset.files[row]).name for row in mistaken[:MISTAKES_SHOWN].tolist()]
            names = (dataset.class_names[pair.first], dataset.class_names[pair.second])
            shown["confusions"].append((*names, pair.forth, files))
    if (ahead := found.forecast) is not None:
        shown["forecast"] = {"more": ahead.more, "low": ahead.low, "high": ahead.high}
    return shown


def training_images(predictor: Predictor) -> Neighbors | None:
    """Return what compares images with those that a model was trained on, where they are here."""
    folder = predictor.path.parent
    if not (folder / "run.json").is_file():
        return None
    from tinysight.finetuning.neighbors import Neighbors

    try:
        return Neighbors(read_run(folder), home=data_home())
    except ValueError as error:
        logger.info("training images are not shown: %s", error)
        return None
