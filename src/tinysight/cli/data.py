"""The commands `tinysight data ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinysight.cli.arguments import DataDir, Replace, SkipUnreadable, Workers

if TYPE_CHECKING:
    from tinysight.data.build import Source
    from tinysight.data.dataset import Dataset
    from tinysight.data.shapes import Shapes

app = typer.Typer(
    no_args_is_help=True, help="Prepare images once and look at them.", rich_markup_mode=None
)
Name = Annotated[str, typer.Argument(help="A dataset's name or folder.")]


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="tiny-imagenet or shapes.")],
    source: Annotated[
        str | None,
        typer.Option(
            help="Tiny ImageNet's URL, zip archive or folder.", show_default="the published URL"
        ),
    ] = None,
    objects: Annotated[
        str | None,
        typer.Option(metavar="MIN,MAX", help="Objects per scene of shapes.", show_default="1,1"),
    ] = None,
    dataset_name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the shapes.", show_default="shapes-MIN-MAX"),
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
    if name == "shapes":
        if source is not None:
            raise ValueError("shapes is drawn, it has no --source")
        _build(_shapes(dataset_name, objects), data_dir, workers, replace=replace)
        return
    if objects is not None or dataset_name is not None:
        raise ValueError(f"--objects and --name are for shapes, not for {name}")
    from tinysight.data import tiny_imagenet
    from tinysight.data.dataset import data_home
    from tinysight.progress import counting

    with counting(f"preparing {name}") as progress:
        dataset = tiny_imagenet.prepare(
            source,
            home=data_dir or data_home(),
            workers=workers,
            on_unreadable="skip" if skip_unreadable else "stop",
            progress=progress,
            download_progress=lambda done, total: progress(done, total, "downloading, bytes"),
            replace=replace,
        )
    _describe(dataset)


@app.command("import")
def import_(
    folder: Annotated[
        Path, typer.Argument(help="FOLDER/<class>/*, or with train/ and val/ between.")
    ],
    name: Annotated[str, typer.Option(help="Name of the dataset.")],
    size: Annotated[
        int, typer.Option(min=8, max=1024, help="Pixels per side after resizing and center crop.")
    ] = 64,
    boxes: Annotated[
        Path | None,
        typer.Option(help="Where the objects are: a .csv (file,x0,y0,x1,y1) or COCO's .json."),
    ] = None,
    skip_unreadable: SkipUnreadable = False,
    replace: Replace = False,
    data_dir: DataDir = None,
    workers: Workers = None,
) -> None:
    """Prepare your own images: one folder per class, JPEG, PNG or WebP of any size.

    Without train/ and val/ a split is made, balanced by class, and kept. With --boxes localizers
    can learn from them, too: every image has its boxes there, or is named without one.

    \b
    Examples:
      tinysight data import ~/Pictures/pets --name pets
      tinysight data import flowers --name flowers96 --size 96
      tinysight data import birds --name birds --boxes birds.csv
    """
    from tinysight.data.folder import FolderSource

    source = FolderSource(
        folder.expanduser(), name, size, boxes=None if boxes is None else boxes.expanduser()
    )
    _build(source, data_dir, workers, skip_unreadable=skip_unreadable, replace=replace)


@app.command("info")
def info(
    name: Annotated[
        str | None, typer.Argument(help="A dataset's name or folder; none lists all.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every image against its checksum.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Describe a dataset: content, source and whether it has changed, and anything odd.

    \b
    Examples:
      tinysight data info
      tinysight data info tiny-imagenet --verify
      tinysight data info tiny-imagenet.goldfish.fold2
    """
    from tinysight.data.dataset import data_home, list_datasets
    from tinysight.progress import counting

    if name is None:
        where = data_dir or data_home()
        begin = f"{where} holds no data yet; begin with `tinysight data get shapes`"
        print("\n".join(list_datasets(where)) or begin)
        return
    dataset = _load(name, data_dir)
    _describe(dataset, full=True)
    if verify:
        with counting("checking") as progress:
            damaged = dataset.verify(progress=progress)
        if damaged:
            raise ValueError(
                f"{len(damaged)} images of {dataset.name} are damaged, the first: {damaged[0]}; "
                "prepare it again"
            )
        print("every image matches its checksum")


@app.command("show")
def show(
    name: Name,
    out: Annotated[
        Path | None, typer.Option(help="The PNG to write.", show_default="NAME-SPLIT.png")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="train, minival, val or test.", show_default="the first there is"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=2000, help="Number of images.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the choice of images.")] = 0,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Only this class (name or id).")
    ] = None,
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
    from tinysight.data.subset import find_class

    dataset = _load(name, data_dir)
    split = split or next(iter(dataset.splits))
    rows = np.asarray(dataset.rows(split))
    if class_name is not None:
        rows = rows[dataset.labels[rows] == find_class(dataset, class_name)]
    if not len(rows):
        raise ValueError(f"{dataset.name} has no such image in {split}")
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:count])
    labels = dataset.labels[chosen]
    sheet = contact_sheet(
        [dataset.images[row] for row in chosen],
        captions=[
            dataset.class_names[label] if label >= 0 else Path(dataset.files[row]).name
            for row, label in zip(chosen, labels, strict=True)
        ],
        boxes=[dataset.boxes_of(row) for row in chosen],
        title=f"{dataset.name}, {split}: {len(chosen)} of {len(rows)} images",
    )
    path = out or Path(f"{dataset.name}-{split}.png")
    save_figure(sheet, path)
    print(path)


@app.command("augment")
def augment(
    name: Name,
    out: Annotated[
        Path | None, typer.Option(help="The PNG to write.", show_default="NAME-augment.png")
    ] = None,
    row: Annotated[int, typer.Option(min=0, help="Row of the image.")] = 0,
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
    methods = [
        (caption, panel.numpy())
        for caption, panel in panels(torch.tensor(image))
        if caption != "original"
    ]
    path = out or Path(f"{dataset.name}-augment.png")
    save_figure(augmentation_sheet(image, methods), path)
    print(path)


def _load(name: str, data_dir: Path | None) -> Dataset:
    from tinysight.data.load import load_dataset
    from tinysight.progress import counting

    with counting(f"preparing {name}") as progress:
        return load_dataset(name, home=data_dir, progress=progress)


def _shapes(name: str | None, objects: str | None) -> Shapes:
    from tinysight.data.shapes import Shapes

    fewest, most = _two_numbers(objects or "1,1")
    default = "shapes" if (fewest, most) == (1, 1) else f"shapes-{fewest}-{most}"
    return Shapes(name=name or default, objects=(fewest, most))


def _two_numbers(text: str) -> tuple[int, int]:
    fewest, _, most = text.partition(",")
    if not (fewest.strip().isdecimal() and most.strip().isdecimal()):
        raise ValueError(f"--objects is {text!r}; give MIN,MAX, for example 2,4")
    return int(fewest), int(most)


def _build(
    source: Source,
    data_dir: Path | None,
    workers: int | None,
    *,
    skip_unreadable: bool = False,
    replace: bool,
) -> None:
    """Build and describe a dataset."""
    from tinysight.data.build import build
    from tinysight.data.dataset import data_home
    from tinysight.progress import counting

    with counting(f"preparing {source.name}") as progress:
        dataset = build(
            source,
            home=data_dir or data_home(),
            workers=workers,
            on_unreadable="skip" if skip_unreadable else "stop",
            progress=progress,
            replace=replace,
        )
    _describe(dataset)


def _describe(dataset: Dataset, *, full: bool = False) -> None:
    size, classes = dataset.image_size, dataset.class_names
    print(f"{dataset.name}: {len(dataset):,} images of {size}x{size}, {len(classes)} classes")
    counts = (f"{split} {stop - start:,}" for split, (start, stop) in dataset.splits.items())
    print(f"  {', '.join(count for count in counts if not count.endswith(' 0'))}")
    for note in dataset.notes:
        print(f"  note: {note}")
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
    print(f"  boxes: {len(dataset.boxes):,}")
    print("  classes: " + ", ".join(classes))
