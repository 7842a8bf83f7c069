"""How people lay out classes and splits in a folder: found, or refused with what to do.

`<class>/*`, or a folder per split with the class folders in it. Splits may be called as in
SPLIT_NAMES, in any case. A single folder around everything is entered. Class names are normalized
to NFC, so that macOS and Linux agree.
"""

from __future__ import annotations

import difflib
import shlex
from dataclasses import dataclass
from pathlib import Path

from tinysight.data.annotations import nfc
from tinysight.data.dataset import SPLITS, few
from tinysight.data.tree import Tree, images_below, is_image
from tinysight.text import pluralize

EXPECTED = (
    "expected FOLDER/<class>/<image>, or FOLDER/train/<class>/<image> and "
    "FOLDER/val/<class>/<image>"
)
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MAX_ANNOTATION_DEPTH = 2  # folders below the top in which annotations are looked for

Classes = dict[str, list[str]]  # NFC name -> its images, as spelled in the tree


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The images of a tree by split and class; `train` is always there."""

    splits: dict[str, Classes]
    unlabeled: list[str]  # of test
    depth: int  # number of folders above a name inside a class folder
    notes: tuple[str, ...]


def read_layout(tree: Tree, name: str, *, has_boxes: bool = False) -> Layout:
    """Find classes and splits; a ValueError has what is wrong and, where it is clear, the command.

    `name` is that of the dataset, for commands; where there are boxes, theirs is not proposed.
    """
    try:
        return _read(tree, name)
    except ValueError as error:
        if not has_boxes and (found := find_annotations(tree)):
            form, path = found
            what = f"{str(tree.path)!r} looks like {form}, with boxes in {path or '.'!r}"
            raise ValueError(f"{what}; {_command(tree, '', name, boxes=path)}") from error
        raise


def _read(tree: Tree, name: str) -> Layout:
    top, notes = _enter(tree, "")
    folders = _split_folders(tree, top)
    train = _classes(tree, folders.get("train", top))
    where = repr(str(tree.path / top))
    if not train:
        raise ValueError(f"{where} has no class folder; {EXPECTED}")
    if len(train) < 2:
        only = f"{where} has only one class, {next(iter(train))!r}"
        raise ValueError(f"{only}; a classifier needs at least two")
    splits = {"train": train}
    for split in ("val", "test"):
        if split in folders:
            splits[split] = _classes(tree, folders[split], split=split)
            _check_known(split, splits[split], train)
    depth = len(Path(folders.get("train", top)).parts) + 1
    unlabeled = images_below(tree, folders["test"], recurse=False) if "test" in folders else []
    renamed = [
        f"{Path(path).name!r} is read as {split}"
        for split, path in folders.items()
        if Path(path).name != split
    ]
    notes += renamed + _level_notes(tree, top, folders, train, name, depth)
    return Layout(splits=splits, unlabeled=unlabeled, depth=depth, notes=tuple(notes))


def _enter(tree: Tree, top: str) -> tuple[str, list[str]]:
    """Return the folder that has the classes or splits: below single folders around everything."""
    entries = tree.entries(top)
    folders = [entry.name for entry in entries if entry.is_folder]
    if any(entry.name == "wnids.txt" for entry in entries):
        command = f"tinysight data get tiny-imagenet --source {shlex.quote(str(tree.path / top))}"
        raise ValueError(f"{str(tree.path / top)!r} looks like Tiny ImageNet; use: {command}")
    if len(folders) != 1 or folders[0].lower() in SPLIT_NAMES or _loose_images(tree, top):
        return top, []
    inner = f"{top}/{folders[0]}".lstrip("/")
    found, notes = _enter(tree, inner)
    below = _folders(tree, found)
    if found == inner and len(below) < 2 and not any(n.lower() in SPLIT_NAMES for n in below):
        return top, []
    return found, [f"the classes are those in its only folder, {folders[0]!r}", *notes]


def _split_folders(tree: Tree, top: str) -> dict[str, str]:
    """Return the folder of each split; none if `top` holds the class folders."""
    where, folders = repr(str(tree.path / top)), _folders(tree, top)
    found: dict[str, str] = {}
    for name in folders:
        if split := SPLIT_NAMES.get(name.lower()):
            if split in found:
                both = f"{found[split]!r} and {name!r}"
                raise ValueError(f"{where} has {both}, which both mean {split}; keep one")
            found[split] = name
    known = (split for split in SPLITS if split in found)
    paths = {split: f"{top}/{found[split]}".lstrip("/") for split in known}
    if "train" in paths and _folders(tree, paths["train"]):
        if unknown := [repr(name) for name in folders if name not in found.values()]:
            raise ValueError(f"next to train/ there is {few(unknown)} in {where}; {EXPECTED}")
        return paths
    if folders and len(found) == len(folders):
        names = few(map(repr, folders))
        raise ValueError(f"{where} has {names} but no class folder in train/; {EXPECTED}")
    return {}


def _classes(tree: Tree, inside: str, *, split: str = "train") -> Classes:
    """List the images of every class folder; only test may have loose images."""
    folders, where = _folders(tree, inside), repr(str(tree.path / inside))
    if split != "test" and (loose := _loose_images(tree, inside)):
        alone = not inside and not folders
        hint = f"; is it one class of several? Then give its parent, {tree.path.parent}" * alone
        raise ValueError(
            f"{where} has images outside of class folders ({few(loose)}); {EXPECTED}{hint}"
        )
    spelled: dict[str, str] = {}  # lower-case NFC -> as in the tree
    classes: Classes = {}
    for name in folders:
        class_name = nfc(name)
        if (other := spelled.setdefault(class_name.lower(), name)) != name:
            raise ValueError(
                f"the class folders {other!r} and {name!r} in {where} differ only by case "
                "or in how accents are encoded, and are one on other systems; rename one"
            )
        classes[class_name] = images_below(tree, f"{inside}/{name}".lstrip("/"))
    empty = [repr(name) for name, images in classes.items() if not images]
    if empty and split == "train":
        raise ValueError(f"no image in the class folder {few(empty)} of {where}; fill or remove")
    return classes


def _level_notes(
    tree: Tree, top: str, folders: dict[str, str], train: Classes, name: str, depth: int
) -> list[str]:
    """Note what indicates that the folder above or below was meant; refuse where it is mixed."""
    notes = []
    nested = {
        class_name: sorted({image.split("/")[depth] for image in images})
        for class_name, images in train.items()
        if all(image.count("/") > depth for image in images)
    }
    described = [
        f"{class_name!r} ({few(map(repr, inner))})" for class_name, inner in nested.items()
    ]
    what = f"only folders in the class {few(described, '; ')}"
    if nested and len(nested) < len(train):
        first = next(iter(nested))
        inside = f"{folders.get('train', top)}/{first}".lstrip("/")
        others = few(repr(own) for own in train if own not in nested)
        raise ValueError(
            f"{str(tree.path)!r} has {what}, and images in {others}; if {first!r} holds the "
            f"classes, {_command(tree, inside, name)}; if not, move its images into {first!r}"
        )
    inner_names = {tuple(inner) for inner in nested.values()}
    if len(nested) > 1 and len(inner_names) == 1 and len(*inner_names) > 1:
        raise ValueError(
            f"{str(tree.path)!r} has the same folders in each of {few(map(repr, nested))}: "
            f"{few(map(repr, *inner_names))}; if those are the classes, name the folders train and "
            "val (and test)"
        )
    if nested:
        notes.append(f"{what}: these count as part of the class")
    if not folders and SPLIT_NAMES.get(tree.path.name.lower()) == "train":
        names = [e.name for e in tree.path.parent.iterdir() if e.name.lower() in SPLIT_NAMES]
        if others := few(repr(own) for own in sorted(names) if own != tree.path.name):
            notes.append(f"{others} next to it is not used; import {tree.path.parent} for that")
    return notes


def _check_known(split: str, classes: Classes, train: Classes) -> None:
    for name in classes:
        if name not in train:
            near = difflib.get_close_matches(name, train, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            where = "; put test images without a label into test/ itself" if split == "test" else ""
            what = f"{split}/{name} is not a class of train/{hint}"
            raise ValueError(f"{what}; classes need images in train/{where}")


def given_splits(images: list[str]) -> dict[str, str]:
    """Return the split of each image by the folders above it; none if there are no such folders."""
    splits = {}
    for image in images:
        folders = (folder.lower() for folder in image.split("/")[:-1])
        split = next((SPLIT_NAMES[name] for name in folders if name in SPLIT_NAMES), None)
        if split is not None:
            splits[image] = split
    if splits and (outside := [repr(image) for image in images if image not in splits]):
        raise ValueError(
            f"{pluralize(len(outside), 'image')} in none of the folders train, val and test: "
            f"{few(outside)}"
        )
    if splits and "train" not in splits.values():
        raise ValueError("there are images for val or test, and none in a folder train")
    return splits


def find_annotations(tree: Tree) -> tuple[str, str] | None:
    """Find the first annotations of boxes in a tree: the format, and what `--boxes` takes."""
    pending = [""]
    while pending:
        here = pending.pop(0)
        for entry in tree.entries(here):
            path, suffix = f"{here}/{entry.name}".lstrip("/"), Path(entry.name).suffix.lower()
            of_split = path.partition("/")[0].lower() in SPLIT_NAMES  # then others have theirs
            if entry.is_folder:
                pending += [path] if path.count("/") < MAX_ANNOTATION_DEPTH else []
            elif suffix == ".xml":
                return "Pascal VOC or CVAT", "" if of_split else here
            elif suffix == ".json" and ("annot" in path.lower() or "coco" in path.lower()):
                return "COCO", "" if of_split else path
            elif entry.name in ("data.yaml", "data.yml") or (
                suffix == ".txt" and Path(here).parts[-2:].count("labels")
            ):
                return "YOLO", ""
    return None


def _command(tree: Tree, folder: str, name: str, *, boxes: str | None = None) -> str:
    zipped = tree.path.is_file()
    top = tree.path.with_suffix("") if zipped else tree.path
    words = ["tinysight", "data", "import", str(top / folder), "--name", name]
    words += [] if boxes is None else ["--boxes", str(top / boxes)]
    return f"{'unpack it, then ' * zipped}use: {shlex.join(words)}"


def _loose_images(tree: Tree, folder: str) -> list[str]:
    """Name the images that are in a folder itself, quoted."""
    files = [entry.name for entry in tree.entries(folder) if not entry.is_folder]
    return [repr(name) for name in files if is_image(tree, f"{folder}/{name}".lstrip("/"))]


def _folders(tree: Tree, folder: str) -> list[str]:
    return [entry.name for entry in tree.entries(folder) if entry.is_folder]
