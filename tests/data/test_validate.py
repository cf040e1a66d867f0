"""Each kind of broken file is named, and none of them stops the report."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lttune.data.validate import ValidationReport, validate_annotations
from lttune.errors import DataError

Document = dict[str, Any]


@pytest.fixture
def sound(document: Document) -> Document:
    """A document without any defect."""
    document["annotations"] = [
        {"id": 1, "image_id": 20, "category_id": 9, "bbox": [1, 1, 1, 2], "area": 2.0}
        | {"segmentation": {"size": [4, 6], "counts": [5, 2, 17]}},
        {"id": 2, "image_id": 10, "category_id": 5, "bbox": [1, 1, 2, 2], "area": 4.0}
        | {"segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]},
        {"id": 3, "image_id": 10, "category_id": 7, "bbox": [1, 1, 2, 2], "area": 4.0}
        | {"segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]},
    ]
    document["images"][0]["neg_category_ids"] = [7]
    return document


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., ValidationReport]:
    def validate(document: Any, **how: Any) -> ValidationReport:
        path = tmp_path / "train.json"
        path.write_bytes(document) if isinstance(document, bytes) else path.write_text(json.dumps(document))
        return validate_annotations(path, **how)

    return validate


def test_a_sound_file_has_no_findings(sound: Document, report: Callable[..., ValidationReport]) -> None:
    found = report(sound)
    assert found.findings == ()
    assert not found.breaks_training
    assert str(found).endswith("2 images, 3 annotations, 3 categories of sound form\n0 errors, 0 warnings.")


def _set(name: str, i: int, key: str, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document[name][i][key] = value

    return change


def _delete(name: str, i: int, key: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        del document[name][i][key]

    return change


def _replace(name: str, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document[name] = value

    return change


def _append(name: str, entry: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document[name].append(entry)

    return change


def _renumber(name: str, i: int, reference: str, new: int) -> Callable[[Document], None]:
    """Give an entry another id, in all that refers to it as well."""

    def change(document: Document) -> None:
        old = document[name][i]["id"]
        document[name][i]["id"] = new
        for annotation in document["annotations"]:
            if annotation.get(reference) == old:
                annotation[reference] = new
        for image in document["images"]:
            for key in ("neg_category_ids", "not_exhaustive_category_ids") if name == "categories" else ():
                image[key] = [new if c == old else c for c in image[key]]

    return change


# What is done to a sound file, whether training breaks, what the report says, and of which ids.
DEFECTS: dict[str, tuple[Callable[[Document], None], bool, str, tuple[int, ...]]] = {
    "a missing list": (_replace("categories", None), True, "categories is no list of objects", ()),
    "an entry that is no object": (_append("annotations", 17), True, "an entry of annotations is not an object", ()),
    "a missing box": (_delete("annotations", 1, "bbox"), True, "annotations.bbox is missing", (2,)),
    "a missing area": (_delete("annotations", 0, "area"), True, "annotations.area is missing", (1,)),
    "a missing size": (_delete("images", 1, "height"), True, "images.height is missing", (10,)),
    "a missing name": (_delete("categories", 0, "name"), True, "categories.name is missing", (9,)),
    "no file name": (_delete("images", 0, "file_name"), True, "images.file_name is missing, and coco_url too", (20,)),
    "a missing federated field": (
        _delete("images", 0, "neg_category_ids"),
        True,
        "images.neg_category_ids is missing",
        (20,),
    ),
    "a box of three numbers": (
        _set("annotations", 0, "bbox", [1, 2, 3]),
        True,
        "annotations.bbox is not four finite numbers: x, y, width, height",
        (1,),
    ),
    "an area that is not a number": (
        _set("annotations", 0, "area", float("nan")),
        True,
        "annotations.area is not a finite number",
        (1,),
    ),
    "an id as text": (_set("annotations", 0, "id", "1"), True, "annotations.id is not a whole number", ()),
    "a repeated annotation id": (_set("annotations", 1, "id", 1), True, "annotations.id occurs more than once", (1,)),
    "a repeated image id": (_set("images", 1, "id", 20), True, "images.id occurs more than once", (20,)),
    "a repeated category id": (_set("categories", 1, "id", 9), True, "categories.id occurs more than once", (9,)),
    "an unknown category": (
        _set("annotations", 2, "category_id", 6),
        True,
        "annotations.category_id is not the id of any category",
        (3,),
    ),
    "an unknown image": (
        _set("annotations", 2, "image_id", 6),
        True,
        "annotations.image_id is not the id of any image",
        (3,),
    ),
    "an unknown negative category": (
        _set("images", 0, "neg_category_ids", [8]),
        True,
        "images.neg_category_ids holds what is not the id of any category",
        (20,),
    ),
    "an unknown frequency": (
        _set("categories", 0, "frequency", "x"),
        True,
        'categories.frequency is not "r", "c" or "f"',
        (9,),
    ),
    "a box outside": (_set("annotations", 0, "bbox", [6, 1, 2, 2]), True, "box lies outside its image", (1,)),
    "a box over the edge": (
        _set("annotations", 0, "bbox", [4, 1, 4, 2]),
        False,
        "box reaches over the edge of its image",
        (1,),
    ),
    "a box without extent": (_set("annotations", 0, "bbox", [1, 1, 0, 2]), False, "box has no extent", (1,)),
    "an area of 0": (_set("annotations", 0, "area", 0), False, "area is not above 0", (1,)),
    "a polygon of two points": (
        _set("annotations", 1, "segmentation", [[1, 1, 3, 1]]),
        True,
        "mask is malformed",
        (2,),
    ),
    "a polygon without extent": (
        _set("annotations", 1, "segmentation", [[1, 1, 1, 1, 1, 1]]),
        False,
        "mask has no pixels in its image",
        (2,),
    ),
    "a polygon at the end of the world": (
        _set("annotations", 1, "segmentation", [[1, 1, 1e12, 1, 3, 1e12]]),
        True,
        "mask has points farther from its image than the image is large",
        (2,),
    ),
    "run lengths of another image": (
        _set("annotations", 0, "segmentation", {"size": [4, 6], "counts": [5, 2, 18]}),
        True,
        "mask is malformed",
        (1,),
    ),
    "an RLE of another size": (
        _set("annotations", 0, "segmentation", {"size": [6, 4], "counts": [5, 2, 17]}),
        True,
        "mask is malformed",
        (1,),
    ),
    "an RLE without pixels": (
        _set("annotations", 0, "segmentation", {"size": [4, 6], "counts": [24]}),
        False,
        "mask has no pixels in its image",
        (1,),
    ),
    "compressed counts cut short": (
        _set("annotations", 0, "segmentation", {"size": [4, 6], "counts": "52"}),
        True,
        "mask is malformed",
        (1,),
    ),
    "a missing mask": (_delete("annotations", 0, "segmentation"), True, "annotation has no segmentation", (1,)),
    "an image of impossible size": (
        _set("images", 0, "height", 1 << 40),
        True,
        "image said to be longer than 65535 px",
        (20,),
    ),
    "no annotations": (_replace("annotations", []), True, "there are no annotations", ()),
    "an annotation with id 0": (_set("annotations", 0, "id", 0), False, "annotation with the id 0", (0,)),
    "a category with id 0": (_renumber("categories", 1, "category_id", 0), False, "category with the id 0", (0,)),
    "a category without annotations": (
        _append("categories", {"id": 30, "name": "thirty", "frequency": "r"}),
        False,
        "category without annotations",
        (30,),
    ),
    "two categories of one name": (
        _set("categories", 1, "name", "nine"),
        False,
        "category with the name of another category",
        (9,),
    ),
    "two images of one file": (
        _set("images", 1, "file_name", "b.png"),
        False,
        "image with the file name of another image",
        (20,),
    ),
    "a category present and absent": (
        _set("images", 0, "neg_category_ids", [9]),
        False,
        "image with annotations of a category that its neg_category_ids call absent",
        (20,),
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_named_with_its_ids(defect: str, sound: Document, report: Callable[..., ValidationReport]) -> None:
    change, breaks, message, ids = DEFECTS[defect]
    change(sound)
    found = report(sound)
    (finding,) = (finding for finding in found.findings if finding.what.startswith(message))
    assert finding.ids == ids
    assert finding.severity == ("error" if breaks else "warning")
    assert found.breaks_training == breaks
    assert message in str(found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b'{"images": [', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[1, 2]", "the top level is [1, 2]"),
        (b"null", "the top level is None"),
        (b'{"annotations": [NaN}', "not JSON"),
        (b"{}", "images is no list of objects"),
        (b'{"images": 3, "annotations": {}, "categories": "x"}', "categories is no list of objects"),
        (b'{"images": [[]], "annotations": [null], "categories": [1]}', "an entry of images is not an object"),
    ],
)
def test_what_is_no_annotation_file_is_named(
    content: bytes, message: str, report: Callable[..., ValidationReport]
) -> None:
    found = report(content)
    assert found.breaks_training
    assert message in str(found)


def test_many_defects_come_in_one_report_with_counts(sound: Document, report: Callable[..., ValidationReport]) -> None:
    sound["annotations"] += [
        {**sound["annotations"][0], "id": i, "bbox": [9, 9, 1, 1], "area": 1.0} for i in range(100, 130)
    ]
    sound["annotations"].append({"id": 200})
    del sound["images"][1]["width"]
    text = str(report(sound))
    assert "error:   box lies outside its image (30 times): ids 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, ..."
    assert "error:   annotations.bbox is missing: id 200" in text
    assert "error:   images.width is missing: id 10" in text
    # The annotations of that image are no defects of their own.
    assert "is not the id of any image" not in text


def test_a_file_of_boxes_alone_is_sound(sound: Document, report: Callable[..., ValidationReport]) -> None:
    for annotation, segmentation in zip(sound["annotations"], ([], None, []), strict=True):
        annotation["segmentation"] = segmentation
    assert report(sound).findings == ()


def test_images_are_read(sound: Document, report: Callable[..., ValidationReport], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (8, 5)).save(tmp_path / "val2017" / "a.png")
    Image.fromarray(noise).save(tmp_path / "b.png")
    assert report(sound, images=tmp_path).findings == ()
    Image.new("RGB", (5, 8)).save(tmp_path / "val2017" / "a.png")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    (finding,) = report(sound, images=tmp_path).findings
    assert (finding.what, finding.ids, finding.severity) == ("image cannot be used", (10, 20), "error")
    wrong_size, cut = finding.details
    assert wrong_size == "val2017/a.png: is 5 x 8 px (width x height), but the annotations say 8 x 5"
    assert cut.startswith("b.png: cannot be read: ")
    (tmp_path / "b.png").unlink()
    (finding,) = report(sound, images=tmp_path).findings
    assert "b.png: there is no such file" in finding.details


def test_categories_are_compared_with_validation(
    sound: Document, report: Callable[..., ValidationReport], tmp_path: Path
) -> None:
    val = tmp_path / "val.json"
    other = json.loads(json.dumps(sound))
    val.write_text(json.dumps(other))
    assert report(sound, val=val).findings == ()
    other["annotations"] = other["annotations"][:2]
    other["categories"][0]["name"] = "neuf"
    val.write_text(json.dumps(other))
    assert [(f.what.split(",")[0], f.ids, f.severity) for f in report(sound, val=val).findings] == [
        ("category is trained", (7,), "warning"),
        (f"category has another name in {val}", (9,), "warning"),
    ]
    other["categories"].append({"id": 11, "name": "eleven"})
    del other["categories"][1]
    del other["annotations"][1]
    other["images"][0]["not_exhaustive_category_ids"] = []
    val.write_text(json.dumps(other))
    errors = [(f.what, f.ids) for f in report(sound, val=val).findings if f.severity == "error"]
    assert errors == [
        (f"category is not listed in {val}", (5,)),
        (f"category of {val} is not listed here", (11,)),
    ]
    sound["annotations"] = sound["annotations"][:1]
    judged = [f.ids for f in report(sound, val=val).findings if "has no training annotation" in f.what]
    assert judged == []
    val.write_text("{")
    assert "not JSON" in str(report(sound, val=val))


def test_a_category_judged_but_never_trained_is_named(
    sound: Document, report: Callable[..., ValidationReport], tmp_path: Path
) -> None:
    val = tmp_path / "val.json"
    val.write_text(json.dumps(sound))
    sound["annotations"] = sound["annotations"][:2]
    found = {finding.what: finding.ids for finding in report(sound, val=val).findings}
    assert found[f"category is judged by {val}, but has no training annotation"] == (7,)


def test_what_is_not_there_is_refused(sound: Document, report: Callable[..., ValidationReport], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        validate_annotations(tmp_path / "none.json")
    with pytest.raises(DataError, match="there is no such folder of images"):
        report(sound, images=tmp_path / "none")


def test_real_lvis_annotations_are_sound() -> None:
    beside_checkout = Path(__file__).parents[3] / "shared"
    path = Path(os.environ.get("LTTUNE_SHARED", beside_checkout)) / "lvis" / "lvis_v0.5_val_100.json"
    if not path.exists():
        pytest.skip("real LVIS annotations lie in the shared folder, which is absent")
    found = validate_annotations(path)
    assert (found.num_images, found.num_annotations, found.num_categories) == (100, 977, 1230)
    assert not found.breaks_training
    assert [(f.what, f.count) for f in found.findings] == [("category without annotations", 1040)]
