"""The commands that use trained models."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinysight.cli.arguments import Decoding, Device, Home, RunName, Threshold
from tinysight.cli.data import load
from tinysight.cli.progress import counting, say

if TYPE_CHECKING:
    from tinysight.predict.predictor import Prediction, Predictor


def decoding_changes(threshold: float | None, decoding: str | None) -> dict[str, Any]:
    """Return what a person asked of a localizer in place of its own; raise ValueError for what it
    cannot be.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"--threshold is {threshold:g}; give a confidence between 0 and 1")
    if decoding not in (None, "filter", "stop"):
        raise ValueError(f"--decoding is {decoding!r}; allowed: filter, stop")
    given = {"threshold": threshold, "decoding": decoding}
    return {name: value for name, value in given.items() if value is not None}


def predict(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN|WEIGHTS] IMAGE",
            help="JPEG, PNG or WebP of any size; before them a run, or a weights file (.safetensors).",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="A run or a weights file; all other words are images.",
            show_default="the bundled model",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    draw: Annotated[
        Path | None,
        typer.Option(
            help="With a localizer: the PNG to draw boxes in; several images make a sheet."
        ),
    ] = None,
    canvas: Annotated[
        int | None,
        typer.Option(
            help="With a localizer: pixels a side to look at.",
            show_default="those it was trained on",
        ),
    ] = None,
    threshold: Threshold = None,
    decoding: Decoding = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "auto",
) -> None:
    """Name what is in pictures: with a model of yours, or with the one that comes with tinysight.

    A localizer also tells where: boxes (x0, y0, x1, y1) in pixels of each picture, those it
    accepts.

    \b
    Examples:
      tinysight predict photo.jpg
      tinysight predict quickstart-shapes examples/images/*.png
      tinysight predict runs/pets/weights.safetensors cat.jpg --json
      tinysight predict localizer-joint-tiny-imagenet cat.jpg --draw boxes.png
    """
    source, images = _model_and_images(words, model)
    if draw is not None and (draw.suffix.lower() != ".png" or not draw.parent.is_dir()):
        raise ValueError(f"--draw is {draw}; give a file .png in a folder that is there")
    changes = decoding_changes(threshold, decoding)
    predictor = _predictor(source, device, changes)
    asked = {"--draw": draw, "--canvas": canvas, "--threshold": threshold, "--decoding": decoding}
    if predictor.localizer is None and (
        given := [name for name, value in asked.items() if value is not None]
    ):
        option = given[0]
        raise ValueError(
            f"{option} needs a localizer, and {predictor.path} is a classifier, which finds no boxes"
        )
    failed = 0
    found: list[dict[str, Any]] = []
    answers = []
    for image, answer in zip(
        images, predictor.predict_each(images, top=top, canvas=canvas), strict=True
    ):
        if isinstance(answer, ValueError):
            failed += 1
            print(f"error: {answer}", file=sys.stderr)
            continue
        answers.append(answer)
        ranked = list(zip(answer.class_names, answer.class_ids, answer.probabilities, strict=True))
        if not predictor.metadata.classifies:
            ranked = []
        accepted = list(zip(answer.boxes, answer.confidences, strict=True))[: answer.num_accepted]
        if as_json:
            best = [
                {"class": name, "id": wnid, "probability": round(p, 6)} for name, wnid, p in ranked
            ]
            found.append({"image": str(image), "top": best})
            if predictor.localizer is not None:
                boxes = [
                    {"box": [round(x, 1) for x in box], "confidence": round(c, 6)}
                    for box, c in accepted
                ]
                found[-1]["boxes"] = boxes
        else:
            print(
                "\n".join(
                    [
                        str(image),
                        *(f"  {probability:6.1%}  {name}" for name, _, probability in ranked),
                    ]
                )
            )
            for box, confidence in accepted:
                print(f"  {confidence:6.1%}  box ({', '.join(f'{edge:.0f}' for edge in box)})")
            if predictor.localizer is not None and not accepted:
                print(f"          no box from a confidence of {answer.threshold:g} on")
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    if draw is not None and answers:
        _draw_found(answers, draw)
    if failed:
        raise typer.Exit(1)


def _draw_found(answers: list[Prediction], path: Path) -> None:
    from tinysight.analysis.pictures import photos_sheet, save_figure
    from tinysight.images import read_image, to_square

    figure = photos_sheet(
        [to_square(read_image(Path(answer.path)), 512) for answer in answers],
        [answer.frame for answer in answers],
        boxes=[answer.boxes for answer in answers],
        confidence=[answer.confidences for answer in answers],
        captions=[
            f"{Path(a.path).name}: {a.class_names[0]} {a.probabilities[0]:.0%}" for a in answers
        ],
        threshold=answers[0].threshold,
    )
    save_figure(figure, path)
    say(f"boxes drawn in {path}")


def submit(
    run: RunName,
    out: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="RUN/submission.txt")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Another pack with the same classes.", show_default="the run's"),
    ] = None,
    device: Device = "auto",
    home: Home = None,
) -> None:
    """Write the answers for the unlabeled test images: `test_0.JPEG n02814533` a line, as the
    challenge took it.

    \b
    Examples:
      tinysight submit resnet10-laptop-tiny-imagenet
    """
    from tinysight import run as runs
    from tinysight.device import select_device
    from tinysight.evaluation.evaluate import submit as write_submission

    found = runs.find_run(run)
    pack = load(data or found.config.data.name, home)
    path = out or found.submission_path
    with counting("scoring test") as progress:
        count = write_submission(
            found, path, pack, runtime=select_device(device), progress=progress
        )
    print(f"{count} answers in {path}")


def ensemble(
    named: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Finished runs; or one, with --snapshots.")
    ],
    snapshots: Annotated[
        int, typer.Option(min=0, help="Let the last so many snapshots of each run vote.")
    ] = 0,
    split: Annotated[str, typer.Option(help="minival (for choices) or val (for reports).")] = "val",
    data: Annotated[
        str | None, typer.Option(help="A pack with the same classes.", show_default="the run's")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write.", show_default="ensemble-SPLIT.json in the first run"
        ),
    ] = None,
    device: Device = "auto",
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Let several runs, or the snapshots of one, vote: by mean probability and by majority, beside
    the best member.

    Stored scores are used; those that are missing are made, and stored.

    \b
    Examples:
      tinysight ensemble runs/study-depth-shapes/10-layers-64-to-512-filters-seed?
      tinysight ensemble cyclic --snapshots 5   # trained with schedule.name=cyclic train.snapshots=5
    """
    from dataclasses import asdict

    from tinysight import run as runs
    from tinysight.device import select_device
    from tinysight.evaluation.ensemble import evaluate_member, find_members, vote

    if out is not None and not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent}; make it first")
    found = [runs.find_run(name) for name in named]
    members = find_members(found, snapshots)
    pack = load(data or found[0].config.data.name, home)
    runtime = select_device(device)
    scored = []
    with counting(f"scoring {split}") as progress:
        for voter in members:
            tell = functools.partial(progress, what=f"scoring {split}: {voter.name}")
            scored.append(
                (voter.name, evaluate_member(voter, pack, split, runtime=runtime, progress=tell))
            )
    result = vote(scored)
    path = out or found[0].ensemble_path(found[0].label(pack.name, split))
    result.write(path)
    if as_json:
        print(json.dumps(asdict(result), indent=1))
        return
    print(f"{result.data} {result.split}, {result.num_images:,} images")
    width = max(len(each.name) for each in (*result.members, *result.votes))
    for each in (*result.members, *result.votes):
        print(
            f"  {each.name:<{width}}  top-1 error {each.top1_error:6.2%} "
            f"(95 %: {each.top1_low:.2%} to {each.top1_high:.2%}), top-5 {each.top5_error:.2%}"
        )
    for gain in result.gains:
        print(
            f"{gain.name}: {100 * abs(gain.gain):.2f} points {'better' if gain.gain >= 0 else 'worse'} "
            f"than {gain.best_member}, the best member here "
            f"(95 % interval of the gain, paired: {100 * gain.low:+.2f} to {100 * gain.high:+.2f})"
        )
    print(f"written to {path}")


def _model_and_images(words: list[str], model: str | None) -> tuple[Path | None, list[Path]]:
    """Tell the model from the images; None stands for the one that comes with tinysight.

    The first word is an image when it is a file, or is called like one, and no weights file;
    else it names a model."""
    first, paths = Path(words[0]), [Path(word) for word in words]
    if model is not None:
        return model_named(model), paths
    called_so = first.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp") and not first.is_dir()
    if first.suffix != ".safetensors" and (called_so or first.is_file()):
        return None, paths
    source = model_named(words[0])
    if len(paths) == 1:
        raise ValueError(
            f"{words[0]} is a model, and no image is given; write `tinysight predict {words[0]} IMAGE...`"
        )
    return source, paths[1:]


def model_named(name: str) -> Path:
    """Return the folder of a run, or a weights file; `bundled` is the one that comes with
    tinysight.
    """
    from tinysight import run as runs
    from tinysight.predict import predictor

    if Path(name).exists():
        return Path(name)
    if name == "bundled" and predictor.BUNDLED.is_file():
        return predictor.BUNDLED
    return runs.find_run(name).folder


def _predictor(source: Path | None, device: str, changes: dict[str, Any]) -> Predictor:
    from tinysight.device import select_device
    from tinysight.predict.predictor import load_model

    predictor = load_model(source, runtime=select_device(device, "fp32"), **changes)
    if source is None:
        say(f"the model that comes with tinysight: {predictor.metadata.describe()}")
    return predictor
