"""Boxes of your own images: both file formats, where the boxes end up, and what is refused."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from tinysight.data.annotation_formats import read_annotations
from tinysight.data.annotations import Annotations, BoxRules
from tinysight.data.boxed_folder import BoxedFolderSource
from tinysight.data.build import OnUnreadable, build
from tinysight.data.dataset import Dataset
from tinysight.data.folder import FolderSource
from tinysight.images import FITS, Fit

RED = (220, 20, 20)
COCO = (
    '{"images": [{"id": 4, "file_name": "a"}], '
    '"annotations": [{"id": 3, "image_id": 4, "bbox": %s}]}'
)


_STORED = {  # EXIF orientation -> how an upright image lies in the file
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def photo(
    root: Path,
    name: str,
    box: tuple[int, int, int, int] | None,
    size: tuple[int, int],
    turn: int = 1,
) -> None:
    """Save a gray picture with a red box in it, stored in an EXIF orientation."""
    image = Image.new("RGB", size, (90, 90, 90))
    if box is not None:
        image.paste(RED, box)
    if (stored := _STORED[turn]) is not None:
        image = image.transpose(stored)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif, **({"quality": 95} if path.suffix == ".jpg" else {}))


PHOTOS: dict[str, tuple[tuple[int, int, int, int] | None, tuple[int, int], int]] = {
    "cats/one.png": ((60, 10, 100, 50), (160, 80), 1),
    "cats/two.png": ((20, 60, 60, 120), (80, 160), 6),
    "cats/three.png": (None, (64, 64), 1),
    "dogs/deep/one.png": ((0, 0, 48, 24), (48, 48), 1),
    "dogs/four.png": ((10, 20, 30, 40), (64, 64), 1),
    "dogs/large.jpg": ((300, 200, 800, 650), (1201, 802), 1),
    **{f"dogs/turned-{turn}.jpg": ((30, 10, 70, 45), (97, 60), turn) for turn in range(2, 9)},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, (box, size, turn) in PHOTOS.items():
        photo(tmp_path / "photos", name, box, size, turn)
    return tmp_path / "photos"


def as_csv(path: Path, header: str = "file,x0,y0,x1,y1") -> Path:
    lines = [",".join(map(str, (name, *(box or ("",) * 4)))) for name, (box, *_) in PHOTOS.items()]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def as_coco(path: Path) -> Path:
    images, annotations = [], []
    for number, (name, (box, (width, height), _)) in enumerate(PHOTOS.items()):
        facts = {"file_name": name, "width": width, "height": height}
        images.append({"id": 10 + number, **facts})
        if box:
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            facts = {"image_id": 10 + number, "category_id": 1, "bbox": bbox}
            annotations.append({"id": number, **facts})
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return path


def imported(
    folder: Path,
    boxes: Path | None,
    home: Path,
    on_unreadable: OnUnreadable = "stop",
    fit: Fit = "pad",
    **rules: Any,
) -> Dataset:
    source = FolderSource(folder, "pets")
    if boxes is not None:
        rule = BoxRules(**rules)
        source = BoxedFolderSource(folder, "pets", fit=fit, boxes=boxes, rules=rule)
    return build(source, home=home, workers=1, on_unreadable=on_unreadable)


def boxes_by_file(dataset: Dataset) -> dict[str, list[list[float]]]:
    padded = dataset.padded_boxes(range(len(dataset)))
    return {
        file: [box.tolist() for box in padded[row] if not np.isnan(box).any()]
        for row, file in enumerate(dataset.files)
    }


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("form", ["file,x0,y0,x1,y1", "filename,xmin,ymin,xmax,ymax", "coco"])
def test_boxes_are_where_the_objects_are(folder: Path, tmp_path: Path, form: str, fit: Fit) -> None:
    if form == "coco":
        file = as_coco(tmp_path / "boxes.json")
    else:
        file = as_csv(tmp_path / "boxes.csv", form)
    dataset = imported(folder, file, tmp_path, fit=fit)
    found = boxes_by_file(dataset)
    for row, name in enumerate(dataset.files):
        assert len(found[name]) == (PHOTOS[name][0] is not None)
        red = abs(dataset.images[row].astype(int) - RED).max(axis=2) < 60
        if not found[name]:
            assert not red.any()
            continue
        rows, columns = np.nonzero(red)
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert found[name][0] == pytest.approx(seen, abs=1.01), name
    labels = [int(dataset.labels[row]) for row, name in enumerate(dataset.files) if found[name]]
    assert dataset.box_labels.tolist() == labels and len(found) == len(PHOTOS)


@pytest.mark.parametrize(
    ("box", "outcome"),
    [
        ("0,0,40,40", "gone"),  # the square of one.png is 40 to 120
        ("0,0,79,80", "cut"),
        ("0,0,81,80", "kept"),
        ("0,0,159,40", "kept"),
    ],
)
def test_objects_at_the_edge_of_the_center_square(
    folder: Path, tmp_path: Path, box: str, outcome: str
) -> None:
    """An image without the object stays as it is; one that shows less than half is left out."""
    file = as_csv(tmp_path / "boxes.csv")
    with file.open("a") as stream:
        stream.write(f"cats/one.png,{box}\n")
    for fit in (FITS[1], FITS[2]):
        complete = imported(folder, file, tmp_path, fit=fit)
        assert complete.fit == fit and len(complete) == len(PHOTOS)
        assert len(complete.boxes) == len(PHOTOS)  # one shows nothing, one has two
    assert (FolderSource.fit, BoxedFolderSource.fit) == ("crop", "pad")
    dataset = imported(folder, file, tmp_path, fit="crop")
    found = boxes_by_file(dataset)
    assert len(dataset) == len(PHOTOS) - (outcome == "cut")
    if outcome == "cut":
        assert "cats/one.png" not in found
        assert dataset.notes[1].startswith("1 image whose center square shows less than half")
        assert dataset.notes[2] == "left out: cats/one.png"
    else:
        assert len(found["cats/one.png"]) == 1 + (outcome == "kept")
        assert not any("left out" in note for note in dataset.notes)


def test_changed_boxes_are_noticed(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tinysight")
    plain = imported(folder, None, tmp_path)
    file = as_csv(tmp_path / "boxes.csv")
    first = imported(folder, file, tmp_path)
    assert (
        plain.digest != first.digest
        and len(caplog.messages) == 1
        and "other settings or labels" in caplog.messages[0]
    )
    again = imported(folder, file, tmp_path)
    assert again.digest == first.digest and len(caplog.messages) == 1
    file.write_text(file.read_text().replace("60,10,100,50", "61,10,100,50"))
    assert imported(folder, file, tmp_path).digest != first.digest


def test_images_without_a_label_need_no_boxes(folder: Path, tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (folder / "train" / name).parent.mkdir(exist_ok=True)
        (folder / name).rename(folder / "train" / name)
    photo(folder, "test/unknown.png", None, (64, 64))
    dataset = imported(
        folder, as_csv(tmp_path / "boxes.csv"), tmp_path
    )  # names are ends of paths: cats/one.png
    assert (
        len(dataset.boxes) == len(PHOTOS) - 1 and boxes_by_file(dataset)["test/unknown.png"] == []
    )


def test_images_for_test_need_no_boxes_in_class_folders_either(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("cats", "dogs"):
        (folder / "train" / name).parent.mkdir(exist_ok=True)
        (folder / name).rename(folder / "train" / name)
    photo(folder, "test/cats/more.png", None, (64, 64))
    dataset = imported(folder, as_csv(tmp_path / "boxes.csv"), tmp_path)
    row = dataset.files.index("test/cats/more.png")
    assert row in dataset.rows("test") and dataset.class_names[dataset.labels[row]] == "cats"
    assert boxes_by_file(dataset)["test/cats/more.png"] == []
    assert len(dataset.boxes) == len(PHOTOS) - 1


def test_an_unreadable_image_is_named_or_left_out_with_its_boxes(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "dogs" / "four.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    file = as_csv(tmp_path / "boxes.csv")
    with pytest.raises(ValueError, match=r"cannot read .*four.png"):
        imported(folder, file, tmp_path)
    dataset = imported(folder, file, tmp_path, on_unreadable="skip")
    assert len(dataset) == len(PHOTOS) - 1 and len(dataset.boxes) == len(PHOTOS) - 2


LAST = len(PHOTOS) + 2  # the line after all others


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("cats/nine.png,1,1,5,5", "names 1 image not among the 13 in "),
        ("one.png,1,1,5,5", "'one.png', which may be 'cats/one.png', 'dogs/deep/one.png'"),
        ("four.png,1,1,5,5", "names one image twice, as 'dogs/four.png' and 'four.png'"),
        ("cats/one.png,5,1,5,9", f"line {LAST} of boxes.csv has the box '5,1,5,9'"),
        ("cats/one.png,1,1,nan,9", f"line {LAST} of boxes.csv has the box '1,1,nan,9'"),
        ("cats/one.png,1,1,inf,9", f"line {LAST} of boxes.csv has the box '1,1,inf,9'"),
        ("cats/one.png,1,1,9", f"line {LAST} of boxes.csv has the box '1,1,9,'"),
        ("cats/one.png,a,b,c,d", f"line {LAST} of boxes.csv has the box 'a,b,c,d'"),
        ("cats/one.png,10,10,10.0000001,20", f"line {LAST} of boxes.csv has the box"),
        (",1,1,5,5", f"line {LAST} of boxes.csv has a box and no name"),
        ("cats/one.png,200,10,220,20", "extends beyond the 160 x 80 pixels of 'cats/one.png'"),
        ("cats/one.png,100,10,162,20", "extends beyond the 160 x 80 pixels of 'cats/one.png'"),
        ("cats/one.png,0,-1e9,100,20", "extends beyond the 160 x 80 pixels of 'cats/one.png'"),
        ('"cats/one.png,1,1,5,5' + "x" * 140_000, "is not a readable CSV"),
    ],
)
def test_faults_of_a_csv_are_named(folder: Path, tmp_path: Path, line: str, complaint: str) -> None:
    file = as_csv(tmp_path / "boxes.csv")
    with file.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(ValueError) as caught:
        imported(folder, file, tmp_path)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_forgotten_image_is_named(folder: Path, tmp_path: Path) -> None:
    file = as_csv(tmp_path / "boxes.csv")
    file.write_text(
        "\n".join(line for line in file.read_text().splitlines() if "three" not in line)
    )
    with pytest.raises(ValueError, match=r"does not mention 1 image: 'cats/three.png'"):
        imported(folder, file, tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[]", "is JSON, and neither COCO"),
        ('[{"id": 1, "annotations": []}]', "Label Studio, CreateML and most other programs export"),
        ("{", "not in the form of COCO"),
        ("[" * 100_000, "not in the form of COCO"),
        ('{"images": [{"id": 1}], "annotations": []}', "of COCO, LabelMe or VIA (KeyError: 'file_"),
        (COCO.replace("}]", '}, {"id": 4, "file_name": "b"}]', 1) % "[0, 0, 1, 1]", "with id '4'"),
        (
            COCO.replace("}]", '}, {"id": 5, "file_name": "a"}]', 1) % "[0, 0, 1, 1]",
            "2 images with",
        ),
        (
            COCO.replace('"id": 4', '"id": 5') % "[0, 0, 1, 1]",
            "annotation 3 of boxes.json is for image 4, which is not among its images",
        ),
        (COCO.replace('"a"', '"a", "width": "w", "height": 3') % "[0, 0, 5, 5]", "states 'w' x 3"),
        (COCO.replace('"a"', '"a", "width": Infinity, "height": 3') % "[0, 0, 5, 5]", "inf x 3"),
        (
            COCO.replace('"image_id"', '"category_id": 0, "image_id"').replace(
                '{"images"', '{"categories": [{"id": 1, "name": "cat"}], "images"'
            )
            % "[0, 0, 5, 5]",
            "annotation 3 of boxes.json has category_id 0, and its categories are 1: cat",
        ),
    ],
)
def test_faults_of_a_coco_file_are_named(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "boxes.json"
    file.write_text(content)
    with pytest.raises(ValueError) as caught:
        read_annotations(file)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_another_size_than_stated_is_refused(folder: Path, tmp_path: Path) -> None:
    coco = as_coco(tmp_path / "boxes.json")
    coco.write_text(
        coco.read_text().replace('"width": 160, "height": 80', '"width": 640, "height": 320')
    )
    table = as_csv(tmp_path / "boxes.csv", "file,x0,y0,x1,y1,width,height")
    table.write_text(table.read_text().replace("60,10,100,50", "60,10,100,50,640,320"))
    for file in (coco, table):
        with pytest.raises(
            ValueError, match=r"states 640 x 320 pixels for 'cats/one.png', the image has 160 x 80"
        ):
            imported(folder, file, tmp_path)


def test_sizes_that_are_not_stated_are_not_compared(folder: Path, tmp_path: Path) -> None:
    file = as_coco(tmp_path / "boxes.json")
    file.write_text(
        file.read_text().replace('"width": 160, "height": 80', '"width": null, "height": 0')
    )
    assert len(imported(folder, file, tmp_path).boxes) == len(PHOTOS) - 1


def test_files_that_are_not_annotations(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("name,left\ncats/one.png,3\n")
    (tmp_path / "latin.csv").write_bytes("file,x0,y0,x1,y1\né.png".encode("latin-1"))
    (tmp_path / "boxes.xml").write_text("<a/>")
    (tmp_path / "entity.xml").write_text(
        '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    )
    (tmp_path / "half.xml").write_text("<annotation><object>")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "nothing").mkdir()
    for name, complaint in (
        ("boxes.csv", "expected file,x0,y0,x1,y1"),
        ("latin.csv", "not UTF-8 text"),
        ("boxes.xml", "is XML of <a>, not of boxes; give a CSV, COCO"),
        ("entity.xml", "declares a document type"),
        ("half.xml", "is not readable XML"),
        ("empty.csv", "is empty"),
        ("nothing", "it holds none of these; give a CSV"),
        ("nothing.csv", "No such file"),
    ):
        with pytest.raises(ValueError, match=complaint):
            imported(folder, tmp_path / name, tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_and_names_of_other_systems(tmp_path: Path, end: str) -> None:
    lines = [
        "\ufefffile, x0, y0, x1, y1, class",
        ".\\cats\\e\u0301.png, 1, 2, 3.5, 4, cat",
        ",,,,,",
    ]
    file = tmp_path / "boxes.csv"
    file.write_bytes(end.join(lines).encode())
    (image,) = read_annotations(file).images
    assert image.names == ("cats/é.png",) and image.boxes[0][:2] == ((1, 2, 3.5, 4), "cat")


def test_accents_may_be_encoded_either_way(folder: Path, tmp_path: Path) -> None:
    photo(folder, unicodedata.normalize("NFD", "dogs/é.png"), (1, 2, 30, 40), (64, 64))
    file = as_csv(tmp_path / "boxes.csv")
    with file.open("a") as stream:
        stream.write(unicodedata.normalize("NFC", "é.png") + ",1,2,30,40\n")
    assert len(imported(folder, file, tmp_path).boxes) == len(PHOTOS)


def labeled(annotated: str, folder: Path, tmp_path: Path) -> list[str]:
    """Import two.png with another box of class `annotated`; give the classes of its two boxes."""
    file = as_csv(tmp_path / "boxes.csv", "file,x0,y0,x1,y1,class")
    text = file.read_text().replace("20,60,60,120", "20,60,60,120,cats")
    file.write_text(f"{text}cats/two.png,10,50,40,80,{annotated}\n")
    dataset = imported(folder, file, tmp_path)
    start, stop = dataset.box_offsets[dataset.files.index("cats/two.png") :][:2]
    return [dataset.class_names[label] for label in dataset.box_labels[start:stop]]


def test_a_box_has_the_class_that_is_stated_for_it(folder: Path, tmp_path: Path) -> None:
    assert labeled("dogs", folder, tmp_path) == ["cats", "dogs"]
    with pytest.raises(
        ValueError, match=r"has boxes of 'birds', and the folder's classes are 'cats', 'dogs'"
    ):
        labeled("birds", folder, tmp_path)


def test_a_single_class_is_ignored_and_crowds_are_left_out(folder: Path, tmp_path: Path) -> None:
    file = as_coco(tmp_path / "boxes.json")
    content = json.loads(file.read_text())
    content["categories"] = [{"id": 1, "name": "animal"}]
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"mention 1 image: 'cats/one.png' \(1 annotation of crowds left out\)"
    ):
        imported(folder, file, tmp_path)  # not an image that shows nothing
    dataset = imported(folder, file, tmp_path, unlabeled="skip")
    assert len(dataset.boxes) == len(PHOTOS) - 2 and "cats/one.png" not in dataset.files
    assert "1 annotation of crowds left out" in dataset.notes
    assert {dataset.class_names[label] for label in dataset.box_labels} == {"cats", "dogs"}
    assert "the only class of the boxes, 'animal', is not used: images have" in str(dataset.notes)


def test_annotations_have_the_name_and_digest_of_their_file(tmp_path: Path) -> None:
    made: list[Annotations] = []
    for text in ("a.png,1,2,3,4", "a.png,1,2,3,5"):
        (tmp_path / "boxes.csv").write_text(f"file,x0,y0,x1,y1\n{text}\n")
        made.append(read_annotations(tmp_path / "boxes.csv"))
    assert made[0].name == "boxes.csv" and made[0].digest != made[1].digest
