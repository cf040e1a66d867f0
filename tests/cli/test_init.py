"""`lttune init` writes a setting that loads, for masks, for boxes, and for COCO's format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lttune.spec.load import load_spec

Run = Callable[..., Any]
_COMMAND = ("train.json", "val.json", "--images-train", "train", "--images-val", "val", "--to", "my.yaml")


def _document(num_images: int, *, categories: int = 3, has_masks: bool = True) -> dict[str, Any]:
    """COCO's format: image i holds category i modulo the number of categories, the last of which occurs nowhere."""
    segmentation = [[1, 1, 9, 1, 9, 9]] if has_masks else []
    return {
        "images": [
            {"id": 7 * i, "file_name": f"{i}.jpg", "height": 480, "width": 640, "license": 1} for i in range(num_images)
        ],
        "categories": [{"id": 10 * c + 1, "name": f"thing {c}"} for c in range(categories)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 7 * i,
                "category_id": 10 * (i % (categories - 1)) + 1,
                "bbox": [1, 1, 8, 8],
                "area": 32,
                "iscrowd": 0,
                "segmentation": segmentation,
            }
            for i in range(num_images)
        ],
    }


@pytest.fixture
def write(lttune: Run) -> Callable[..., None]:
    def write(train: dict[str, Any], val: dict[str, Any]) -> None:
        for name, document in (("train", train), ("val", val)):
            Path(f"{name}.json").write_text(json.dumps(document))
            Path(name).mkdir(exist_ok=True)
            Image.new("RGB", (640, 480)).save(f"{name}/0.jpg")

    return write


def test_a_setting_that_loads(lttune: Run, write: Callable[..., None], tmp_path: Path) -> None:
    write(_document(30), _document(6))
    ran = lttune("init", *_COMMAND)
    assert ran.code == 0
    assert ran.out.startswith("my.yaml\nNext: lttune validate acsl --on my.yaml")
    assert "1 categories are listed, but absent from train.json: never trained: thing 2." in ran.err
    assert "starts from random values" in ran.err
    setting = load_spec("acsl", on="my.yaml").on
    assert setting.description == "3 categories, 30 + 6 images"
    assert setting.detector.name == "mask_rcnn_r50_fpn"
    assert setting.data.train is not None
    assert setting.data.train.annotations == str(tmp_path / "train.json")
    assert setting.input.short_px == (640, 672, 704, 736, 768, 800)
    assert setting.input.max_long_px == 1333
    assert (setting.stage1.schedule.epochs, setting.stage1.schedule.drop_epochs) == (72, (48, 66))
    assert setting.evaluation.max_dets == 100
    text = Path("my.yaml").read_text()
    assert "1 rare, 2 common, 0 frequent categories" in text
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 120
    assert lttune("validate", "acsl", "--on", "my.yaml").code == 0


def test_boxes_alone_get_a_faster_rcnn(lttune: Run, write: Callable[..., None]) -> None:
    write(_document(4, has_masks=False), _document(4, has_masks=False))
    ran = lttune("init", *_COMMAND)
    assert "8 of 8 annotations have no mask, so the detector finds boxes alone." in ran.err
    assert load_spec("acsl", on="my.yaml").on.detector.name == "faster_rcnn_r50_fpn"


def test_groups_and_weights_are_written(lttune: Run, write: Callable[..., None], tmp_path: Path) -> None:
    write(_document(30), _document(6))
    Path("weights.pth").touch()
    ran = lttune("init", *_COMMAND, "--groups", 3, 14, "--weights", "weights.pth")
    assert ran.code == 0
    assert "random values" not in ran.err
    setting = load_spec("acsl", on="my.yaml").on
    assert (setting.data.max_rare, setting.data.max_common) == (3, 14)
    assert setting.detector.weights == str(tmp_path / "weights.pth")
    assert "1 rare, 0 common, 2 frequent categories" in Path("my.yaml").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: Path("my.yaml").touch(), "my.yaml exists already; name another one"),
        (lambda: Path("val/0.jpg").unlink(), "--images-val: there is no image val/0.jpg, the first of val.json"),
        (lambda: Path("train.json").write_text("{"), "train.json: line 1, column 2: not JSON"),
        (
            lambda: Path("val.json").write_text(json.dumps(_document(4, categories=4))),
            "its categories are not those of train.json",
        ),
        (
            lambda: Path("val.json").write_text(json.dumps({**_document(4), "images": [], "annotations": []})),
            "val.json: lists no image",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    lttune: Run, write: Callable[..., None], change: Callable[[], object], message: str
) -> None:
    write(_document(4), _document(4))
    change()
    before = Path("my.yaml").exists()
    ran = lttune("init", *_COMMAND)
    assert ran.code == 2
    assert message in ran.err
    assert Path("my.yaml").exists() == before
