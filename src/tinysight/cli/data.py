"""The commands `tinysight data ...`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from tinysight.cli.arguments import DataDir, Replace, SkipUnreadable, Workers
from tinysight.text import pluralize

if TYPE_CHECKING:
    from tinysight.data.build import Source
    from tinysight.data.dataset import Dataset

app = typer.Typer(no_args_is_help=True, help="Prepare and view images.", rich_markup_mode=None)
Name = Annotated[str, Argument(help="A dataset's name or folder.")]
Size = Annotated[str, Option(help="Pixels per side, or auto: what fits the images, 32 to 128.")]
Fit = Annotated[
    str | None,
    Option(
        help="How images become square: crop the center, pad the shorter side, or stretch it.",
        show_default="pad with --boxes, else crop",
    ),
]
Corrections = Annotated[
    Path | None,
    Option(help="Labels and boxes given on the page of `tinysight serve`: a .jsonl file."),
]
OnlyLabels = Annotated[bool, Option("--only-labels", help="Leave the boxes of --corrections out.")]


@app.command("get")
def get(
    name: Annotated[str, Argument(help="tiny-imagenet or shapes.")],
    source: Annotated[
        str | None,
        Option(help="Tiny ImageNet's URL, zip or folder.", show_default="the published URL"),
    ] = None,
    objects: Annotated[
        str | None,
        Option(metavar="MIN,MAX", help="Objects per scene of shapes.", show_default="1,1"),
    ] = None,
    dataset_name: Annotated[
        str | None, Option("--name", help="Name of the shapes.", show_default="shapes-MIN-MAX")
    ] = None,
    skip_unreadable: SkipUnreadable = False,
    replace: Replace = False,
    data_dir: DataDir = None,
    workers: Workers = None,
) -> None:
    """Prepare Tiny ImageNet (the published archive, your copy, or its folder), or drawn shapes.

    A second call is instant; an interrupted one leaves nothing wrong.

    \b
    Examples:
      tinysight data get shapes
      tinysight data get shapes --objects 2,4
      tinysight data get tiny-imagenet
      tinysight data get tiny-imagenet --source ~/Downloads/tiny-imagenet-200.zip
    """
    known = ("tiny-imagenet", "shapes")
    if name not in known:
        raise ValueError(
            f"no dataset is named {name!r}; there are {' and '.join(known)} "
            "(your own images: `tinysight data import FOLDER`)"
        )
    if name == "tiny-imagenet":
        if objects is not None or dataset_name is not None:
            raise ValueError(f"--objects and --name are for shapes, not for {name}")
        _build(source, data_dir, skip_unreadable, workers=workers, replace=replace)
        return
    from tinysight.data.shapes import Shapes

    if source is not None:
        raise ValueError("shapes is drawn, it has no --source")
    numbers = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", objects or "1,1")
    if numbers is None:
        raise ValueError(f"--objects is {objects!r}; give MIN,MAX, for example 2,4")
    fewest, most = map(int, numbers.groups())
    default = "shapes" if (fewest, most) == (1, 1) else f"shapes-{fewest}-{most}"
    shapes = Shapes(name=dataset_name or default, objects=(fewest, most))
    _build(shapes, data_dir, False, workers=workers, replace=replace)


@app.command("import")
def import_(
    folder: Annotated[
        Path,
        Argument(
            help="FOLDER/<class>/*, train/ and val/ above these, or a zip; any images by --boxes."
        ),
    ],
    name: Annotated[str, Option(help="Name of the dataset.")],
    size: Size = "64",
    fit: Fit = None,
    boxes: Annotated[
        Path | None,
        Option(
            help="Where the objects are: CSV, COCO, Pascal VOC, YOLO, LabelMe, CVAT or VIA; a file "
            "or folder."
        ),
    ] = None,
    corrections: Corrections = None,
    only_labels: OnlyLabels = False,
    unlabeled: Annotated[
        str, Option(help="Images without an annotation: error, skip, or empty (no object).")
    ] = "error",
    skip_bad_boxes: Annotated[
        bool, Option("--skip-bad-boxes", help="Leave out boxes that cannot be used, and name them.")
    ] = False,
    boxes_origin: Annotated[
        str, Option(help="Whether coordinates count from 0 or 1: auto, 0 or 1.")
    ] = "auto",
    skip_unreadable: SkipUnreadable = False,
    replace: Replace = False,
    data_dir: DataDir = None,
    workers: Workers = None,
) -> None:
    """Prepare your own images: one folder per class, of any size.

    Without train/ and val/ a split is made, balanced by class, and kept. With --boxes localizers
    can learn from them, too; then class folders are not needed, as boxes have classes.

    \b
    Examples:
      tinysight data import ~/Pictures/pets --name pets
      tinysight data import flowers --name flowers96 --size 96
      tinysight data import birds --name birds --boxes birds.csv
      tinysight data import kangaroo/images --name kangaroo --boxes kangaroo/annots
      tinysight data import cells-yolo --name cells --boxes cells-yolo/data.yaml
      tinysight data import photos --name photos --corrections photos/corrections.jsonl
    """
    from tinysight.data.annotations import BoxRules
    from tinysight.data.boxed_folder import source_of

    if size != "auto" and not size.isdecimal():
        raise ValueError(f"--size is {size!r}; give a number of pixels, or auto")
    own: dict[str, Any] = {"image_size": "auto" if size == "auto" else int(size), "fit": fit}
    rules = BoxRules(unlabeled, skip_bad_boxes, boxes_origin)
    own |= {"boxes": boxes, "corrections": corrections, "only_labels": only_labels}
    source = source_of(folder, name, rules=rules, **own)
    _build(source, data_dir, skip_unreadable, workers=workers, replace=replace)


@app.command("list")
def list_(data_dir: DataDir = None) -> None:
    """List the prepared datasets with their sizes and sources.

    \b
    Examples:
      tinysight data list
    """
    from tinysight.data.dataset import data_home, list_datasets, open_dataset

    home = data_dir or data_home()
    if not (names := list_datasets(home)):
        print(f"{home} holds no data yet; begin with `tinysight data get shapes`")
        return
    rows = [("name", "images", "classes", "pixels", "MB", "source")]
    for name in names:
        try:
            data = open_dataset(name, home=home)
        except ValueError as error:
            rows.append((name, "", "", "", "", str(error)))
            continue
        source = data.manifest["source"]
        counts = (f"{n:,}" for n in (len(data), len(data.class_names), data.image_size))
        rows.append(
            (name, *counts, f"{data.num_bytes / 1e6:,.1f}", source.get("path") or source["kind"])
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *middle, last in rows:
        cells = (f"{text:>{width}}" for text, width in zip(middle, widths[1:-1], strict=True))
        print(f"{first:<{widths[0]}}  {'  '.join(cells)}  {last}")


@app.command("remove")
def remove(
    name: Annotated[str, Argument(help="A prepared dataset's name.")],
    yes: Annotated[bool, Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete a prepared dataset; its source stays as it is.

    \b
    Examples:
      tinysight data remove pets
    """
    from tinysight.data.build import find_removable, remove_dataset
    from tinysight.data.dataset import data_home, open_dataset

    home = data_dir or data_home()
    path = find_removable(name, home)
    if not yes:
        try:
            data = open_dataset(path)
            gone = ", and its source is no longer there" * (data.source_state() == "gone")
            what = f"{data.num_bytes / 1e6:,.0f} MB{gone}"
        except ValueError as error:
            what = str(error)
        typer.confirm(f"remove {path} ({what})?", abort=True)
    remove_dataset(name, home)
    print(f"removed {path}")


@app.command("info")
def info(
    name: Name,
    verify: Annotated[bool, Option("--verify", help="Check each image's checksum.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Describe a dataset: content, source and whether it has changed, and anything odd.

    \b
    Examples:
      tinysight data info tiny-imagenet --verify
      tinysight data info tiny-imagenet.goldfish.fold2
    """
    from tinysight.progress import counting

    dataset = _load(name, data_dir)
    _describe(dataset, full=True)
    if verify:
        with counting("checking") as progress:
            damaged = dataset.verify(progress=progress)
        if damaged:
            found = f"{pluralize(len(damaged), 'image')} of {dataset.name} damaged"
            raise ValueError(f"{found}, the first: {damaged[0]}; prepare it again")
        print("every image matches its checksum")


@app.command("show")
def show(
    name: Name,
    out: Annotated[Path | None, Option(help="PNG to write.", show_default="NAME-SPLIT.png")] = None,
    split: Annotated[
        str | None, Option(help="train, minival, val or test.", show_default="the first there is")
    ] = None,
    count: Annotated[int, Option(min=1, max=2000, help="Number of images.")] = 48,
    seed: Annotated[int, Option(min=0, help="Random seed of the choice of images.")] = 0,
    class_name: Annotated[str | None, Option("--class", help="Only a class (name or id).")] = None,
    data_dir: DataDir = None,
) -> None:
    """Draw a contact sheet: images with their labels and boxes, as a PNG.

    \b
    Examples:
      tinysight data show shapes
      tinysight data show tiny-imagenet --class goldfish --count 24 --out fish.png
      tinysight data show tiny-imagenet.goldfish.mosaics
    """
    import numpy as np

    from tinysight.analysis.pictures import contact_sheet, save_figure
    from tinysight.data.subset import find_class, of_class
    from tinysight.data.summary import caption

    dataset = _load(name, data_dir)
    split = split or next(iter(dataset.splits))
    rows = np.asarray(dataset.rows(split))
    if class_name is not None:
        rows = rows[of_class(dataset, find_class(dataset, class_name))[rows]]
    if not len(rows):
        raise ValueError(f"{dataset.name} has no such image in {split}")
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:count])
    labels = [dataset.box_labels_of(row) for row in chosen]
    several = any(len(set(own.tolist())) > 1 for own in labels)  # else an image's class is theirs
    sheet = contact_sheet(
        [dataset.images[row] for row in chosen],
        captions=[caption(dataset, row) for row in chosen],
        boxes=[dataset.boxes_of(row) for row in chosen],
        box_labels=labels if several else None,
        class_names=dataset.class_names,
        side=192 if several else 128,
        title=f"{dataset.name}, {split}: {len(chosen)} of {pluralize(len(rows), 'image')}",
    )
    path = out or Path(f"{dataset.name}-{split}.png")
    save_figure(sheet, path)
    print(path)


@app.command("augment")
def augment(
    name: Name,
    out: Annotated[
        Path | None, Option(help="PNG to write.", show_default="NAME-augment.png")
    ] = None,
    row: Annotated[int, Option(min=0, help="Row of the image.")] = 0,
    data_dir: DataDir = None,
) -> None:
    """Draw one image under each augmentation, like the report's Fig. 1.

    \b
    Examples:
      tinysight data augment shapes
      tinysight data augment tiny-imagenet --row 1234 --out fig1.png
    """
    import torch

    from tinysight.analysis.pictures import augmentation_sheet, save_figure
    from tinysight.ops.augment import panels

    dataset = _load(name, data_dir)
    if row >= len(dataset):
        raise ValueError(f"{dataset.name} has rows 0 to {len(dataset) - 1}, not {row}")
    image = dataset.images[row]
    methods = [(name, panel.numpy()) for name, panel in panels(torch.tensor(image))]
    methods = [(name, panel) for name, panel in methods if name != "original"]
    path = out or Path(f"{dataset.name}-augment.png")
    save_figure(augmentation_sheet(image, methods), path)
    print(path)


def _load(name: str, data_dir: Path | None) -> Dataset:
    from tinysight.data.load import load_dataset
    from tinysight.progress import counting

    with counting(f"preparing {name}") as progress:
        return load_dataset(name, home=data_dir, progress=progress)


def _build(source: str | Source | None, data_dir: Path | None, skip: bool, **options: Any) -> None:
    """Build a dataset, of Tiny ImageNet if `source` is None or its place, and describe it."""
    from tinysight.data import tiny_imagenet
    from tinysight.data.build import build
    from tinysight.data.dataset import data_home
    from tinysight.data.summary import next_command
    from tinysight.progress import counting

    options |= {"home": data_dir or data_home(), "on_unreadable": "skip" if skip else "stop"}
    with counting(f"preparing {getattr(source, 'name', 'tiny-imagenet')}") as progress:
        if source is None or isinstance(source, str):
            options["download_progress"] = lambda a, b: progress(a, b, "downloading, bytes")
            dataset = tiny_imagenet.prepare(source, progress=progress, **options)
        else:
            dataset = build(source, progress=progress, **options)
    _describe(dataset)
    print(f"next: {next_command(dataset)}")


def _describe(dataset: Dataset, *, full: bool = False) -> None:
    from tinysight.data.dataset import FEW
    from tinysight.data.summary import summarize

    size, classes = dataset.image_size, pluralize(len(dataset.class_names), "class")
    print(f"{dataset.name}: {pluralize(len(dataset), 'image')} of {size}x{size}, {classes}")
    counts = (f"{split} {stop - start:,}" for split, (start, stop) in dataset.splits.items())
    print(f"  {', '.join(count for count in counts if not count.endswith(' 0'))}")
    for line in summarize(dataset, all_classes=full):
        print(f"  {line}")
    listed = [note for note in dataset.notes if note.startswith("left out: ")]
    for note in dataset.notes:
        if full or note not in listed[FEW:]:
            print(f"  note: {note}")
    if listed[FEW:] and not full:
        print(f"  note: and {len(listed) - FEW} more; all: tinysight data info {dataset.name}")
    if dataset.path is not None:
        print(f"  {dataset.path}")
    if not full:
        return
    source = dataset.manifest["source"]
    if dataset.view is not None:
        print(f"  source: {source['kind']}, a view of {source['path']}")
    else:
        state = {
            "same": "unchanged",
            "changed": "CHANGED since it was prepared",
            "gone": "no longer there",
            "unknown": "drawn",
        }[dataset.source_state()]
        print(f"  source: {source['kind']} {source['path']} ({state})")
