"""One picture, one box, all formats, one result; and what the formats are known to get wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinysight.data.annotation_formats import read_annotations, yolo_names
from tinysight.data.annotations import BoxRules, ImageBoxes, match_boxes
from tinysight.data.boxed_folder import BoxedFolderSource
from tinysight.data.dataset import DatasetIndex
from tinysight.data.tree import open_tree

BOX = (10.0, 20.0, 50.0, 60.0)  # of the picture below, 100 x 80
OUTLINE = [[10, 20], [50, 30], [30, 60]]
COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "pic.png", "width": 100, "height": 80}],
    "annotations": [{"id": 7, "image_id": 1, "category_id": 3, "bbox": [10, 20, 40, 40]}],
    "categories": [{"id": 3, "name": "cat"}],
}
VOC = (
    "<annotation><filename>{name}</filename><size><width>100</width><height>80</height></size>"
    "<object><name>cat</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    "</bndbox></object></annotation>"
)
CVAT = '<annotations><image name="pic.png" width="100" height="80">{}</image></annotations>'
VIA = '{"pic.png123": {"filename": "pic.png", "regions": [{"shape_attributes": %s, %s}]}}'
LABELME = (
    '{"imagePath": "..\\\\images\\\\pic.png", "imageHeight": 80, "imageWidth": 100, '
    '"shapes": [{"label": "cat", "points": %s, "shape_type": "%s"}]}'
)
VIA_CLASS = '"region_attributes": {"class": "cat"}'
YOLO_LINE = "0 0.3 0.5 0.4 0.5\n"


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def picture(root: Path, name: str = "pic.png", size: tuple[int, int] = (100, 80)) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 90, 90)).save(path)
    return root


def found(boxes: Path, images: Path, *names: str, **rules: Any) -> dict[str, ImageBoxes]:
    listed = names or ("pic.png",)
    return match_boxes(read_annotations(boxes), open_tree(images), listed, BoxRules(**rules))[0]


def notes(boxes: Path, images: Path, *names: str, **rules: Any) -> str:
    listed = names or ("pic.png",)
    return "; ".join(
        match_boxes(read_annotations(boxes), open_tree(images), listed, BoxRules(**rules))[1]
    )


def csv(text: str) -> Callable[[Path], Path]:
    return lambda root: put(root / "boxes.csv", text)


def voc_folder(root: Path) -> Path:
    put(root / "ImageSets/Main/train.txt", "pic\n")
    put(root / "Annotations/pic.xml", VOC.format(11, 21, 50, 60, name=""))
    return root


def yolo(names: str, label: str = YOLO_LINE) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        put(root / "labels/pic.txt", label)
        return put(root / "data.yaml", f"path: .\ntrain: images\n{names}\nnc: 1\n")

    return write


FORMS: dict[str, Callable[[Path], Path]] = {
    "coco": lambda root: put(root / "a.json", json.dumps(COCO)),
    "voc": lambda root: put(root / "pic.xml", VOC.format(11, 21, 50, 60, name="pic.png")),
    "voc folder": voc_folder,
    "yolo": yolo("names: ['cat']"),
    "yolo polygon": yolo("names:\n- cat", "0 0.1 0.25 0.5 0.4 0.3 0.75\n"),
    "yolo pose": yolo("kpt_shape: [1, 2]\nnames:\n  0: cat", "0 0.3 0.5 0.4 0.5 0.2 0.3"),
    "labelme": lambda root: put(root / "pic.json", LABELME % ([[50, 20], [10, 60]], "rectangle")),
    "labelme polygon": lambda root: put(root / "pic.json", LABELME % (OUTLINE, "polygon")),
    "labelme circle": lambda root: put(root / "x.json", LABELME % ([[30, 40], [50, 40]], "circle")),
    "cvat": lambda root: put(
        root / "a.xml", CVAT.format('<box label="cat" xtl="10" ytl="20" xbr="50" ybr="60"/>')
    ),
    "cvat polygon": lambda root: put(
        root / "a.xml", CVAT.format('<polygon label="cat" points="10,20;50,30;30,60"/>')
    ),
    "cvat rotated": lambda root: put(
        root / "a.xml",
        CVAT.format('<box label="cat" xtl="10" ytl="20" xbr="50" ybr="60" rotation="270"/>'),
    ),
    "cvat ellipse": lambda root: put(
        root / "a.xml",
        CVAT.format('<ellipse label="cat" cx="30" cy="40" rx="20" ry="20" rotation="30"/>'),
    ),
    "cvat mask": lambda root: put(
        root / "a.xml", CVAT.format('<mask label="cat" left="10" top="20" width="40" height="40"/>')
    ),
    "via": lambda root: put(
        root / "a.json", VIA % ('{"x": 10, "y": 20, "width": 40, "height": 40}', VIA_CLASS)
    ),
    "via circle": lambda root: put(
        root / "a.json",
        VIA % ('{"cx": 30, "cy": 40, "r": 20}', '"region_attributes": {"type": {"cat": true}}'),
    ),
    "via polygon": lambda root: put(
        root / "a.json",
        VIA % ('{"all_points_x": [10, 50, 30], "all_points_y": [20, 30, 60]}', VIA_CLASS),
    ),
    "csv": csv("file,x0,y0,x1,y1,class\npic.png,10,20,50,60,cat\n"),
    "csv of tensorflow": csv(
        "filename,width,height,class,xmin,ymin,xmax,ymax\npic.png,100.0,80.0,cat,10,20,50,60\n"
    ),
    "csv without header": csv("/home/someone/images/pic.png,10,20,50,60,cat\n"),
    "csv of openimages": csv(
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\npic,x,cat,1,0.1,0.5,0.25,0.75\n"
    ),
    "csv of makesense": csv(
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
        "cat,10,20,40,40,pic.png,100,80\n"
    ),
    "csv label": csv("image,x1,y1,x2,y2,label\npic.png,10,20,50,60,cat\n"),
    "csv class_name": csv("image,x1,y1,x2,y2,class_name\npic.png,10,20,50,60,cat\n"),
    "csv cell_type": csv("filename,cell_type,xmin,xmax,ymin,ymax\npic.png,cat,10,50,20,60\n"),
    "csv semicolons": csv("file;x0;y0;x1;y1;class\npic.png;10,0;20,0;50,0;60,0;cat\n"),
    "csv tabs": csv("file\tx0\ty0\tx1\ty1\tclass\npic.png\t10\t20\t50\t60\tcat\n"),
    "csv sep": csv("sep=|\nfile|x0|y0|x1|y1|class\npic.png|10|20|50|60|cat\n"),
    "csv capitals": csv("\ufeffFile,XMin,YMin,XMax,YMax,Class\npic.png,10,20,50,60,cat\n"),
    "csv of pandas": csv(",file,x0,y0,x1,y1,class\n0,pic.png,10.0,20.0,50.0,60.0,cat\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_picture_one_box_all_formats_one_result(form: str, tmp_path: Path) -> None:
    boxes = FORMS[form](tmp_path / "boxes")
    image = found(boxes, picture(tmp_path / "images"))["pic.png"]
    assert image.boxes == pytest.approx(np.array([BOX])) and image.class_names == ("cat",)


# sqrt(25^2 3/4 + 15^2 1/4), and with 1/4 and 3/4: half the sides of the box around
TURNED = (50 - 525**0.5, 40 - 325**0.5, 50 + 525**0.5, 40 + 325**0.5)


def test_a_turned_ellipse_fits_into_its_box(tmp_path: Path) -> None:
    images = picture(tmp_path / "images")
    turned = '<ellipse label="cat" cx="50" cy="40" rx="25" ry="15" rotation="30.0"/>'
    cvat = put(tmp_path / "a.xml", CVAT.format(turned))
    shape = '{"cx": 50, "cy": 40, "rx": 25, "ry": 15, "theta": %s}'
    via = put(tmp_path / "a.json", VIA % (shape % -0.5235987755982988, VIA_CLASS))  # radians
    for boxes in (cvat, via):
        assert found(boxes, images)["pic.png"].boxes == pytest.approx(np.array([TURNED]))
    put(via, VIA % (shape % 0, VIA_CLASS))
    assert found(via, images)["pic.png"].boxes.tolist() == [[25, 25, 75, 55]]


@pytest.mark.parametrize(
    ("corners", "origin", "expected", "note"),
    [
        ((0, 21, 50, 60), "auto", (0, 21, 50, 60), "counted from 0 (some begin before 1)"),
        ((11, 21, 100, 60), "auto", (10, 20, 100, 60), "1 of xmax and ymax are an image's"),
        ((11, 21, 50, 60), "auto", (10, 20, 50, 60), "otherwise --boxes-origin 0"),
        ((11, 21, 50, 60), "0", (11, 21, 50, 60), "counted from 0 (given)"),
        ((0, 21, 50, 60), "1", (-1, 20, 50, 60), "counted from 1 (given)"),
    ],
)
def test_the_origin_of_voc_follows_from_the_data(
    corners: tuple[int, ...], origin: str, expected: tuple[int, ...], note: str, tmp_path: Path
) -> None:
    boxes, images = put(tmp_path / "pic.xml", VOC.format(*corners, name="")), picture(tmp_path)
    assert found(boxes, images, origin=origin)["pic.png"].boxes.tolist() == [list(expected)]
    assert note in notes(boxes, images, origin=origin)


def coco(**changes: Any) -> dict[str, Any]:
    content = json.loads(json.dumps(COCO))
    content["annotations"][0] |= changes
    return dict(content)


CROWD = COCO["annotations"][0] | {"id": 8, "iscrowd": 1, "bbox": [0, 0, 99, 79]}
OTHER = {"id": 2, "file_name": "other.png"}


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (coco(iscrowd=1), "all annotations are marked as crowds, and taken as objects"),
        (
            {**COCO, "annotations": [COCO["annotations"][0] | {"iscrowd": "0"}, CROWD]},
            "1 annotation of crowds",
        ),
        (coco(image_id="1", category_id="3"), ""),
        (coco(bbox=["10", "20", "40", "40"]), ""),
        (coco(bbox=None, segmentation=[[10, 20, 50, 30, 30, 60]]), ""),
        (coco(bbox=[0.1, 0.25, 0.4, 0.5]), "as shares of the image's sides"),
        (
            {**COCO, "annotations": [*COCO["annotations"], COCO["annotations"][0] | {"id": 8}]},
            "1 box stated twice",
        ),
        ({**COCO, "annotations": [*COCO["annotations"], CROWD]}, "1 annotation of cr"),
        (
            {
                **COCO,
                "images": [*COCO["images"], OTHER],
                "annotations": [*COCO["annotations"], CROWD | {"image_id": 2}],
            },
            "1 image without an annotation left out: 'other.png'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_tools_write_into_coco(content: dict[str, Any], note: str, tmp_path: Path) -> None:
    boxes = put(tmp_path / "a.json", json.dumps(content))
    images = picture(picture(tmp_path), "other.png")
    listed = ("pic.png", "other.png")[: len(content["images"])]
    assert list(found(boxes, images, *listed, unlabeled="skip")) == ["pic.png"]
    image = found(boxes, images, *listed, unlabeled="skip")["pic.png"]
    assert image.boxes == pytest.approx(np.array([BOX])) and image.class_names == ("cat",)
    assert note in notes(boxes, images, *listed, unlabeled="skip")


def test_shares_may_extend_a_little_beyond_the_image(tmp_path: Path) -> None:
    boxes = csv("file,x0,y0,x1,y1\npic.png,0.5,0.5,1.0001,1\n")(tmp_path)
    assert found(boxes, picture(tmp_path))["pic.png"].boxes[0].tolist() == pytest.approx(
        [50, 40, 100.01, 80]
    )


BAD = (
    "file,x0,y0,x1,y1\n"
    "pic.png,10,20,50,60\npic.png,10,30,50,30\npic.png,90,70,105,79\nempty.png,,,,\n"
    "gone.png,1,1,5,5\nlost.png,5,5,1,1\n"
)


def test_bad_boxes_are_named_at_once_or_left_out(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("pic.png", "empty.png", "lost.png", "new.png"):
        picture(images, name)
    names = ("pic.png", "empty.png", "lost.png", "new.png")
    boxes = csv(BAD)(tmp_path)
    with pytest.raises(ValueError, match=r"names 1 image not among the 4 in .*gone\.png"):
        found(boxes, images, *names)
    put(boxes, BAD.replace("gone.png,1,1,5,5\n", ""))
    with pytest.raises(ValueError, match=r"does not mention 1 image: 'new\.png'.*--unlabeled skip"):
        found(boxes, images, *names)
    with pytest.raises(ValueError) as caught:
        found(boxes, images, *names, unlabeled="empty")
    for part in ("3 boxes cannot be used", "line 3", "line 4", "line 6", "(--skip-bad-boxes)"):
        assert part in str(caught.value)
    put(boxes, BAD)
    kept = found(boxes, images, *names, unlabeled="empty", skip_bad=True)
    counts = {name: len(image.boxes) for name, image in kept.items()}
    assert counts == {"pic.png": 1, "empty.png": 0, "new.png": 0}  # lost.png shows something
    said = notes(boxes, images, *names, unlabeled="skip", skip_bad=True)
    for part in (
        "3 boxes that cannot be used left out",
        "left out: line 4 of boxes.csv has the box '90,70,105,79', which extends",
        "1 image without a usable box left out: 'lost.png'",
        "1 image without an annotation left out: 'new.png'",
        "'gone.png'; left out",
    ):
        assert part in said


def test_no_box_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no usable box"):
        found(csv("file,x0,y0,x1,y1\npic.png,,,,\n")(tmp_path), picture(tmp_path))
    with pytest.raises(ValueError, match=r"has no usable box .*line 2 of boxes\.csv has the box"):
        bad = csv("file,x0,y0,x1,y1\npic.png,5,5,1,1\n")(tmp_path)
        found(bad, picture(tmp_path), skip_bad=True)


def test_yolo_files_lacking_and_empty(tmp_path: Path) -> None:
    for name in ("images/train/a.png", "images/train/b.png", "images/val/a.png"):
        picture(tmp_path, name)
    put(tmp_path / "labels/train/a.txt", YOLO_LINE)
    put(tmp_path / "labels/val/a.txt", "")
    put(tmp_path / "README.txt", "not labels")
    put(tmp_path / "data.yaml", "names: [cat]")
    with pytest.raises(ValueError, match=r"does not mention 1 image: 'images/train/b\.png'"):
        index(tmp_path, tmp_path)
    for boxes in (tmp_path, tmp_path / "data.yaml", tmp_path / "labels"):
        made = index(tmp_path, boxes, unlabeled="skip")
        assert made.files == ("images/train/a.png", "images/val/a.png")
        assert made.splits == {"train": (0, 1), "val": (1, 2)}
        assert made.labels.tolist() == [0, -1] and made.class_names == ("cat",)
        assert made.box_offsets.tolist() == [0, 1, 1]


def test_the_names_below_a_yolo_folder_count_more_than_those_above(tmp_path: Path) -> None:
    put(tmp_path / "classes.txt", "above")  # of another set
    put(tmp_path / "set/train/labels/pic.txt", YOLO_LINE)
    put(tmp_path / "set/train/labels/classes.txt", "cat\n")
    put(tmp_path / "set/train/data.yaml", "names: [cat]")
    assert read_annotations(tmp_path / "set").class_names == ("cat",)
    put(tmp_path / "set/valid/obj.names", "dog\n")
    with pytest.raises(ValueError) as caught:
        read_annotations(tmp_path / "set")
    assert "train/data.yaml and valid/obj.names in" in str(caught.value)
    put(tmp_path / "set/data.yaml", "names: [bird]")
    assert read_annotations(tmp_path / "set").class_names == ("bird",)


def test_a_blank_line_of_classes_moves_no_number(tmp_path: Path) -> None:
    assert yolo_names("cat\n\n bird \n\n\n", "classes.txt") == ("cat", "", "bird")
    put(tmp_path / "labels/pic.txt", YOLO_LINE.replace("0", "2", 1))
    put(tmp_path / "labels/classes.txt", "cat\n\nbird\n")
    assert read_annotations(tmp_path).class_names == ("bird",)


def test_roboflow_folders_with_yolo_or_coco(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        picture(tmp_path, f"{split}/images/a.png")
        put(tmp_path / split / "labels/a.txt", YOLO_LINE)
    put(tmp_path / "data.yaml", "names:\n  0: 'cat'  # the first\n  1: dog\n")
    made = index(tmp_path, tmp_path)
    assert made.splits == {"train": (0, 1), "val": (1, 2)} and made.labels.tolist() == [0, 0]
    for split in ("train", "valid"):
        content = json.loads(json.dumps(COCO))
        content["images"][0]["file_name"] = "a.png"
        put(tmp_path / "coco" / split / "_annotations.coco.json", json.dumps(content))
        picture(tmp_path / "coco", f"{split}/a.png")
    made = index(tmp_path / "coco", tmp_path / "coco")
    assert made.files == ("train/a.png", "valid/a.png") and len(made.boxes) == 2


def index(images: Path, boxes: Path, **rules: Any) -> DatasetIndex:
    return BoxedFolderSource(images, "set", 64, boxes=boxes, rules=BoxRules(**rules)).index


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: ['a b', \"c\", d]\n", ("a b", "c", "d")),
        ("nc: 2\nnames:\n- a\n- b-1  # comment\nval: x", ("a", "b-1")),
        ("names:\n  - a\n  - 'b'\n", ("a", "b")),
        ("names: {0: a, 1: b}", ("a", "b")),
        ("names:\n  0: a\n\n  1: b c\ntrain: x", ("a", "b c")),
        ("names: [\n  'a',\n  'b',\n]\n", ("a", "b")),
    ],
)
def test_names_in_a_yaml(text: str, names: tuple[str, ...]) -> None:
    assert yolo_names(text, "data.yaml") == names


@pytest.mark.parametrize(
    "text", ["nc: 3", "names: 7", "names: &x [a]", "names: {1: a}", "names:\n  - a: b", "names: []"]
)
def test_other_yaml_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write them into classes\.txt"):
        yolo_names(text, "data.yaml")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"labels/pic.txt": YOLO_LINE}, "no class names for them"),
        ({"labels/pic.txt": "1 .3 .5 .4 .5", "classes.txt": "cat"}, "line 1 of labels/pic.txt has"),
        ({"labels/pic.txt": "0 .3 .5 .4", "classes.txt": "cat"}, "which is not four numbers"),
        ({"labels/pic.txt": "0 3 5 4 5", "classes.txt": "cat"}, "extends beyond the 100 x 80"),
        ({"a.xml": "<annotations><track/></annotations>"}, "CVAT's form for videos"),
        ({"a.xml": CVAT.format(""), "pic.xml": VOC.format(1, 1, 5, 5, name="")}, "holds CVAT and"),
        ({"pic.xml": VOC.format(11, 21, 11, 60, name="")}, "of less than 0.1 pixels per side"),
        ({"a.xml": "<a/>", "b.json": "{}"}, "it holds .json, .xml; give a CSV, COCO"),
        ({"pic.json": VIA % ('{"x": 1}', '"region_attributes": {"a": "b", "c": "d"}')}, "call the"),
    ],
)
def test_faults_are_named(files: dict[str, str], complaint: str, tmp_path: Path) -> None:
    for name, text in files.items():
        put(tmp_path / "boxes" / name, text)
    with pytest.raises(ValueError) as caught:
        found(tmp_path / "boxes", picture(tmp_path / "images"))
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def table(rows: dict[str, str]) -> str:
    """Make a CSV of one box for each letter, a class, of an image's classes."""
    lines = [
        f"{name},{10 * n},0,{10 * n + 9},9,{c}" for name in rows for n, c in enumerate(rows[name])
    ]
    lines += [f"{name},,,,," for name, classes in rows.items() if not classes]
    return "\n".join(["file,x0,y0,x1,y1,class", *lines])


def test_images_have_the_class_of_their_boxes(tmp_path: Path) -> None:
    rows = {"a.png": "xx", "b.png": "xy", "c.png": "y", "d.png": ""}
    images = tmp_path / "set"
    for name in rows:
        picture(images, f"deep/{name}", (64, 64))
    put(images / "notes.md", "not an image")
    made = index(images, csv(table(rows))(tmp_path))
    labels = {Path(file).name: label for file, label in zip(made.files, made.labels, strict=True)}
    assert made.class_names == ("x", "y")
    assert labels == {"a.png": 0, "b.png": -1, "c.png": 1, "d.png": -1}
    row = made.files.index("deep/b.png")
    assert made.box_labels[made.box_offsets[row] : made.box_offsets[row + 1]].tolist() == [0, 1]


def test_a_label_is_of_the_boxes_that_the_square_keeps(tmp_path: Path) -> None:
    inside, outside = "40,30,60,50", "0,10,9,30"  # of columns 10 to 90
    lines = [f"a.png,{inside},x", f"a.png,{outside},y", f"b.png,{outside},y", f"c.png,{inside},y"]
    boxes = csv("\n".join(["file,x0,y0,x1,y1,class", *lines]))(tmp_path)
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "set", name)
    own = {"boxes": boxes, "rules": BoxRules()}
    for fit, expected in (("crop", {"a": 0, "b": -1, "c": 1}), ("pad", {"a": -1, "b": 1, "c": 1})):
        made = BoxedFolderSource(tmp_path / "set", "set", 64, fit=fit, **own).index
        labels = zip(made.files, made.labels.tolist(), strict=True)
        assert {file[0]: label for file, label in labels} == expected
        assert len(made.boxes) == (2 if fit == "crop" else 4)


def test_an_exact_name_counts_more_than_one_without_its_suffix(tmp_path: Path) -> None:
    names = ("pic.jpg", "pic.jpg.png", "a/one.jpg", "b/one.jpg.png")
    for name in names:
        picture(tmp_path / "images", name)
    stated = ("pic.jpg", "pic.jpg.png", "one.jpg", "one.jpg.png")
    lines = [f"{name},{n},0,50,50" for n, name in enumerate(stated)]
    boxes = csv("\n".join(["file,x0,y0,x1,y1", *lines]))(tmp_path)
    matched = found(boxes, tmp_path / "images", *names)
    assert [matched[name].boxes[0, 0] for name in names] == [0, 1, 2, 3]


def test_images_are_divided_by_their_rarest_class(tmp_path: Path) -> None:
    classes = ["x", "xy", "y", "xyz", "xz"]  # z is the rarest, in 12 images of 48; then y
    rows = {f"{n}.png": classes[n % 4 if n % 8 != 7 else 4] for n in range(48)}
    for name in rows:
        picture(tmp_path / "set", name, (64, 64))
    made = index(tmp_path / "set", csv(table(rows))(tmp_path))
    assert made.splits == {"train": (0, 35), "minival": (35, 39), "val": (39, 48)}
    holds_z = [any(made.box_labels[slice(*made.box_offsets[n : n + 2])] == 2) for n in range(48)]
    assert [sum(holds_z[slice(*bounds)]) for bounds in made.splits.values()] == [9, 1, 2]


@pytest.mark.parametrize("above", ["", "set/images/", "a/b/c/"])
def test_the_split_does_not_depend_on_the_folders_around_all_images(
    above: str, tmp_path: Path
) -> None:
    names = [f"{part}/{n}.png" for part in "ab" for n in range(10)]
    boxes = csv(table(dict.fromkeys(names, "xy")))(tmp_path)
    for name in names:
        picture(tmp_path / "plain", name, (64, 64))
        picture(tmp_path / "other", above + name, (64, 64))
    plain = index(tmp_path / "plain", boxes)
    other = index(tmp_path / "other", boxes)
    assert other.splits == plain.splits == {"train": (0, 14), "minival": (14, 16), "val": (16, 20)}
    assert other.files == tuple(above + file for file in plain.files)


def test_images_of_one_class_may_be_in_any_folders_with_their_annotations(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        picture(tmp_path / "set", f"{folder}/{folder}.png")
        voc = VOC.format(11, 21, 50, 60, name=f"{folder}.png")
        put(tmp_path / "set" / folder / f"{folder}.xml", voc)
    made = index(tmp_path / "set", tmp_path / "set")
    assert made.class_names == ("cat",) and len(made.files) == 2
    with pytest.raises(
        ValueError, match=r"it holds none of .*\(there is Pascal VOC .* in '.*first'"
    ):
        index(tmp_path / "set", picture(tmp_path / "no"))
    put(tmp_path / "boxes.csv", "file,x0,y0,x1,y1\nfirst.png,1,1,9,9\nsecond.png,1,1,9,9")
    with pytest.raises(ValueError, match="not images") as caught:  # nothing states a class
        index(tmp_path / "set", tmp_path / "boxes.csv")
    assert "--boxes" not in str(caught.value)


def test_boxes_without_a_class_are_objects(tmp_path: Path) -> None:
    picture(tmp_path / "set", "a.png", (64, 64))
    made = index(tmp_path / "set", csv("file,x0,y0,x1,y1\na.png,1,1,9,9\n")(tmp_path))
    assert made.class_names == ("object",) and made.labels.tolist() == [0]
    assert "no class is stated; the boxes are of the class 'object'" in made.notes
    put(tmp_path / "boxes.csv", "file,x0,y0,x1,y1,class\na.png,1,1,9,9,x\na.png,1,1,5,5,\n")
    with pytest.raises(ValueError, match="a class for some boxes and not for others"):
        index(tmp_path / "set", tmp_path / "boxes.csv")


def test_class_folders_in_a_folder_are_found(tmp_path: Path) -> None:
    for name in ("cats/a.png", "dogs/b.png"):
        picture(tmp_path / "set", f"pets/{name}", (64, 64))
    made = index(tmp_path / "set", csv("file,x0,y0,x1,y1\na.png,1,1,9,9\nb.png,1,1,9,9")(tmp_path))
    assert made.class_names == ("cats", "dogs") and made.box_labels.tolist() == [0, 1]
