"""Load a dataset by name or folder; what follows from the name alone is made when needed."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path
from typing import Any, Literal

from tinysight.data.annotations import BoxRules
from tinysight.data.build import OnUnreadable, build
from tinysight.data.composites import mosaics
from tinysight.data.dataset import (
    Dataset,
    Progress,
    data_home,
    is_path,
    list_datasets,
    open_dataset,
)
from tinysight.data.folder import FolderSource
from tinysight.data.selection import draw, held_out_fold
from tinysight.data.shapes import Shapes
from tinysight.data.subset import one_class
from tinysight.files import expand, folder_names, with_digits
from tinysight.images import Fit

logger = logging.getLogger("tinysight")
GONE = "the files that it was made from are not there any more, or have changed"
CHANGED = (
    "the source of %s has changed since it was prepared: what is learned from is as it was; to use "
    "the new state prepare it again"
)
_MORE = {"boxes", "corrections"}  # settings of sources that need a file in addition
_SHAPES = re.compile(r"shapes(?:-(\d+)-(\d+))?")
_FOLD = re.compile(r"(?P<base>.+)\.fold(?P<fold>\d+)")
_DRAW = re.compile(r"(?P<base>.+)\.draw(?P<per_class>\d+)-(?P<seed>\d+)")
_ONE_CLASS = re.compile(
    r"(?P<base>.+?)\.(?P<class_name>[\w-]+)(?:\.fold(?P<fold>\d+))?(?:\.negatives(?P<number>\d+))?"
)
_MOSAICS = re.compile(r"(?P<base>.+?)(?:\.(?P<class_name>[\w-]+))?\.mosaics")


def load_dataset(
    name_or_folder: str | Path | Dataset,
    *,
    home: str | Path | None = None,
    image_size: int | Literal["auto"] | None = None,
    fit: Fit | None = None,
    on_unreadable: OnUnreadable = "stop",
    progress: Progress | None = None,
) -> Dataset:
    """Load a dataset by its name, or from a folder of class folders.

    A name is that of a prepared dataset, or follows a pattern: `shapes` and `shapes-2-4` (two to
    four objects per scene) are drawn; `<dataset>.<class>` with `.foldK` and `.negativesN` is a view
    of one class, `<dataset>.foldK` has fold K of 5 as val, `<dataset>.drawN-S` a draw with seed S
    of N images per class as train; with `.mosaics` they are mosaics. A folder is imported under its
    own name (with four digits more where another one has that), once, at `image_size` pixels (None:
    as before, else 64; "auto": what fits them), those that are not square by `fit` (None: as
    before, else "crop").

    Args:
        name_or_folder: a name, a folder (of class folders, or of a prepared dataset), or a Dataset,
            which is returned as it is.
        home: folder of prepared datasets; None for `data_home()`.
        on_unreadable: of a folder that is imported; see `build`.
        progress: called with (images done, images in total).
    """
    given = {"image_size": image_size, "fit": fit}
    options = {name: value for name, value in given.items() if value is not None}
    if isinstance(name_or_folder, Dataset):
        _refuse(options, name_or_folder.name)
        return name_or_folder
    home = data_home() if home is None else expand(home)
    how: dict[str, Any] = {"on_unreadable": on_unreadable, "progress": progress}
    if is_path(name_or_folder):
        return _from_folder(expand(name_or_folder), home, options, how)
    name = str(name_or_folder)
    if name in list_datasets(home):
        _refuse(options, name)
        return open_dataset(name, home=home)
    if found := _SHAPES.fullmatch(name):
        fewest, most = (int(number or 1) for number in found.groups())
        return build(Shapes(name=name, objects=(fewest, most)), home=home, progress=progress)
    is_zip = is_zip_file(Path(name))  # whose name may also be read as a view's: <base>.zip
    if not is_zip and (view := _view(name, home, progress)) is not None:
        return view
    if is_zip or Path(name).is_dir():
        return _from_folder(Path(name), home, options, how)
    return open_dataset(name, home=home)  # raises, and names the nearest


def load_at_size(
    name_or_folder: str | Path | Dataset,
    image_size: int,
    *,
    home: Path,
    fit: Fit | None = None,
    hold_out: bool = False,
    on_unreadable: OnUnreadable = "stop",
    progress: Progress | None = None,
) -> Dataset:
    """Load images of at least `image_size` pixels: from their files, where a dataset has smaller.

    A folder that has not been imported becomes `<name>-all-<size>`, in which all images without a
    split of their own are in train; with `hold_out`, and from a dataset of a folder,
    `<name>-<size>` with the splits of an import. Where the files are gone or have changed, or have
    boxes or corrections, the dataset is returned as it is.
    """
    options: dict[str, Any] = {"on_unreadable": on_unreadable, "progress": progress}
    root = None if isinstance(name_or_folder, Dataset) else _folder_of(name_or_folder, home)
    if root is not None:
        name = _own_name(root, home)
        if (
            fit
            or name not in list_datasets(home)
            or not _is_of(open_dataset(name, home=home), root)
        ):
            own: dict[str, Any] = {"image_size": image_size, "fit": fit or "crop"}
            own |= {} if hold_out else {"minival_share": 0.0, "val_share": 0.0}
            parts = [] if hold_out else ["all"]
            parts = [folder_names(root)[0], *parts, *([fit] if fit else []), str(image_size)]
            name = free_name("-".join(parts), root, home)
            return build(FolderSource(root, name, **own), home=home, **options)
    dataset = load_dataset(name_or_folder, home=home, fit=fit, **options)
    known, state = dataset.manifest["source"], dataset.source_state()
    from_files = dataset.view is None and known["kind"] == "folder"
    if dataset.image_size >= image_size or not from_files or _MORE & {*known["settings"]}:
        if state == "changed":
            logger.warning(CHANGED, dataset.name)
        return dataset
    if state != "same":
        logger.warning("%s is used at %d pixels: %s", dataset.name, dataset.image_size, GONE)
        return dataset
    settings = {**known["settings"], "image_size": image_size}
    path = Path(known["path"])
    larger = FolderSource(path, free_name(f"{dataset.name}-{image_size}", path, home), **settings)
    return build(larger, home=home, **options)


def find_prepared(name: str, *, home: Path) -> Dataset:
    """Return a dataset by name or folder, or a view, without preparing anything.

    Raises ValueError where that is not enough. The folder need not be there any more.
    """
    if is_path(name) and not (expand(name) / "manifest.json").is_file():
        return open_dataset(_own_name(expand(name).resolve(), home), home=home)
    known, base, view = list_datasets(home), name.partition(".")[0], None
    if not is_path(name) and name not in known and (base in known or not _SHAPES.fullmatch(base)):
        view = _view(name, home, None)
    return open_dataset(name, home=home) if view is None else view


def free_name(name: str, root: Path, home: Path) -> str:
    """Return the name that a folder's dataset has or gets: with digits where another has `name`.

    A damaged dataset has no name: it is replaced.
    """
    names, other = list_datasets(home), with_digits(name, root)
    if name not in names:
        return other if other in names else name
    try:
        return name if _is_of(open_dataset(name, home=home), root) else other
    except ValueError:
        return name


def _refuse(options: dict[str, Any], name: str) -> None:
    """Raise ValueError for options of a folder where a dataset is prepared already."""
    if options:
        what = f"{next(iter(options))} is of a folder that is imported, and {name} is prepared"
        raise ValueError(f"{what}; leave it out, or give the folder")


def _folder_of(name_or_folder: str | Path, home: Path) -> Path | None:
    """Return the folder or zip of images that is meant, None for a dataset."""
    path = expand(name_or_folder)
    named = not is_path(name_or_folder) and str(name_or_folder) in list_datasets(home)
    if named or not (path.is_dir() or is_zip_file(path)) or (path / "manifest.json").is_file():
        return None
    return path.resolve()


def _own_name(root: Path, home: Path) -> str:
    """Return the name that a folder or zip is imported under."""
    return free_name(folder_names(root)[0], root, home)


def _is_of(dataset: Dataset, root: Path) -> bool:
    return bool(dataset.manifest["source"].get("path") == str(root))


def _view(name: str, home: Path, progress: Progress | None) -> Dataset | None:
    """Make the view of a name like tiny-imagenet.goldfish.fold2; None for other names."""
    if found := _MOSAICS.fullmatch(name):
        # <dataset>.mosaics, where the dataset's own name may have a dot
        base = _base(name, name.removesuffix(".mosaics"), home, progress)
        if base is not None:
            return mosaics(base, name=name)
        base = _base(name, found["base"], home, progress)
        return None if base is None else mosaics(base, found["class_name"], name=name)
    found = _FOLD.fullmatch(name)
    if found and (base := _base(name, found["base"], home, progress)) is not None:
        return held_out_fold(base, int(found["fold"]), name=name)
    found = _DRAW.fullmatch(name)
    if found and (base := _base(name, found["base"], home, progress)) is not None:
        return draw(base, int(found["per_class"]), int(found["seed"]), name=name)
    found = _ONE_CLASS.fullmatch(name)
    base = None if found is None else _base(name, found["base"], home, progress)
    if found is None or base is None:
        return None
    fold, number = int(found["fold"] or 0), found["number"]
    negatives = None if number is None else int(number)
    return one_class(base, found["class_name"], fold=fold, negatives=negatives, name=name)


def _base(view: str, name: str, home: Path, progress: Progress | None) -> Dataset | None:
    """Load the dataset that a view is of; None if there is none of that name."""
    if name in list_datasets(home) or _SHAPES.fullmatch(name):
        return load_dataset(name, home=home, progress=progress)
    if name == "tiny-imagenet":
        raise ValueError(f"{view} needs tiny-imagenet; use: tinysight data get tiny-imagenet")
    return None


def _from_folder(folder: Path, home: Path, options: dict[str, Any], how: dict[str, Any]) -> Dataset:
    """Open a prepared dataset's folder, or import a folder or zip of images under its own name."""
    if not folder.is_dir() and not is_zip_file(folder):
        expected = "expected a name, class folders or a .zip of these"
        raise ValueError(f"{str(folder)!r} is not a folder; {expected}")
    if (folder / "manifest.json").is_file():
        return open_dataset(folder, home=home)
    root = folder.resolve()
    name = _own_name(root, home)
    source = FolderSource(root, name, **options)
    if not options and name in list_datasets(home):
        dataset = open_dataset(name, home=home)
        known = dataset.manifest["source"]
        if _is_of(dataset, root):
            if known["fingerprint"] == source.origin["fingerprint"]:
                return dataset
            if _MORE & {*known["settings"]}:
                raise ValueError(
                    f"{root} has changed since it was imported as {name!r}; import it again: "
                    f"{_import_command(root, name, known['settings'])}"
                )
            source = FolderSource(root, name, **known["settings"])
    return build(source, home=home, **how)


def _import_command(root: Path, name: str, settings: dict[str, Any]) -> str:
    """Return the command that imports a folder as it was, with FILE for what goes with it."""
    size, more = str(settings["image_size"]), next(key for key in settings if key in _MORE)
    words = ["tinysight", "data", "import", str(root), "--name", name, f"--{more}", "FILE"]
    words += ["--size", size, "--fit", settings["fit"]]
    for option, key in (("--unlabeled", "unlabeled"), ("--boxes-origin", "origin")):
        if (value := settings.get(key)) not in (None, getattr(BoxRules, key)):
            words += [option, value]
    words += ["--skip-bad-boxes"] * bool(settings.get("skip_bad"))
    return shlex.join(words)


def is_zip_file(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()
