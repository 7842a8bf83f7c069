"""The command line: parse, call one function, print. Heavy imports stay inside the commands: --help is instant."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tinysight.data.pack import Pack
    from tinysight.train.evaluate import Metrics, Scores

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Train recognisers of small images from scratch, find what is where in them, see why they err, and ship them.",
    epilog="Begin with:  tinysight train quickstart --data shapes",
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare images once and look at them.", rich_markup_mode="rich")
app.add_typer(data_app, name="data")

Home = Annotated[
    Path | None, typer.Option("--home", help="Where packs are kept [default: $TINYSIGHT_DATA or ~/.cache/tinysight].")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes that decode [default: all cores].")]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Changes to the recipe, as train.epochs=8.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name under runs/.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def main() -> None:
    """Run the command line; what a person can put right becomes one line and exit status 1."""
    try:
        app()
    except BrokenPipeError:  # `tinysight recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError) as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


# ---------------------------------------------------------------- data


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="tiny-imagenet or shapes.")],
    source: Annotated[
        str | None, typer.Option(help="Tiny ImageNet's URL, zip archive or folder [default: the published URL].")
    ] = None,
    home: Home = None,
    workers: Workers = None,
) -> None:
    """Prepare a known data set: Tiny ImageNet (published archive, your copy of it, or its folder), or the drawn shapes.

    A second call is instant; an interrupted one leaves nothing wrong.

    [bold]Examples[/bold]
      tinysight data get shapes
      tinysight data get tiny-imagenet
      tinysight data get tiny-imagenet --source ~/Downloads/tiny-imagenet-200.zip
    """
    where = _home(home)
    known = ("tiny-imagenet", "shapes")
    if name not in known:
        raise ValueError(
            f"no data set is named {name!r}; there are {' and '.join(known)} "
            "(your own images: `tinysight data import FOLDER`)"
        )
    if name == "shapes" and source is not None:
        raise ValueError("shapes is drawn, it has no --source")
    with _counting(f"preparing {name}") as progress:
        if name == "shapes":
            from tinysight.data import shapes

            pack = shapes.prepare(home=where, workers=workers, progress=progress, say=_say)
        else:
            from tinysight.data import tiny_imagenet

            pack = tiny_imagenet.prepare(source, home=where, workers=workers, progress=progress, say=_say)
    _describe(pack)


@data_app.command("import")
def data_import(
    folder: Annotated[Path, typer.Argument(help="FOLDER/<class>/*, or with train/ and val/ between.")],
    name: Annotated[str, typer.Option(help="What the data will be called.")],
    size: Annotated[int, typer.Option(min=8, max=1024, help="Pixels a side after resizing and centre crop.")] = 64,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="List and leave out unreadable files.")
    ] = False,
    home: Home = None,
    workers: Workers = None,
) -> None:
    """Prepare your own images: one folder a class, JPEG, PNG or WebP of any size.

    Without train/ and val/ a split is made, balanced by class, and kept.

    [bold]Examples[/bold]
      tinysight data import ~/Pictures/pets --name pets
      tinysight data import flowers --name flowers96 --size 96
    """
    from tinysight.data.folder import import_folder

    with _counting(f"preparing {name}") as progress:
        pack = import_folder(
            folder,
            name=name,
            home=_home(home),
            image_size=size,
            workers=workers,
            on_unreadable="skip" if skip_unreadable else "stop",
            progress=progress,
        )
    _describe(pack)


@data_app.command("info")
def data_info(
    name: Annotated[str | None, typer.Argument(help="A pack's name or folder; none lists all.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check every image against its checksum.")] = False,
    home: Home = None,
) -> None:
    """Tell what a data set holds, where it came from, whether its source has changed, and what is odd in it.

    [bold]Examples[/bold]
      tinysight data info
      tinysight data info tiny-imagenet --verify
    """
    from tinysight.data.pack import list_packs, open_pack

    where = _home(home)
    if name is None:
        names = list_packs(where)
        print("\n".join(names) if names else f"{where} holds no data yet; begin with `tinysight data get shapes`")
        return
    pack = open_pack(name, home=where)
    _describe(pack, full=True)
    if verify:
        with _counting("checking") as progress:
            damaged = pack.verify(progress=progress)
        if damaged:
            raise ValueError(f"{len(damaged)} images of {pack.name} are damaged, as {damaged[0]}; prepare it anew")
        print("every image is as it was written")


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="A pack's name or folder.")],
    out: Annotated[Path | None, typer.Option(help="The PNG to write [default: NAME-SPLIT.png].")] = None,
    split: Annotated[str, typer.Option(help="train, minival, val or test.")] = "train",
    count: Annotated[int, typer.Option(min=1, max=2000, help="How many images.")] = 48,
    seed: Annotated[int, typer.Option(help="Which images.")] = 0,
    only: Annotated[str | None, typer.Option("--class", help="Only this class (name or id).")] = None,
    home: Home = None,
) -> None:
    """Draw a contact sheet: images with their labels and boxes, as a PNG.

    [bold]Examples[/bold]
      tinysight data show shapes
      tinysight data show tiny-imagenet --class goldfish --count 24 --out fish.png
    """
    import numpy as np

    from tinysight.analysis.sheets import contact_sheet
    from tinysight.data.pack import open_pack

    pack = _pack(open_pack, name, home)
    rows = np.asarray(pack.rows(split))
    if only is not None:
        rows = rows[pack.labels[rows] == _class_index(pack, only)]
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
    _write_picture(sheet, out or Path(f"{pack.name}-{split}.png"))


@data_app.command("augment")
def data_augment(
    name: Annotated[str, typer.Argument(help="A pack's name or folder.")],
    out: Annotated[Path | None, typer.Option(help="The PNG to write [default: NAME-augment.png].")] = None,
    row: Annotated[int, typer.Option(min=0, help="Which image.")] = 0,
    home: Home = None,
) -> None:
    """Draw one image under each augmentation, like the report's Fig. 1.

    [bold]Examples[/bold]
      tinysight data augment shapes
      tinysight data augment tiny-imagenet --row 1234 --out fig1.png
    """
    import torch

    from tinysight.analysis.sheets import augmentation_figure
    from tinysight.data.pack import open_pack
    from tinysight.ops.augment import panels

    pack = _pack(open_pack, name, home)
    if row >= len(pack):
        raise ValueError(f"{pack.name} has rows 0 to {len(pack) - 1}, not {row}")
    image = pack.images[row]
    methods = [(caption, panel.numpy()) for caption, panel in panels(torch.tensor(image)) if caption != "original"]
    figure = augmentation_figure(image, methods)
    _write_picture(figure, out or Path(f"{pack.name}-augment.png"))


# ---------------------------------------------------------------- training


@app.command()
def recipes() -> None:
    """List the recipes: what each trains, on what, how long, and what came of it."""
    import inspect

    from rich.console import Console
    from rich.table import Table

    from tinysight.recipes import RECIPES

    table = Table("recipe", "what", show_lines=True)
    for name, function in RECIPES.items():
        table.add_row(name, inspect.getdoc(function))
    Console().print(table)
    print("Train one with: tinysight train RECIPE --data NAME [field=value ...]")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="See `tinysight recipes`.")],
    settings: Settings = None,
    data: Annotated[str | None, typer.Option(help="A pack's name [default: the recipe's].")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name or folder [default: RECIPE-DATA].")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the resolved run, and train nothing.")] = False,
    home: Home = None,
) -> None:
    """Train a recipe on a data set; everything about it can be changed by field=value.

    Ctrl-C saves; `tinysight resume` goes on, to the very same result. Several processes: prefix with torchrun.

    [bold]Examples[/bold]
      tinysight train quickstart --data shapes
      tinysight train resnet18-modern --data pets train.epochs=30 optimiser.lr=0.05
      torchrun --nproc-per-node 2 -m tinysight train resnet18-report --data tiny-imagenet
    """
    from dataclasses import replace

    from tinysight import config
    from tinysight.recipes import recipe as recipe_named

    run = config.override(recipe_named(recipe), dict(config.parse_assignments(settings or [])))
    if data is not None:
        run = replace(run, data=replace(run.data, name=data))
    if show:
        print(json.dumps(config.to_dict(run), indent=1))
        return
    from tinysight.train import launch

    _train(
        run.data.name,
        home,
        lambda pack, world, reporter: launch.start(
            run, pack, world=world, reporter=reporter, name=name, command=shlex.join(["tinysight", *sys.argv[1:]])
        )[0],
    )


@app.command()
def resume(run: RunName, home: Home = None) -> None:
    """Go on with an interrupted run from its newest whole checkpoint, to the result it would have had.

    [bold]Examples[/bold]
      tinysight resume quickstart-shapes
    """
    from tinysight import runs
    from tinysight.train import launch

    folder = runs.find(run)
    record = runs.read_record(folder)

    def go_on(pack: Pack, world: Any, reporter: Any) -> Path:
        launch.resume(folder, pack, world=world, reporter=reporter)
        return folder

    _train(record.run.data.name, home, go_on)


def _train(data: str, home: Path | None, work: Callable[[Pack, Any, Any], Path]) -> None:
    from tinysight.analysis.curves import draw_curves
    from tinysight.train.console import Terminal
    from tinysight.train.loop import Interrupted
    from tinysight.train.world import join_world

    with join_world() as world:
        reporter = Terminal(quiet=not world.is_main)
        try:
            pack = _trainable(data, home) if world.is_main else None
            world.barrier()
            folder = work(pack or _trainable(data, home), world, reporter)
        except Interrupted as interruption:
            reporter.end()
            number = interruption.signal_number
            os._exit(128 + number) if world.size > 1 else sys.exit(128 + number)
        finally:
            reporter.end()
        if world.is_main:
            draw_curves(folder)
            summary = json.loads((folder / "summary.json").read_text())
            print(f"trained {summary['epochs']} epochs, {summary['steps']} steps in {_duration(summary['seconds'])}")
            if summary["best_monitored_error"] is not None:
                print(f"lowest minival error {summary['best_monitored_error']:.2%}")
            print(f"weights {folder / 'weights.safetensors'}\ncurves  {folder / 'curves.png'}")
            print(f"next    tinysight evaluate {folder}")


@app.command()
def evaluate(
    run: RunName,
    split: Annotated[str, typer.Option(help="minival (for choices) or val (for reports).")] = "val",
    data: Annotated[str | None, typer.Option(help="Another pack with the same classes [default: the run's].")] = None,
    device: Device = "auto",
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a finished run: errors with 95 % intervals, loss, calibration; keep every image's scores and draw some.

    [bold]Examples[/bold]
      tinysight evaluate quickstart-shapes
      tinysight evaluate runs/pets --split minival --json
    """
    from dataclasses import asdict

    from tinysight import runs
    from tinysight.analysis.curves import draw_curves
    from tinysight.device import place
    from tinysight.train.evaluate import evaluate_run

    folder = runs.find(run)
    pack = _trainable(data or runs.read_record(folder).run.data.name, home)
    with _counting(f"scoring {split}") as progress:
        total = len(pack.rows(split))
        scores, metrics = evaluate_run(
            folder, split, pack=pack, placement=place(device), each_batch=lambda done: progress(done, total)
        )
    if split == "val" and (folder / "log.jsonl").exists():
        draw_curves(folder)
    _draw_predictions(folder, pack, scores, split)
    if as_json:
        print(json.dumps(asdict(metrics), indent=1))
    else:
        _print_metrics(metrics, pack.name, split)
        print(f"every image's scores: {folder / 'scores' / f'{split}.safetensors'}")
        print(f"some predictions:     {folder / f'predictions-{split}.png'}")


@app.command()
def predict(
    model: Annotated[str, typer.Argument(metavar="RUN|WEIGHTS", help="A run, or a weights file (.safetensors).")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="JPEG, PNG or WebP of any size.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "auto",
) -> None:
    """Name what is in pictures.

    [bold]Examples[/bold]
      tinysight predict quickstart-shapes examples/*.png
      tinysight predict runs/pets/weights.safetensors cat.jpg --json
    """
    from tinysight import runs
    from tinysight.deploy.predictor import Predictor
    from tinysight.device import place

    path = Path(model)
    predictor = Predictor(path if path.exists() else runs.find(model), placement=place(device, "fp32"))
    failed = 0
    found: list[dict[str, Any]] = []
    for image, answer in zip(images, predictor.predict(images, top=top), strict=True):
        if isinstance(answer, ValueError):
            failed += 1
            print(f"error: {answer}", file=sys.stderr)
            continue
        ranked = list(zip(answer.class_names, answer.class_ids, answer.probabilities, strict=True))
        if as_json:
            best = [{"class": name, "id": wnid, "probability": round(p, 6)} for name, wnid, p in ranked]
            found.append({"image": str(image), "top": best})
        else:
            print(f"{image}\n" + "\n".join(f"  {probability:6.1%}  {name}" for name, _, probability in ranked))
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    if failed:
        raise typer.Exit(1)


@app.command()
def submit(
    run: RunName,
    out: Annotated[Path | None, typer.Option(help="The file to write [default: RUN/submission.txt].")] = None,
    data: Annotated[str | None, typer.Option(help="Another pack with the same classes [default: the run's].")] = None,
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
    pack = _trainable(data or runs.read_record(folder).run.data.name, home)
    path = out or folder / "submission.txt"
    with _counting("scoring test") as progress:
        total = len(pack.rows("test"))
        count = answer_test(
            folder, path, pack=pack, placement=place(device), each_batch=lambda done: progress(done, total)
        )
    print(f"{count} answers in {path}")


@app.command()
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

    result = measure_machine(place(device), seconds=seconds)
    text = json.dumps(result, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if as_json:
        print(text)
    else:
        Console().print(table(result))


@app.command()
def version() -> None:
    """Print the version."""
    from tinysight import __version__

    print(__version__)


# ---------------------------------------------------------------- printing and parsing


def _home(home: Path | None) -> Path:
    from tinysight.data.pack import data_home

    return home or data_home()


def _pack(open_pack: Callable[..., Pack], name: str, home: Path | None) -> Pack:
    return open_pack(name, home=_home(home))


def _trainable(name: str, home: Path | None) -> Pack:
    """Open a pack; the drawn shapes are drawn when they are not there yet."""
    from tinysight.data import shapes
    from tinysight.data.pack import list_packs, open_pack

    where = _home(home)
    if name == "shapes" and name not in list_packs(where):
        with _counting("drawing shapes") as progress:
            return shapes.prepare(home=where, progress=progress, say=_say)
    return open_pack(name, home=where)


def _class_index(pack: Pack, name: str) -> int:
    import difflib

    for names in (pack.class_names, pack.class_ids):
        if name in names:
            return names.index(name)
    close = difflib.get_close_matches(name, pack.class_names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(pack.class_names[:5])}, ..."
    raise ValueError(f"{pack.name} has no class {name!r}{hint}")


def _describe(pack: Pack, *, full: bool = False) -> None:
    counts = ", ".join(f"{split} {stop - start:,}" for split, (start, stop) in pack.splits.items() if stop > start)
    print(f"{pack.name}: {len(pack):,} images of {pack.image_size}x{pack.image_size}, {len(pack.class_names)} classes")
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
        "unknown": "drawn",
    }
    print(f"  source: {source['kind']} {source['path']} ({state[pack.source_state()]})")
    print(f"  boxes: {len(pack.boxes):,}")
    print("  classes: " + ", ".join(pack.class_names))


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


def _write_picture(picture: Any, path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} is no name for a PNG; end it in .png")
    try:
        picture.save(path)
    except FileNotFoundError:
        raise ValueError(f"there is no folder {path.parent}; make it first") from None
    print(path)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal for work of which (done, total) is told."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console()
    columns = (TextColumn(what), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, refresh_per_second=4, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _fail(error: Exception) -> None:
    text = " ".join(str(error).split()) or repr(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    print(f"error: {text}", file=sys.stderr)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stderr.flush()
        os._exit(1)  # at once: waiting for the other processes would hang
    sys.exit(1)
