"""The commands `tinysight data ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinysight.cli.arguments import Home, Replace, SkipUnreadable, Workers
from tinysight.cli.datasets import open_or_draw, packs_home
from tinysight.cli.progress import counting, say

if TYPE_CHECKING:
    from tinysight.data.dataset import Dataset

app = typer.Typer(
    no_args_is_help=True, help="Prepare images once and look at them.", rich_markup_mode=None
)


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
        typer.Option(
            metavar="FEWEST,MOST", help="Objects in a scene of shapes.", show_default="1,1"
        ),
    ] = None,
    called: Annotated[
        str | None,
        typer.Option(
            "--name", help="What the shapes will be called.", show_default="shapes-FEWEST-MOST"
        ),
    ] = None,
    skip_unreadable: SkipUnreadable = False,
    replace: Replace = False,
    home: Home = None,
    workers: Workers = None,
) -> None:
    """Prepare a known data set: Tiny ImageNet (published archive, your copy of it, or its folder),
    or the drawn shapes.

    A second call is instant; an interrupted one leaves nothing wrong.

    \b
    Examples:
      tinysight data get shapes
      tinysight data get shapes --objects 2,4
      tinysight data get tiny-imagenet
      tinysight data get tiny-imagenet --source ~/Downloads/tiny-imagenet-200.zip
    """
    where = packs_home(home)
    known = ("tiny-imagenet", "shapes")
    if name not in known:
        raise ValueError(
            f"no data set is named {name!r}; there are {' and '.join(known)} "
            "(your own images: `tinysight data import FOLDER`)"
        )
    if name == "shapes" and source is not None:
        raise ValueError("shapes is drawn, it has no --source")
    if name != "shapes" and (objects is not None or called is not None):
        raise ValueError(f"--objects and --name are for shapes; {name} is what it is")
    number = _two_numbers(objects) if objects is not None else (1, 1)
    with counting(f"preparing {name}") as progress:
        if name == "shapes":
            from tinysight.data import shapes

            pack = shapes.prepare(
                home=where,
                objects=number,
                name=called
                or ("shapes" if number == (1, 1) else f"shapes-{number[0]}-{number[1]}"),
                workers=workers,
                progress=progress,
                replace=replace,
                say=say,
            )
        else:
            from tinysight.data import tiny_imagenet

            pack = tiny_imagenet.prepare(
                source,
                home=where,
                workers=workers,
                on_unreadable="skip" if skip_unreadable else "stop",
                progress=progress,
                download_progress=lambda done, total: progress(done, total, "downloading, bytes"),
                replace=replace,
                say=say,
            )
    _describe(pack)


@app.command("import")
def import_(
    folder: Annotated[
        Path, typer.Argument(help="FOLDER/<class>/*, or with train/ and val/ between.")
    ],
    name: Annotated[str, typer.Option(help="What the data will be called.")],
    size: Annotated[
        int, typer.Option(min=8, max=1024, help="Pixels a side after resizing and center crop.")
    ] = 64,
    boxes: Annotated[
        Path | None,
        typer.Option(help="Where the objects are: a .csv (file,x0,y0,x1,y1) or COCO's .json."),
    ] = None,
    skip_unreadable: SkipUnreadable = False,
    replace: Replace = False,
    home: Home = None,
    workers: Workers = None,
) -> None:
    """Prepare your own images: one folder a class, JPEG, PNG or WebP of any size.

    Without train/ and val/ a split is made, balanced by class, and kept. With --boxes the
    localizers learn from them, too: every image has its boxes there, or is named without one.

    \b
    Examples:
      tinysight data import ~/Pictures/pets --name pets
      tinysight data import flowers --name flowers96 --size 96
      tinysight data import birds --name birds --boxes birds.csv
    """
    from tinysight.data.folder import import_folder

    with counting(f"preparing {name}") as progress:
        pack = import_folder(
            folder,
            name=name,
            home=packs_home(home),
            image_size=size,
            boxes=boxes,
            workers=workers,
            on_unreadable="skip" if skip_unreadable else "stop",
            progress=progress,
            replace=replace,
            say=say,
        )
    _describe(pack)


@app.command("one-class")
def one_class(
    name: Annotated[
        str, typer.Argument(metavar="PACK", help="A pack with boxes, as tiny-imagenet.")
    ],
    only: Annotated[str, typer.Argument(metavar="CLASS", help="A class's name or id.")],
    fold: Annotated[
        int, typer.Option(min=0, max=4, help="Which fifth of its images is held out.")
    ] = 0,
    negatives: Annotated[
        int | None,
        typer.Option(min=0, help="Images of ten other classes beside.", show_default="as many"),
    ] = None,
    called: Annotated[
        str | None,
        typer.Option("--name", help="What it will be called.", show_default="PACK.CLASS"),
    ] = None,
    replace: Replace = False,
    home: Home = None,
) -> None:
    """Cut one class out of a pack, to train a localizer on: four fifths of its images, one held
    out, and negatives.

    `tinysight train` makes such a pack by itself where its name, as tiny-imagenet.goldfish.fold2,
    says how.

    \b
    Examples:
      tinysight data one-class tiny-imagenet goldfish
      tinysight data one-class tiny-imagenet n02124075 --fold 2 --negatives 0
    """
    from tinysight.data import subset as cut

    source = open_or_draw(name, home)
    _describe(
        cut.prepare(
            source,
            only,
            home=packs_home(home),
            fold=fold,
            negatives=negatives,
            name=called,
            replace=replace,
            say=say,
        )
    )


@app.command("mosaics")
def mosaics(
    name: Annotated[
        str, typer.Argument(metavar="PACK", help="A pack with boxes, as tiny-imagenet.")
    ],
    only: Annotated[
        str | None,
        typer.Argument(metavar="[CLASS]", help="A class's name or id; none: every box counts."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many canvases.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Which.")] = 0,
    called: Annotated[
        str | None,
        typer.Option("--name", help="What it will be called.", show_default="PACK.CLASS.mosaics"),
    ] = None,
    replace: Replace = False,
    home: Home = None,
) -> None:
    """Lay four val images side by side, one to four of them of a class: several objects with known
    boxes, to evaluate.

    \b
    Examples:
      tinysight data mosaics tiny-imagenet goldfish
      tinysight data mosaics tiny-imagenet
    """
    from tinysight.data import composites as made

    source = open_or_draw(name, home)
    _describe(
        made.prepare(
            source,
            only,
            home=packs_home(home),
            num=count,
            seed=seed,
            name=called,
            replace=replace,
            say=say,
        )
    )


@app.command("info")
def info(
    name: Annotated[
        str | None, typer.Argument(help="A pack's name or folder; none lists all.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every image against its checksum.")
    ] = False,
    home: Home = None,
) -> None:
    """Tell what a data set holds, where it came from, whether its source has changed, and what is
    odd in it.

    \b
    Examples:
      tinysight data info
      tinysight data info tiny-imagenet --verify
    """
    from tinysight.data.dataset import list_datasets, open_dataset

    where = packs_home(home)
    if name is None:
        names = list_datasets(where)
        print(
            "\n".join(names)
            if names
            else f"{where} holds no data yet; begin with `tinysight data get shapes`"
        )
        return
    pack = open_dataset(name, home=where)
    _describe(pack, full=True)
    if verify:
        with counting("checking") as progress:
            damaged = pack.verify(progress=progress)
        if damaged:
            raise ValueError(
                f"{len(damaged)} images of {pack.name} are damaged, as {damaged[0]}; prepare it anew"
            )
        print("every image is as it was written")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A pack's name or folder.")],
    out: Annotated[
        Path | None, typer.Option(help="The PNG to write.", show_default="NAME-SPLIT.png")
    ] = None,
    split: Annotated[str, typer.Option(help="train, minival, val or test.")] = "train",
    count: Annotated[int, typer.Option(min=1, max=2000, help="How many images.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Which images.")] = 0,
    only: Annotated[
        str | None, typer.Option("--class", help="Only this class (name or id).")
    ] = None,
    home: Home = None,
) -> None:
    """Draw a contact sheet: images with their labels and boxes, as a PNG.

    \b
    Examples:
      tinysight data show shapes
      tinysight data show tiny-imagenet --class goldfish --count 24 --out fish.png
    """
    import numpy as np

    from tinysight.analysis.pictures import contact_sheet, save_figure
    from tinysight.data.dataset import open_dataset
    from tinysight.data.subset import find_class

    pack = open_dataset(name, home=packs_home(home))
    rows = np.asarray(pack.rows(split))
    if only is not None:
        rows = rows[pack.labels[rows] == find_class(pack, only)]
    if not len(rows):
        raise ValueError(f"{pack.name} has no image to show there")
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:count])
    labels = pack.labels[chosen]
    sheet = contact_sheet(
        [pack.images[row] for row in chosen],
        captions=[
            pack.class_names[label] if label >= 0 else Path(pack.files[row]).name
            for row, label in zip(chosen, labels, strict=True)
        ],
        boxes=[pack.boxes_of(row) for row in chosen],
        title=f"{pack.name}, {split}: {len(chosen)} of {len(rows)} images",
    )
    path = out or Path(f"{pack.name}-{split}.png")
    save_figure(sheet, path)
    print(path)


@app.command("augment")
def augment(
    name: Annotated[str, typer.Argument(help="A pack's name or folder.")],
    out: Annotated[
        Path | None, typer.Option(help="The PNG to write.", show_default="NAME-augment.png")
    ] = None,
    row: Annotated[int, typer.Option(min=0, help="Which image.")] = 0,
    home: Home = None,
) -> None:
    """Draw one image under each augmentation, like the report's Fig. 1.

    \b
    Examples:
      tinysight data augment shapes
      tinysight data augment tiny-imagenet --row 1234 --out fig1.png
    """
    import torch

    from tinysight.analysis.pictures import augmentation_sheet, save_figure
    from tinysight.data.dataset import open_dataset
    from tinysight.ops.augment import panels

    pack = open_dataset(name, home=packs_home(home))
    if row >= len(pack):
        raise ValueError(f"{pack.name} has rows 0 to {len(pack) - 1}, not {row}")
    image = pack.images[row]
    methods = [
        (caption, panel.numpy())
        for caption, panel in panels(torch.tensor(image))
        if caption != "original"
    ]
    figure = augmentation_sheet(image, methods)
    path = out or Path(f"{pack.name}-augment.png")
    save_figure(figure, path)
    print(path)


def _two_numbers(text: str) -> tuple[int, int]:
    fewest, _, most = text.partition(",")
    if not (fewest.strip().isdecimal() and most.strip().isdecimal()):
        raise ValueError(f"--objects is {text!r}; give FEWEST,MOST, as 2,4")
    return int(fewest), int(most)


def _describe(pack: Dataset, *, full: bool = False) -> None:
    counts = ", ".join(
        f"{split} {stop - start:,}" for split, (start, stop) in pack.splits.items() if stop > start
    )
    print(
        f"{pack.name}: {len(pack):,} images of {pack.image_size}x{pack.image_size}, {len(pack.class_names)} classes"
    )
    print(f"  {counts}")
    for note in pack.notes:
        print(f"  note: {note}")
    print(f"  {pack.path}")
    if not full:
        return
    source = pack.manifest["source"]
    state = {
        "same": "unchanged",
        "changed": "CHANGED since it was prepared",
        "gone": "no longer there",
        "unknown": "a pack" if source["path"] else "drawn",
    }
    print(f"  source: {source['kind']} {source['path']} ({state[pack.source_state()]})")
    print(f"  boxes: {len(pack.boxes):,}")
    print("  classes: " + ", ".join(pack.class_names))
