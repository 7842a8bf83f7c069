"""The commands that use a trained model, and those about the machine."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinysight.cli.arguments import Device, Home, RunName
from tinysight.cli.packs import open_or_draw
from tinysight.cli.progress import counting, say

Threshold = Annotated[
    float | None,
    typer.Option(help="Of a localiser: the confidence from which a box is accepted.", show_default="its own"),
]
Decoding = Annotated[str | None, typer.Option(help="Of a localiser: filter or stop.", show_default="its own")]

if TYPE_CHECKING:
    from tinysight.data.pack import Pack
    from tinysight.deploy.predictor import Prediction, Predictor
    from tinysight.deploy.weights import Card
    from tinysight.train.evaluate import Metrics, Scores


def evaluate(
    run: RunName,
    split: Annotated[str, typer.Option(help="minival (for choices) or val (for reports).")] = "val",
    data: Annotated[
        str | None, typer.Option(help="Another pack with the same classes.", show_default="the run's")
    ] = None,
    threshold: Threshold = None,
    decoding: Decoding = None,
    device: Device = "auto",
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a finished run: errors with 95 % intervals, loss, calibration; keep every image's scores and draw some.

    Of a weights file, or of the model that comes with tinysight (`shipped`), the figures are printed and nothing is
    written.

    [bold]Examples[/bold]
      tinysight evaluate quickstart-shapes
      tinysight evaluate runs/pets --split minival --json
      tinysight evaluate shipped --data tiny-imagenet
    """
    from tinysight import runs
    from tinysight.analysis.curves import draw_curves
    from tinysight.deploy.weights import load_weights
    from tinysight.device import place
    from tinysight.train.evaluate import evaluate_run

    changes = _decoding_changes(threshold, decoding)
    if (source := _model_named(run)).is_file():
        _evaluate_weights(source, split, data, changes, device=device, home=home, as_json=as_json)
        return
    folder = runs.find(run)
    pack = open_or_draw(data or runs.read_record(folder).run.data.name, home)
    with counting(f"scoring {split}") as progress:
        total = len(pack.rows(split))
        label, scores, metrics = evaluate_run(
            folder,
            split,
            pack=pack,
            placement=place(device),
            decoding_changes=changes,
            each_batch=lambda done: progress(done, total),
        )
    if label == "val" and (folder / "log.jsonl").exists():
        draw_curves(folder)
    _draw_predictions(folder, pack, scores, label)
    card = load_weights(folder / "weights.safetensors")[1]
    boxes = _box_figures(card, pack, split, scores, changes)
    if boxes is not None:
        _keep_boxes(folder, boxes, pack, split, label, scores)
    _print_evaluation(card, metrics, boxes, pack.name, split, as_json=as_json)
    if as_json:
        return
    if boxes is not None:
        print(f"boxes, by class and size: {folder / f'localisation-{label}.json'}")
        print(f"some of them drawn:       {folder / f'boxes-{label}.png'}")
    print(f"every image's scores: {folder / 'scores' / f'{label}.safetensors'}")
    print(f"some predictions:     {folder / f'predictions-{label}.png'}")


def _decoding_changes(threshold: float | None, decoding: str | None) -> dict[str, Any]:
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"--threshold is {threshold:g}; give a confidence between 0 and 1")
    if decoding not in (None, "filter", "stop"):
        raise ValueError(f"--decoding is {decoding!r}; allowed: filter, stop")
    given = {"threshold": threshold, "decoding": decoding}
    return {name: value for name, value in given.items() if value is not None}


def _box_figures(card: Card, pack: Pack, split: str, scores: Scores, changes: dict[str, Any]) -> dict[str, Any] | None:
    """Measure a localiser's boxes; None for a classifier. Untrained logits enter no figure."""
    from tinysight.analysis.box_figures import evaluate_boxes

    if scores.boxes is None or scores.confidence is None:
        return None
    return evaluate_boxes(
        pack,
        split,
        boxes=scores.boxes,
        confidence=scores.confidence,
        logits=scores.logits if card.names_classes else None,
        threshold=changes.get("threshold", card.localiser["threshold"]),
    )


def _keep_boxes(folder: Path, figures: dict[str, Any], pack: Pack, split: str, label: str, scores: Scores) -> None:
    """Write the figures as JSON, and a sheet of images with their boxes (Wu et al. 2017, Fig. 15)."""
    from tinysight.analysis.box_pictures import localisation_figure
    from tinysight.train.checkpoint import replace_durably

    assert scores.boxes is not None and scores.confidence is not None
    replace_durably(folder / f"localisation-{label}.json", json.dumps(figures, indent=1).encode())
    if figures["num_with_boxes"]:
        sheet = localisation_figure(pack, split, scores.boxes, scores.confidence, threshold=figures["threshold"])
        sheet.save(folder / f"boxes-{label}.png")


def _print_evaluation(
    card: Card, metrics: Metrics, boxes: dict[str, Any] | None, data: str, split: str, *, as_json: bool
) -> None:
    from dataclasses import asdict

    from tinysight.analysis.box_figures import boxes_table

    if as_json:
        named = asdict(metrics) if card.names_classes else {}
        print(json.dumps(named | ({} if boxes is None else {"localisation": boxes}), indent=1))
        return
    if card.names_classes:
        _print_metrics(metrics, data, split)
    if boxes is not None:
        print(boxes_table(boxes))


def _evaluate_weights(
    source: Path,
    split: str,
    data: str | None,
    changes: dict[str, Any],
    *,
    device: str,
    home: Path | None,
    as_json: bool,
) -> None:
    from tinysight.deploy.predictor import Predictor
    from tinysight.device import place
    from tinysight.train.evaluate import check_data, measure, score_split

    predictor = Predictor(source, placement=place(device, "fp32"), **changes)  # as `predict` computes
    pack = open_or_draw(data or predictor.card.data, home)
    check_data(predictor.card, pack)
    with counting(f"scoring {split}") as progress:
        total = len(pack.rows(split))
        scores = score_split(predictor, pack, split, lambda done: progress(done, total))
    boxes = _box_figures(predictor.card, pack, split, scores, changes)
    _print_evaluation(predictor.card, measure(scores), boxes, pack.name, split, as_json=as_json)


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
        typer.Option(help="A run or a weights file; all other words are images.", show_default="the shipped model"),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    draw: Annotated[
        Path | None, typer.Option(help="With a localiser: the PNG to draw boxes in; several images make a sheet.")
    ] = None,
    canvas: Annotated[
        int | None,
        typer.Option(help="With a localiser: pixels a side to look at.", show_default="those it was trained on"),
    ] = None,
    threshold: Threshold = None,
    decoding: Decoding = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "auto",
) -> None:
    """Name what is in pictures: with a model of yours, or with the one that comes with tinysight.

    A localiser also tells where: boxes (x0, y0, x1, y1) in pixels of each picture, those it accepts.

    [bold]Examples[/bold]
      tinysight predict photo.jpg
      tinysight predict quickstart-shapes examples/images/*.png
      tinysight predict runs/pets/weights.safetensors cat.jpg --json
      tinysight predict localizer-joint-tiny-imagenet cat.jpg --draw boxes.png
    """
    source, images = _model_and_images(words, model)
    if draw is not None and (draw.suffix.lower() != ".png" or not draw.parent.is_dir()):
        raise ValueError(f"--draw is {draw}; give a file .png in a folder that is there")
    changes = _decoding_changes(threshold, decoding)
    predictor = _predictor(source, device, changes)
    asked = {"--draw": draw, "--canvas": canvas, "--threshold": threshold, "--decoding": decoding}
    if predictor.localiser is None and (given := [name for name, value in asked.items() if value is not None]):
        option = given[0]
        raise ValueError(f"{option} needs a localiser, and {predictor.path} is a classifier, which finds no boxes")
    failed = 0
    found: list[dict[str, Any]] = []
    answers = []
    for image, answer in zip(images, predictor.predict(images, top=top, canvas=canvas), strict=True):
        if isinstance(answer, ValueError):
            failed += 1
            print(f"error: {answer}", file=sys.stderr)
            continue
        answers.append(answer)
        ranked = list(zip(answer.class_names, answer.class_ids, answer.probabilities, strict=True))
        if not predictor.card.names_classes:
            ranked = []
        accepted = list(zip(answer.boxes, answer.confidences, strict=True))[: answer.num_accepted]
        if as_json:
            best = [{"class": name, "id": wnid, "probability": round(p, 6)} for name, wnid, p in ranked]
            found.append({"image": str(image), "top": best})
            if predictor.localiser is not None:
                boxes = [{"box": [round(x, 1) for x in box], "confidence": round(c, 6)} for box, c in accepted]
                found[-1]["boxes"] = boxes
        else:
            print("\n".join([str(image), *(f"  {probability:6.1%}  {name}" for name, _, probability in ranked)]))
            for box, confidence in accepted:
                print(f"  {confidence:6.1%}  box ({', '.join(f'{edge:.0f}' for edge in box)})")
            if predictor.localiser is not None and not accepted:
                print(f"          no box from a confidence of {answer.threshold:g} on")
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    if draw is not None and answers:
        _draw_found(answers, draw)
    if failed:
        raise typer.Exit(1)


def _draw_found(answers: list[Prediction], path: Path) -> None:
    from tinysight.analysis.box_pictures import photographs_with_boxes
    from tinysight.images import read_image, to_square

    picture = photographs_with_boxes(
        [to_square(read_image(Path(answer.path)), 512) for answer in answers],
        frames=[answer.frame for answer in answers],
        boxes=[answer.boxes for answer in answers],
        confidences=[answer.confidences for answer in answers],
        captions=[f"{Path(a.path).name}: {a.class_names[0]} {a.probabilities[0]:.0%}" for a in answers],
        threshold=answers[0].threshold,
    )
    picture.save(path)
    say(f"boxes drawn in {path}")


def export(
    run: RunName,
    out: Annotated[Path, typer.Option(help="The file to write; one that is there is replaced.")],
    half: Annotated[bool, typer.Option("--half", help="Store matrices and kernels as float16.")] = False,
    device: Device = "auto",
    home: Home = None,
) -> None:
    """Make one weights file of an evaluated run to hand on, with its error on val on its card.

    The file is measured on val as it was written, computed in float32 as `tinysight predict` computes.

    [bold]Examples[/bold]
      tinysight export quickstart-shapes --half --out shapes.safetensors
      tinysight predict shapes.safetensors examples/images/*.png
    """
    from tinysight import runs
    from tinysight.device import place
    from tinysight.train.exporting import export as export_run

    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent}; make it first")
    if out.suffix != ".safetensors":
        raise ValueError(f"--out is {out}; end it in .safetensors")
    folder = runs.find(run)
    pack = open_or_draw(runs.read_record(folder).run.data.name, home)
    with counting("scoring val") as progress:
        total = len(pack.rows("val"))
        made = export_run(
            folder,
            out,
            pack=pack,
            placement=place(device, "fp32"),
            half=half,
            each_batch=lambda done: progress(done, total),
        )
    _print_metrics(made.val, pack.name, "val")
    if made.found is not None:
        print(f"  boxes found         {100 * made.found.loc50:5.2f} %, mean IoU {made.found.mean_iou:.4f}")
    print(f"  the run's own      {made.run_top1_error:6.2%} top-1 error")
    print(f"{made.num_bytes / 1e6:.2f} MB in {made.path}")


def submit(
    run: RunName,
    out: Annotated[Path | None, typer.Option(help="The file to write.", show_default="RUN/submission.txt")] = None,
    data: Annotated[
        str | None, typer.Option(help="Another pack with the same classes.", show_default="the run's")
    ] = None,
    device: Device = "auto",
    home: Home = None,
) -> None:
    """Write the answers for the unlabelled test images: `test_0.JPEG n02814533` a line, as the challenge took it.

    [bold]Examples[/bold]
      tinysight submit resnet10-laptop-tiny-imagenet
    """
    from tinysight import runs
    from tinysight.device import place
    from tinysight.train.evaluate import answer_test

    folder = runs.find(run)
    pack = open_or_draw(data or runs.read_record(folder).run.data.name, home)
    path = out or folder / "submission.txt"
    with counting("scoring test") as progress:
        total = len(pack.rows("test"))
        count = answer_test(
            folder, path, pack=pack, placement=place(device), each_batch=lambda done: progress(done, total)
        )
    print(f"{count} answers in {path}")


def ensemble(
    named: Annotated[list[str], typer.Argument(metavar="RUN...", help="Finished runs; or one, with --snapshots.")],
    snapshots: Annotated[int, typer.Option(min=0, help="Let the last so many snapshots of each run vote.")] = 0,
    split: Annotated[str, typer.Option(help="minival (for choices) or val (for reports).")] = "val",
    data: Annotated[str | None, typer.Option(help="A pack with the same classes.", show_default="the run's")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="ensemble-SPLIT.json in the first run")
    ] = None,
    device: Device = "auto",
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Let several runs, or the snapshots of one, vote: by mean probability and by majority, beside the best member.

    Stored scores are used; those that are missing are made, and stored.

    [bold]Examples[/bold]
      tinysight ensemble runs/study-depth-shapes/10-layers-64-to-512-filters-seed?
      tinysight ensemble cyclic --snapshots 5   # trained with schedule.name=cyclic train.snapshots=5
    """
    from dataclasses import asdict

    from tinysight import runs
    from tinysight.device import place
    from tinysight.train.ensemble import scores_of, vote, voters, write_ensemble

    if out is not None and not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent}; make it first")
    folders = [runs.find(name) for name in named]
    members = voters(folders, snapshots)
    pack = open_or_draw(data or runs.read_record(folders[0]).run.data.name, home)
    placement = place(device)
    scored, label, total = [], split, len(pack.rows(split))
    with counting(f"scoring {split}") as progress:
        for voter in members:
            tell = functools.partial(progress, total=total, what=f"scoring {split}: {voter.name}")
            label, scores = scores_of(voter, split, pack=pack, placement=placement, each_batch=tell)
            scored.append((voter.name, scores))
    result = vote(scored, data=pack.name, split=split)
    path = out or folders[0] / f"ensemble-{label}.json"
    write_ensemble(result, path)
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
            f"{gain.name}: {100 * gain.gain:+.2f} points better than {gain.best_member}, the best member here "
            f"(95 %, paired: {100 * gain.low:+.2f} to {100 * gain.high:+.2f})"
        )
    print(f"written to {path}")


def bench(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each figure is measured.")] = 3.0,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON there, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "auto",
) -> None:
    """Measure this machine: its ceilings, and how near training, augmentation, loading and prediction come to them.

    [bold]Examples[/bold]
      tinysight bench
      tinysight bench --seconds 10 --out bench.json
    """
    from rich.console import Console

    from tinysight.device import place
    from tinysight.train.bench import measure_machine, table

    if out is not None and not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent}; make it first")
    result = measure_machine(place(device), seconds=seconds)
    text = json.dumps(result, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if as_json:
        print(text)
    else:
        Console().print(table(result))


def version() -> None:
    """Print the version."""
    from tinysight import __version__

    print(__version__)


def _model_and_images(words: list[str], model: str | None) -> tuple[Path | None, list[Path]]:
    """Tell the model from the images; None stands for the one that comes with tinysight.

    The first word is an image when it is a file, or is called like one, and no weights file; else it names a model.
    """
    first, paths = Path(words[0]), [Path(word) for word in words]
    if model is not None:
        return _model_named(model), paths
    called_so = first.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp") and not first.is_dir()
    if first.suffix != ".safetensors" and (called_so or first.is_file()):
        return None, paths
    source = _model_named(words[0])
    if len(paths) == 1:
        raise ValueError(f"{words[0]} is a model, and no image is given; write `tinysight predict {words[0]} IMAGE...`")
    return source, paths[1:]


def _model_named(name: str) -> Path:
    """Return the folder of a run, or a weights file; `shipped` is the one that comes with tinysight."""
    from tinysight import runs
    from tinysight.deploy import shipped

    if Path(name).exists():
        return Path(name)
    return shipped.PATH if name == "shipped" and shipped.PATH.is_file() else runs.find(name)


def _predictor(source: Path | None, device: str, changes: dict[str, Any]) -> Predictor:
    from tinysight.deploy import shipped
    from tinysight.deploy.predictor import Predictor
    from tinysight.device import place

    placement = place(device, "fp32")
    if source is not None:
        return Predictor(source, placement=placement, **changes)
    predictor = shipped.shipped(placement=placement, **changes)
    say(f"the model that comes with tinysight: {shipped.describe(predictor.card)}")
    return predictor


def _draw_predictions(folder: Path, pack: Pack, scores: Scores, split: str, count: int = 48) -> None:
    import numpy as np

    from tinysight.analysis.sheets import contact_sheet

    chosen = np.linspace(0, len(scores.rows) - 1, min(count, len(scores.rows))).round().astype(int)
    probabilities = scores.logits.softmax(dim=1)
    captions: list[Any] = []
    right = 0
    for index in chosen.tolist():
        guess, truth = int(probabilities[index].argmax()), int(scores.labels[index])
        said = f"{pack.class_names[guess]} {float(probabilities[index, guess]):.0%}"
        right += guess == truth
        captions.append((said, "right") if guess == truth else (f"{said}\nis {pack.class_names[truth]}", "wrong"))
    sheet = contact_sheet(
        [pack.images[int(scores.rows[index])] for index in chosen.tolist()],
        captions=captions,
        columns=6,
        scale=3,
        title=f"{folder.name} on {pack.name} {split}: {right} of these {len(chosen)} right",
    )
    sheet.save(folder / f"predictions-{split}.png")


def _print_metrics(metrics: Metrics, data: str, split: str) -> None:
    print(f"{data} {split}, {metrics.num_images:,} images")
    for name, error, low, high in (
        ("top-1", metrics.top1_error, metrics.top1_low, metrics.top1_high),
        ("top-5", metrics.top5_error, metrics.top5_low, metrics.top5_high),
    ):
        print(f"  {name} error        {100 * error:6.2f} %   (95 %: {100 * low:.2f} to {100 * high:.2f} %)")
    print(f"  loss               {metrics.loss:6.3f} nats")
    print(f"  calibration error  {100 * metrics.calibration_error:6.2f} %")
