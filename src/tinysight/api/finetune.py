"""Your own classes from few images."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinysight.api.data import Data, Folder, load_dataset
from tinysight.api.models import named_run
from tinysight.data.dataset import Dataset, data_home
from tinysight.data.load import load_at_size
from tinysight.device import prepare_training, select_device
from tinysight.files import expand
from tinysight.finetuning import finetune as finetuning
from tinysight.finetuning.encoders import find_encoder
from tinysight.finetuning.finetune import Finetuned
from tinysight.finetuning.remarks import data_remarks, scene_remark
from tinysight.images import Fit
from tinysight.predict.pretrained import EXTRA, at_hand
from tinysight.progress import counting
from tinysight.run import Run, check_free, run_folder

logger = logging.getLogger("tinysight")


def finetune(
    data: Data,
    encoder: Run | Folder = "auto",
    *,
    name: Folder | None = None,
    full: bool = False,
    fit: Fit | None = None,
    skip_unreadable: bool = False,
    device: str = "auto",
    data_dir: Folder | None = None,
    command: str = "",
) -> Run:
    """Learn your own classes on the features of a trained network, in seconds; return the run.

    Args:
        data: a folder or zip of class folders, all of which is learned from but a split val; or a
            dataset or its name, of which train and minival are.
        encoder: "bundled", "lite0" (EfficientNet-Lite0, with the extra pretrained), a run, or a
            file; "auto": the one with the lowest cross-validated error.
        name: of the run, or its folder; None: by the data, with the next free number.
        full: then train the entire network from there, for minutes. Without a val of their own a
            fifth of the images are held out; where it is not better on them by more than a standard
            error, the returned run has the weights before.
        fit: of a folder; None: as it was imported, else "crop".
        skip_unreadable, data_dir: as for `import_dataset`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        command: what run.json records as the command.

    Raises ValueError where there are fewer than two classes, an encoder cannot be read, the run's
    folder is taken, or there is no val for `full`.
    """
    own: dict[str, Any] = {"name": name, "full": full, "fit": fit, "device": device}
    own |= {"skip_unreadable": skip_unreadable, "data_dir": data_dir, "command": command}
    found = finetune_result(data, encoder, **own)
    return found.run if found.full is None else found.full


def finetune_result(
    data: Data,
    encoder: Run | Folder = "auto",
    *,
    name: Folder | None = None,
    full: bool = False,
    fit: Fit | None = None,
    skip_unreadable: bool = False,
    device: str = "auto",
    data_dir: Folder | None = None,
    command: str = "",
) -> Finetuned:
    """Do what `finetune` does, and return everything that the command prints."""
    folder, start = _folders(name, full)
    home = data_home() if data_dir is None else expand(data_dir)
    runtime = select_device(device, "fp32")
    prepare_training(runtime.device)
    source = encoder if isinstance(encoder, str | Path) else named_run(encoder).folder
    sources = at_hand() if source == "auto" else (source,)
    if sources == ("bundled",) and source == "auto":
        logger.info("the bundled encoder is used; %s", EXTRA)
    candidates = []
    for each in sources:
        found = find_encoder(each)
        unreadable = "skip" if skip_unreadable else "stop"
        with counting("preparing images") as progress:
            own: dict[str, Any] = {"home": home, "fit": fit, "hold_out": full}
            own |= {"on_unreadable": unreadable, "progress": progress}
            dataset = load_at_size(data, found.image_size, **own)
        if full:
            _check_val(dataset)
        with counting(f"features of {found.name}") as progress:
            options: dict[str, Any] = {"home": home, "runtime": runtime, "progress": progress}
            candidates.append(finetuning.judge(found, dataset, **options))
    remarks = data_remarks(candidates[0].dataset, candidates[0].labels.numpy())
    for one in candidates:
        if one.encoder.name == "bundled":  # the threshold is measured for its features
            remarks += filter(None, [scene_remark(one.features, one.labels.numpy(), one.groups)])
    for remark in remarks:
        logger.warning("%s", remark)
    result = finetuning.finetune(candidates, name=start, command=command)
    return _train_all(result, folder, device, data_dir, command) if full else result


def _folders(name: Folder | None, full: bool) -> tuple[Path | None, Path | None]:
    """Return the folders of the run and of the one that it begins with; None: by the data.

    Raises ValueError where one is taken: before minutes of work, not after.
    """
    if name is None:
        return None, None
    folder = run_folder(name)
    start = folder.with_name(f"{folder.name}-start") if full else folder
    for each in (folder, start):
        check_free(each)
    return folder, start


def _check_val(dataset: Dataset) -> None:
    """Raise ValueError where there is nothing that a training of all layers is judged by."""
    rows = dataset.rows("val") if "val" in dataset.splits else range(0)
    if not (dataset.labels[rows.start : rows.stop] >= 0).any():
        raise ValueError(
            f"{dataset.name} has no labeled image in val, by which --full is judged; import the "
            "folder so that it has a val, or leave --full out"
        )


def _train_all(
    result: Finetuned, folder: Path | None, device: str, data_dir: Folder | None, command: str
) -> Finetuned:
    """Train all layers from a finetuned run on."""
    # not before: drawing and statistics take longer to load than ten images per class to learn
    from tinysight.api.evaluate import evaluate
    from tinysight.api.train import train

    dataset = load_dataset(result.run.config.data.name, data_dir=data_dir)
    known = "" if result.judged is None else f", cross-validated error {result.judged.error:.1%}"
    logger.info(
        "%s: fixed features of %s, %d images%s; now all layers, judged by %d images of val",
        result.run.folder, result.encoder, result.num_images, known, len(dataset.rows("val")),
    )  # fmt: skip
    config = finetuning.full_config(result.run, dataset, device)
    run = train(config, dataset, name=folder, command=command)
    before, after = (evaluate(own, "val", data=dataset, device=device) for own in (result.run, run))
    if not (better := finetuning.is_better(before, after)):
        finetuning.restore_start(run, result.run)
        evaluate(run, "val", data=dataset, device=device)
    errors = (before.top1_error, after.top1_error)
    return replace(result, full=run, val_errors=errors, is_better=better)
