"""What a drafted setting makes of the size of the data."""

from pathlib import Path

import numpy as np
import pytest

from lttune.engine.config import SplitPaths
from lttune.spec.draft import Draft, draft_setting
from lttune.spec.yaml_text import parse_yaml
from lttune.types import Annotations


def _annotations(num_images: int, *, categories: int, height: int, width: int) -> Annotations:
    """Each image holds one box of category 0."""
    return Annotations(
        source="made",
        image_ids=np.arange(num_images),
        image_heights=np.full(num_images, height),
        image_widths=np.full(num_images, width),
        file_names=("0.jpg",) * num_images,
        category_ids=np.arange(categories),
        category_names=tuple(f"c{c}" for c in range(categories)),
        frequency_group=np.full(categories, -1),
        annotation_ids=np.arange(num_images),
        annotation_image=np.arange(num_images),
        annotation_category=np.zeros(num_images, np.int64),
        boxes_xywh=np.ones((num_images, 4)),
        areas=np.ones(num_images),
        is_ignored=np.zeros(num_images, np.bool_),
        segmentations=[[[0, 0, 1, 0, 1, 1]]] * num_images,
        negative=np.zeros((0, 2), np.int64),
        not_exhaustive=np.zeros((0, 2), np.int64),
    )


def _draft(num_images: int, *, categories: int = 5, height: int = 480, width: int = 640, has_gpu: bool = True) -> Draft:
    made = _annotations(num_images, categories=categories, height=height, width=width)
    path = SplitPaths(annotations="a: 'b'.json", images="/images")
    return draft_setting(made, made, (path, path), file=Path("my.yaml"), has_gpu=has_gpu)


@pytest.mark.parametrize(("num_images", "epochs"), [(1, 72), (1000, 36), (1500, 24), (2500, 12), (100_170, 12)])
def test_small_sets_are_visited_more_often(num_images: int, epochs: int) -> None:
    schedule = parse_yaml(_draft(num_images).text, "draft")["stage1"]["schedule"]
    assert schedule["epochs"] == epochs
    assert schedule["drop_epochs"] == [epochs * 2 // 3, epochs * 11 // 12]
    assert 1 <= schedule["warmup_iters"] <= 500


@pytest.mark.parametrize(("categories", "max_dets"), [(5, 100), (80, 100), (802, 200), (1203, 300), (3000, 300)])
def test_detections_per_image_lie_between_those_of_coco_and_lvis(categories: int, max_dets: int) -> None:
    assert parse_yaml(_draft(3, categories=categories).text, "draft")["evaluation"]["max_dets"] == max_dets


@pytest.mark.parametrize(
    ("size", "short_px", "max_long_px"),
    [((480, 640), [640, 672, 704, 736, 768, 800], 1333), ((96, 96), [256, 288, 320], 533), ((3000, 2000), [640], None)],
)
def test_images_are_enlarged_as_published_ones_are(
    size: tuple[int, int], short_px: list[int], max_long_px: int | None
) -> None:
    found = parse_yaml(_draft(3, height=size[0], width=size[1]).text, "draft")["input"]
    assert found["short_px"][: len(short_px)] == short_px
    assert found["max_long_px"] == (max_long_px or 1333)


def test_paths_are_quoted_and_the_gpu_is_asked_for() -> None:
    document = parse_yaml(_draft(3).text, "draft")
    assert document["data"]["train"]["annotations"] == "a: 'b'.json"
    assert document["resources"]["gpus"] == 1
    without = _draft(3, has_gpu=False)
    assert parse_yaml(without.text, "draft")["resources"]["gpus"] == 0
    assert any("no GPU here" in line for line in without.warnings)
