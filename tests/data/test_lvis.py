import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lttune.data.lvis import LvisDataset, annotations_from_document, load_annotations
from lttune.errors import DataError
from lttune.evaluation.ground_truth import EVALUATED, NOT_EXHAUSTIVE, GroundTruth


def _faults(document: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        annotations_from_document(document, "file.json")
    return str(caught.value).splitlines()


def test_columns_are_numbered_by_ascending_ids(document: dict[str, Any]) -> None:
    annotations = annotations_from_document(document, "file.json")
    assert annotations.source == "file.json"
    assert annotations.image_ids.tolist() == [10, 20]
    assert annotations.image_heights.tolist() == [5, 4]
    assert annotations.image_widths.tolist() == [8, 6]
    assert annotations.category_ids.tolist() == [5, 7, 9]
    assert annotations.category_names == ("five", "seven", "nine")
    assert annotations.frequency_group.tolist() == [0, -1, 2]
    assert annotations.annotation_ids.tolist() == [1, 2, 3, 4]
    assert annotations.annotation_image.tolist() == [1, 0, 1, 0]
    assert annotations.annotation_category.tolist() == [2, 0, 2, 2]
    assert annotations.boxes_xywh[3].tolist() == [1.5, 0, 2, 3.25]
    assert annotations.areas.tolist() == [2, 4, 0, 6.5]
    assert annotations.is_ignored.tolist() == [False, False, False, True]
    assert annotations.negative.tolist() == [[1, 1]]
    assert annotations.not_exhaustive.tolist() == [[1, 0]]


def test_an_image_without_a_file_name_takes_the_end_of_its_url(document: dict[str, Any]) -> None:
    assert annotations_from_document(document, "file.json").file_names == ("val2017/a.png", "b.png")
    del document["images"][1]["coco_url"]
    assert _faults(document) == [
        "file.json: images[1].file_name (id 10): missing, and there is no coco_url either; give one of them."
    ]


def test_a_negative_category_listed_twice_counts_once(document: dict[str, Any]) -> None:
    document["images"][0]["neg_category_ids"] = [7, 5, 7]
    assert annotations_from_document(document, "file.json").negative.tolist() == [[1, 0], [1, 1]]


def test_coco_format_passes_on_request(document: dict[str, Any]) -> None:
    for image in document["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    assert len(_faults(document)) == 4
    annotations = annotations_from_document(document, "file.json", require_federated=False)
    assert annotations.negative.shape == annotations.not_exhaustive.shape == (0, 2)


@pytest.fixture
def coco_document(document: dict[str, Any]) -> dict[str, Any]:
    """The same document in COCO's format, with a crowd region."""
    for image in document["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in document["categories"]:
        category.pop("frequency", None)
    document["annotations"][0]["iscrowd"] = 1
    return document


def test_a_file_without_anything_of_lvis_is_coco(coco_document: dict[str, Any]) -> None:
    annotations = annotations_from_document(coco_document, "file.json")
    assert annotations.is_exhaustive
    assert annotations.frequency_group.tolist() == [-1, -1, -1]
    assert annotations.category_ids.tolist() == [5, 7, 9]  # with gaps, as COCO's
    assert annotations.negative.shape == (0, 2)
    assert annotations.subset(np.array([0])).is_exhaustive


def test_a_crowd_is_ignored_in_coco_alone(coco_document: dict[str, Any], images: Path) -> None:
    annotations = annotations_from_document(coco_document, "file.json")
    assert annotations.is_ignored.tolist() == [True, False, False, True]
    assert LvisDataset(annotations, images)[1][1].labels.tolist() == []
    # lvis-api disregards the field.
    coco_document["categories"][0]["frequency"] = "f"
    annotations = annotations_from_document(coco_document, "file.json", require_federated=False)
    assert annotations.is_ignored.tolist() == [False, False, False, True]


def test_in_coco_every_category_is_judged_in_every_image(coco_document: dict[str, Any]) -> None:
    truth = GroundTruth(annotations_from_document(coco_document, "file.json"))
    labels = truth.labels(*(table.ravel() for table in np.indices((2, 3))))
    assert ((labels & EVALUATED) > 0).all()
    assert ((labels & NOT_EXHAUSTIVE) == 0).all()


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_a_missing_list_is_named(document: dict[str, Any], name: str) -> None:
    del document[name]
    assert f"file.json: {name}: missing; it must be a list of objects." in _faults(document)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("images", "id", "x", "images[1].id: is 'x'; it must be a whole number."),
        ("images", "id", 20, "images[1].id: 20 occurs before; ids must differ."),
        ("images", "height", 4.5, "images[1].height (id 10): is 4.5; it must be a whole number of pixels, at least 1."),
        ("images", "width", 0, "images[1].width (id 10): is 0; it must be a whole number of pixels, at least 1."),
        ("images", "file_name", 3, "images[1].file_name (id 10): is 3; it must be text."),
        (
            "images",
            "neg_category_ids",
            [9, "x"],
            "images[1].neg_category_ids (id 10): is [9, 'x']; it must be a list of whole numbers.",
        ),
        ("images", "neg_category_ids", [9, 8], "images[1].neg_category_ids (id 10): 8 is not the id of any category."),
        (
            "images",
            "not_exhaustive_category_ids",
            [4],
            "images[1].not_exhaustive_category_ids (id 10): 4 is not the id of any category.",
        ),
        ("categories", "id", True, "categories[1].id: is True; it must be a whole number."),
        ("categories", "id", 1 << 63, f"categories[1].id: is {1 << 63}; it must be a whole number."),
        ("categories", "id", 9, "categories[1].id: 9 occurs before; ids must differ."),
        ("categories", "name", None, "categories[1].name (id 5): is None; it must be text."),
        ("categories", "frequency", "x", 'categories[1].frequency (id 5): is \'x\'; it must be "r", "c" or "f".'),
        ("annotations", "id", 1, "annotations[1].id: 1 occurs before; ids must differ."),
        ("annotations", "image_id", 3, "annotations[1].image_id (id 2): 3 is not the id of any image."),
        ("annotations", "category_id", 6, "annotations[1].category_id (id 2): 6 is not the id of any category."),
        ("annotations", "category_id", "5", "annotations[1].category_id (id 2): is '5'; it must be a whole number."),
        (
            "annotations",
            "bbox",
            [1, 2, 3],
            "annotations[1].bbox (id 2): is [1, 2, 3]; it must be four finite numbers: x, y, width, height.",
        ),
        (
            "annotations",
            "bbox",
            [1, 2, 3, float("nan")],
            "annotations[1].bbox (id 2): is [1, 2, 3, nan]; it must be four finite numbers: x, y, width, height.",
        ),
        ("annotations", "area", "4", "annotations[1].area (id 2): is '4'; it must be a finite number."),
        ("annotations", "area", 10**400, None),
        ("annotations", "ignore", 2, "annotations[1].ignore (id 2): is 2; it must be 0 or 1."),
    ],
)
def test_a_faulty_value_is_named(
    document: dict[str, Any], name: str, key: str, value: object, message: str | None
) -> None:
    document[name][1][key] = value
    faults = _faults(document)
    if message is None:
        assert faults[0].endswith("it must be a finite number.")
    else:
        assert f"file.json: {message}" in faults


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("images", "height"),
        ("images", "width"),
        ("images", "neg_category_ids"),
        ("images", "not_exhaustive_category_ids"),
        ("categories", "name"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "bbox"),
        ("annotations", "area"),
    ],
)
def test_a_missing_field_is_named_with_its_entry(document: dict[str, Any], name: str, key: str) -> None:
    del document[name][0][key]
    (fault,) = _faults(document)
    assert fault.startswith(f"file.json: {name}[0].{key} (id {document[name][0]['id']}): missing; it must be ")


def test_entries_that_are_not_objects_keep_the_count_of_the_others(document: dict[str, Any]) -> None:
    document["annotations"].insert(0, 17)
    document["annotations"][2]["area"] = None
    assert _faults(document) == [
        "file.json: annotations[0]: is 17; it must be an object.",
        "file.json: annotations[2].area (id 2): is None; it must be a finite number.",
    ]


def test_all_faults_come_at_once_and_at_most_ten_are_shown(document: dict[str, Any]) -> None:
    document["images"][0]["width"] = "x"
    for annotation in document["annotations"]:
        annotation["area"] = annotation["bbox"] = annotation["category_id"] = "x"
    faults = _faults(document)
    assert len(faults) == 11
    assert faults[-1] == "... and 3 more"


def test_the_top_level_must_be_an_object() -> None:
    assert _faults([1, 2]) == [
        "file.json: the top level is [1, 2]; it must be an object with `images`, `annotations` and `categories`."
    ]


def test_a_file_is_read(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(document))
    assert load_annotations(path).source == str(path)
    assert load_annotations(path).image_ids.tolist() == [10, 20]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        load_annotations(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        load_annotations(tmp_path)


def test_broken_json_is_placed(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"images": [],\n "annotations": [')
    with pytest.raises(DataError, match=r"file\.json: line 2, column \d+: not JSON"):
        load_annotations(path)


def test_nan_is_named_with_its_field(document: dict[str, Any], tmp_path: Path) -> None:
    document["annotations"][1]["area"] = float("nan")
    path = tmp_path / "file.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"annotations\[1\]\.area \(id 2\): is nan; it must be a finite number"):
        load_annotations(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "val2017").mkdir()
    Image.new("L", (8, 5), 7).save(tmp_path / "val2017" / "a.png")
    Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)).save(tmp_path / "b.png")
    return tmp_path


def test_samples_are_images_with_their_targets(document: dict[str, Any], images: Path) -> None:
    dataset = LvisDataset(annotations_from_document(document, "file.json"), images)
    assert len(dataset) == 2
    image, target = dataset[1]
    assert torch.equal(image, torch.arange(4 * 6 * 3, dtype=torch.uint8).reshape(4, 6, 3).permute(2, 0, 1))
    # Annotation 3 has no width.
    assert target.boxes.tolist() == [[1, 1, 2, 3]]
    assert target.boxes.dtype == torch.float32
    assert target.labels.tolist() == [2]
    assert target.masks is not None
    assert target.masks.dtype == torch.uint8
    assert target.masks.nonzero().tolist() == [[0, 1, 1], [0, 2, 1]]
    grey, target = dataset[0]
    assert grey.shape == (3, 5, 8)
    assert (grey == 7).all()
    # Annotation 4 is ignored.
    assert target.boxes.tolist() == [[1, 1, 3, 3]]
    assert target.masks is not None
    assert target.masks[0].sum() == 4


def test_samples_go_without_masks(document: dict[str, Any], images: Path) -> None:
    del document["annotations"][0]["segmentation"]
    annotations = annotations_from_document(document, "file.json")
    assert LvisDataset(annotations, images, with_masks=False)[1][1].masks is None
    with pytest.raises(DataError, match=r"file\.json: annotation 1: segmentation is None"):
        LvisDataset(annotations, images)[1]


def test_an_image_without_annotations_has_an_empty_target(document: dict[str, Any], images: Path) -> None:
    document["annotations"] = []
    _, target = LvisDataset(annotations_from_document(document, "file.json"), images)[1]
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == (0,)
    assert target.masks is not None
    assert target.masks.shape == (0, 4, 6)


def test_a_bad_image_is_named(document: dict[str, Any], images: Path) -> None:
    dataset = LvisDataset(annotations_from_document(document, "file.json"), images)
    Image.new("RGB", (3, 3)).save(images / "b.png")
    with pytest.raises(DataError, match=r"b\.png: is 3 x 3 pixels .* but file\.json says 4 x 6"):
        dataset[1]
    (images / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png: cannot be read as an image"):
        dataset[1]
    (images / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: no such image, named by file\.json"):
        dataset[1]


def test_real_lvis_annotations_load() -> None:
    beside_checkout = Path(__file__).parents[3] / "shared"
    path = Path(os.environ.get("LTTUNE_SHARED", beside_checkout)) / "lvis" / "lvis_v0.5_val_100.json"
    if not path.exists():
        pytest.skip("real LVIS annotations lie in the shared folder, which is absent")
    annotations = load_annotations(path)
    assert (annotations.num_images, annotations.num_categories, len(annotations.areas)) == (100, 1230, 977)
