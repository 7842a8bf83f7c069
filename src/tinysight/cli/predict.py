"""The commands that use trained models."""

from __future__ import annotations

import glob
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from tinysight.cli.arguments import (
    AsJson,
    Data,
    DataDir,
    Decoding,
    Device,
    RunName,
    Split,
    Threshold,
)
from tinysight.files import WEIGHTS_SUFFIXES, expand
from tinysight.text import pluralize

if TYPE_CHECKING:
    from tinysight.evaluation.ensemble import Ensemble
    from tinysight.predict.predictor import Prediction, Predictor

Model = Annotated[
    str | None,
    Option(help="Run or weights file; all paths are images.", show_default="the bundled model"),
]
Draw = Annotated[
    Path | None,
    Option(help="PNG to draw images in, as far as the model sees them, with classes and boxes."),
]
Csv = Annotated[Path | None, Option("--csv", help="CSV to write in place of printing.")]
BoxesOut = Annotated[
    Path | None, Option(help="With a localizer: COCO's .json to write in place of printing.")
]
Canvas = Annotated[
    int | None,
    Option(
        help="With a localizer: pixels per side that images are resized to.",
        show_default="those it was trained on",
    ),
]

MAX_DRAWN = 100  # images on one sheet


def predict(
    paths: Annotated[
        list[str],
        Argument(
            metavar="[RUN|WEIGHTS] IMAGE",
            help="Images, folders or 'patterns*', after a run or weights (.safetensors, .onnx).",
        ),
    ],
    model: Model = None,
    top: Annotated[int, Option(min=1, help="Number of classes to print.")] = 5,
    draw: Draw = None,
    csv: Csv = None,
    boxes_out: BoxesOut = None,
    canvas: Canvas = None,
    threshold: Threshold = None,
    decoding: Decoding = None,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Classify images by a run of yours, a weights file, or the bundled model.

    A localizer adds the boxes that it accepts: (x0, y0, x1, y1) in pixels of each image.

    \b
    Examples:
      tinysight predict photo.jpg
      tinysight predict quickstart-shapes examples/images/*.png
      tinysight predict runs/pets/weights.safetensors cat.jpg --json
      tinysight predict quickstart-pets ~/Pictures --csv pets.csv
      tinysight predict localizer-joint-tiny-imagenet cat.jpg --draw boxes.png
    """
    import tinysight as ts
    from tinysight.data.tree import find_images
    from tinysight.predict.output import plain

    source, given_images = _model_and_paths(paths, model)
    images = find_images(given_images)
    outputs = {
        "--draw": (draw, ".png"),
        "--csv": (csv, ".csv"),
        "--boxes-out": (boxes_out, ".json"),
    }
    _check_outputs(outputs)
    if source is None and canvas is not None:
        source = "bundled"  # in torch, which takes other sides
    predictor = ts.load_model(source, device=device, threshold=threshold, decoding=decoding)
    _print_model(predictor, is_bundled=source in (None, "bundled"))
    given: dict[str, object] = {"--boxes-out": boxes_out, "--canvas": canvas}
    if predictor.decoding is None and (used := [n for n, v in given.items() if v is not None]):
        raise ValueError(f"{used[0]} needs a localizer, and {predictor.path} is a classifier")
    prints = csv is None and boxes_out is None and not as_json
    predictions = _predict(predictor, images, prints=prints, top=top, canvas=canvas)
    if as_json:
        values = [plain(each, predictor.metadata) for each in predictions]
        print(json.dumps(values, indent=1, ensure_ascii=False))
    _write(predictions, predictor, draw=draw, csv=csv, boxes_out=boxes_out)
    _suggest_canvas(predictions, predictor, canvas)
    if len(predictions) < len(images):
        raise typer.Exit(1)


def _print_model(predictor: Predictor, *, is_bundled: bool) -> None:
    """Describe a model that the user did not name, or whose arithmetic differs from the run's."""
    if is_bundled or "fp32" in predictor.metadata.results:
        what = "bundled model: " * is_bundled + predictor.metadata.describe()
        print(what, file=sys.stderr)


def _predict(
    predictor: Predictor, images: Sequence[Path], *, prints: bool, **options: Any
) -> list[Prediction]:
    """Predict all images that can be read; print each, or show how many are done."""
    from tinysight.progress import counting

    if "torch" in sys.modules:  # not for ONNX files; a third of the time of large inputs
        from tinysight.device import keep_freed_memory

        keep_freed_memory()
    predictions = []
    with counting("predicting") as progress:
        for number, prediction in enumerate(predictor.predict_each(images, **options), start=1):
            if isinstance(prediction, ValueError):
                print(f"error: {prediction}", file=sys.stderr)
                continue
            predictions.append(prediction)
            if prints:
                print("\n".join(prediction_lines(prediction, predictor)))
            else:
                progress(number, len(images))
    return predictions


def _write(
    predictions: list[Prediction],
    predictor: Predictor,
    *,
    draw: Path | None,
    csv: Path | None,
    boxes_out: Path | None,
) -> None:
    from tinysight.predict.output import write_coco, write_csv

    if csv is not None:
        write_csv(predictions, predictor.metadata, csv)
        print(f"{pluralize(len(predictions), 'image')} in {csv}", file=sys.stderr)
    if boxes_out is not None:
        write_coco(predictions, predictor.metadata, boxes_out)
        print(f"boxes of {pluralize(len(predictions), 'image')} in {boxes_out}", file=sys.stderr)
    if draw is not None and predictions:
        _draw(predictions, predictor, draw)


def _suggest_canvas(
    predictions: list[Prediction], predictor: Predictor, canvas: int | None
) -> None:
    from tinysight.predict.canvas import suggested_canvas

    metadata = predictor.metadata
    largest = predictor.engine.max_side
    if canvas is None and (suggested := suggested_canvas(predictions, metadata, largest)):
        side, larger = suggested
        note = f"half of these boxes are under {side:.0f} of the {metadata.image_size} pixels that "
        note += f"the model sees; it learned from boxes of {metadata.localizer['box_side']:.0f}: "
        print(f"note: {note}more may be found by --canvas {larger}", file=sys.stderr)


def _check_outputs(outputs: dict[str, tuple[Path | None, str]]) -> None:
    for option, (path, suffix) in outputs.items():
        if path is not None and (path.suffix.lower() != suffix or not path.parent.is_dir()):
            raise ValueError(f"{option} is {path}; give a file {suffix} in an existing folder")


def _model_and_paths(paths: Sequence[str], model: str | None) -> tuple[str | None, Sequence[str]]:
    """Separate the model, None for the bundled one, from the paths of images.

    The first path names a model unless it is an image by suffix, a file that is not weights, a
    pattern, or a folder that is not a run's and not the name of one before other paths.
    """
    from tinysight.api.models import find_weights
    from tinysight.images import SUFFIXES
    from tinysight.run import is_run, run_folder

    first = expand(paths[0])
    for path in paths[model is None :]:
        if Path(path).suffix.lower() in WEIGHTS_SUFFIXES:
            raise ValueError(f"{path} is a model by its name; give one model, before the images")
    if model is not None:
        return model, paths
    suffix = first.suffix.lower()
    if suffix not in WEIGHTS_SUFFIXES and not is_run(first):
        if first.is_dir():
            names_run = first.name == paths[0] and is_run(run_folder(paths[0]))
            if not names_run:
                return None, paths
            if len(paths) == 1:
                both = f"{first} is a folder and a run"
                ways = f"{run_folder(paths[0])} with images after it, or ./{first}"
                raise ValueError(f"{both}; give {ways}")
        elif suffix in SUFFIXES or first.is_file() or glob.has_magic(paths[0]):
            return None, paths
    if len(paths) == 1:
        find_weights(paths[0])  # an error for what is not a model
        raise ValueError(f"{first} is a model, and no image is given; add images after it")
    return paths[0], paths[1:]


def prediction_lines(prediction: Prediction, predictor: Predictor) -> list[str]:
    """Format a prediction for people."""
    from tinysight.predict.predictor import NONE

    lines = [prediction.path]
    if prediction.is_none:
        lines.append(f"          {NONE}; the nearest:")
    if predictor.metadata.classifies and len(predictor.metadata.class_names) > 1:
        lines += [f"  {probability:6.1%}  {name}" for name, probability in prediction.top]
    for (box, confidence), label in zip(
        prediction.accepted, prediction.accepted_labels, strict=True
    ):
        what = f"{label} in" if predictor.metadata.has_box_classes else "box"
        lines.append(f"  {confidence:6.1%}  {what} ({', '.join(f'{edge:.0f}' for edge in box)})")
    if predictor.decoding is not None and not prediction.num_accepted:
        lines.append(f"          no box of confidence {prediction.threshold:.3g} or more")
    return lines


def _draw(predictions: list[Prediction], predictor: Predictor, path: Path) -> None:
    import numpy as np

    from tinysight.analysis.pictures import contact_sheet, detections_sheet, photo, save_figure
    from tinysight.images import load_square
    from tinysight.predict.predictor import NONE

    of = f", the first of {len(predictions)}" * (len(predictions) > MAX_DRAWN)
    predictions = predictions[:MAX_DRAWN]
    fit, names = predictor.metadata.fit, [Path(p.path).name for p in predictions]
    classes = [NONE if p.is_none else f"{p.label} {p.probability:.0%}" for p in predictions]
    side = 256 if predictor.decoding is None else 512
    squares = [load_square(Path(p.path), side, fit) for p in predictions]
    if predictor.decoding is None:
        captions = [f"{own}\n{name}" for own, name in zip(classes, names, strict=True)]
        figure = contact_sheet(squares, captions=captions, columns=4, side=side)
    else:
        drawn = zip(squares, predictions, strict=True)
        photos, boxes = zip(*(photo(own, p.frame, p.boxes) for own, p in drawn), strict=True)
        if predictor.metadata.has_box_classes:
            known = predictor.metadata.class_names
            figure = contact_sheet(
                photos,
                captions=[
                    f"{own}: {_counts(p)}" for own, p in zip(names, predictions, strict=True)
                ],
                boxes=[own[: p.num_accepted] for own, p in zip(boxes, predictions, strict=True)],
                box_labels=[
                    np.array([known.index(label) for label in p.accepted_labels], int)
                    for p in predictions
                ],
                class_names=known,
                columns=3,
                side=side,
            )
        else:
            figure = detections_sheet(
                photos,
                boxes,
                [np.array(p.confidences, np.float64) for p in predictions],
                captions=[f"{name}: {own}" for own, name in zip(classes, names, strict=True)],
                threshold=predictions[0].threshold,
                side=side,
            )
    save_figure(figure, path)
    print(f"{pluralize(len(predictions), 'image')} drawn in {path}{of}", file=sys.stderr)


def _counts(prediction: Prediction) -> str:
    """Count the accepted boxes of each class."""
    counts = Counter(prediction.accepted_labels)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"


def submit(
    run: RunName,
    out: Annotated[
        Path | None, Option(help="File to write.", show_default="RUN/submission.txt")
    ] = None,
    data: Data = None,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Write the predicted class per test image, in the form of the challenge: `NAME CLASS-ID`.

    \b
    Examples:
      tinysight submit resnet10-laptop-tiny-imagenet
    """
    import tinysight as ts
    from tinysight.device import select_device
    from tinysight.evaluation.evaluate import submit as write_submission
    from tinysight.progress import counting
    from tinysight.run import find_run

    found = find_run(run)
    dataset = ts.load_dataset(data or found.config.data.name, data_dir=data_dir)
    path = out or found.submission_path
    with counting("evaluating test") as progress:
        runtime = select_device(device)
        count = write_submission(found, path, dataset, runtime=runtime, progress=progress)
    print(f"{pluralize(count, 'prediction')} in {path}")


def ensemble(
    names: Annotated[
        list[str], Argument(metavar="RUN...", help="Finished runs, or one with --snapshots.")
    ],
    snapshots: Annotated[int, Option(min=0, help="Number of last snapshots used per run.")] = 0,
    split: Split = None,
    data: Data = None,
    out: Annotated[
        Path | None,
        Option(help="File to write.", show_default="ensemble-SPLIT.json in the first run"),
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Combine several runs, or the snapshots of one, by mean probability and by majority.

    Stored evaluations are used; those that are missing are made, and stored.

    \b
    Examples:
      tinysight ensemble runs/study-depth-shapes/10-layers-64-to-512-filters-seed?
      tinysight ensemble cyclic --snapshots 5      # trained with train.snapshots=5
    """
    from dataclasses import asdict

    import tinysight as ts
    from tinysight.device import select_device
    from tinysight.evaluation.ensemble import evaluate_member, find_members, vote
    from tinysight.evaluation.evaluate import default_split
    from tinysight.progress import counting
    from tinysight.run import find_run

    if out is not None and not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent}; create it first")
    runs = [find_run(name) for name in names]
    members = find_members(runs, snapshots)
    dataset = ts.load_dataset(data or runs[0].config.data.name, data_dir=data_dir)
    split = split or default_split(runs[0], dataset)
    runtime, evaluated = select_device(device), []
    for member in members:
        with counting(f"evaluating {split}: {member.name}") as progress:
            own = evaluate_member(member, dataset, split, runtime=runtime, progress=progress)
        evaluated.append((member.name, own))
    result = vote(evaluated)
    path = out or runs[0].ensemble_path(runs[0].label(dataset.name, split))
    result.write(path)
    if as_json:
        print(json.dumps(asdict(result), indent=1))
        return
    _print_ensemble(result)
    print(f"written to {path}")


def _print_ensemble(result: Ensemble) -> None:
    print(f"{result.data} {result.split}, {pluralize(result.num_images, 'image')}")
    entries = (*result.members, *result.votes)
    width = max(len(each.name) for each in entries)
    for each in entries:
        top5 = "" if each.top5_error is None else f", top-5 {each.top5_error:.2%}"
        print(
            f"  {each.name:<{width}}  top-1 error {each.top1_error:6.2%} "
            f"(95 %: {each.top1_low:.2%} to {each.top1_high:.2%}){top5}"
        )
    for gain in result.gains:
        points = f"{100 * abs(gain.gain):.2f} points {'worse' if gain.gain < 0 else 'better'}"
        print(
            f"{gain.name}: {points} than {gain.best_member}, the best member here "
            f"(95 % interval of the gain, paired: {100 * gain.low:+.2f} to {100 * gain.high:+.2f})"
        )
