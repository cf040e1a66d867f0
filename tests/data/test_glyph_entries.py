from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from lttune.data.glyph_catalogue import glyph_catalogue, render
from lttune.data.glyph_config import GlyphConfig, Split
from lttune.data.glyph_entries import ImageMaker
from lttune.masks import decode, to_rle

_NUM_CATEGORIES = 40


def _maker(folder: Path, *, is_frequent: bool = False, **changes: Any) -> ImageMaker:
    (folder / "train").mkdir(exist_ok=True)
    (folder / "val").mkdir(exist_ok=True)
    return ImageMaker(
        config=GlyphConfig(num_categories=_NUM_CATEGORIES, size_px=96, **changes),
        folder=folder,
        sprites=[render(glyph, 96) for glyph in glyph_catalogue(_NUM_CATEGORIES)],
        is_frequent=[is_frequent] * _NUM_CATEGORIES,
    )


def test_boxes_and_areas_are_those_of_the_masks(tmp_path: Path) -> None:
    image, annotations = _maker(tmp_path)("train", 4, [3, 1, 8])
    assert (image["id"], image["file_name"], image["height"], image["width"]) == (5, "00000005.jpg", 96, 96)
    assert (tmp_path / "train" / "00000005.jpg").is_file()
    assert {a["category_id"] for a in annotations} == {2, 4, 9}
    for annotation in annotations:
        rle = to_rle(annotation["segmentation"], 96, 96)
        assert annotation["image_id"] == 5
        assert annotation["area"] == decode(rle).sum()
        assert annotation["bbox"] == coco_mask.toBbox(rle).tolist()


def test_masks_of_one_image_are_disjoint(tmp_path: Path) -> None:
    _, annotations = _maker(tmp_path, max_overlap=0.5)("train", 0, [0, 1, 2, 3, 4, 5])
    masks = np.array([decode(to_rle(a["segmentation"], 96, 96)) for a in annotations])
    assert masks.sum(axis=0).max() == 1


def test_objects_come_twice_at_the_stated_share(tmp_path: Path) -> None:
    _, once = _maker(tmp_path, second_share=0.0)("train", 0, [0, 1])
    _, twice = _maker(tmp_path, second_share=1.0)("train", 0, [0, 1])
    assert sorted(a["category_id"] for a in once) == [1, 2]
    assert sorted(a["category_id"] for a in twice) == [1, 1, 2, 2]


@pytest.mark.parametrize(("split", "num_negatives"), [("train", 5), ("val", 10)])
def test_negatives_are_absent_categories(tmp_path: Path, split: Split, num_negatives: int) -> None:
    image, _ = _maker(tmp_path, num_negatives=5)(split, 0, [0, 1, 2])
    negative = image["neg_category_ids"]
    assert len(set(negative)) == len(negative) == num_negatives
    assert set(negative) <= set(range(4, _NUM_CATEGORIES + 1))


def test_unlabelled_categories_are_neither_annotated_nor_negative(tmp_path: Path) -> None:
    maker = _maker(tmp_path, is_frequent=True, unlabelled_share=1.0, not_exhaustive_share=1.0, num_negatives=1000)
    image, annotations = maker("train", 0, [0, 1, 2])
    assert annotations == []
    assert image["neg_category_ids"] == list(range(4, _NUM_CATEGORIES + 1))
    assert image["not_exhaustive_category_ids"] == []


def test_only_frequent_training_categories_go_unlabelled(tmp_path: Path) -> None:
    cases: list[tuple[Split, bool]] = [("val", True), ("train", False)]
    for split, is_frequent in cases:
        maker = _maker(tmp_path, is_frequent=is_frequent, unlabelled_share=1.0)
        _, annotations = maker(split, 0, [0, 1, 2])
        assert {a["category_id"] for a in annotations} == {1, 2, 3}


def test_not_exhaustive_categories_are_present_ones(tmp_path: Path) -> None:
    image, _ = _maker(tmp_path, not_exhaustive_share=1.0)("train", 0, [5, 1])
    assert image["not_exhaustive_category_ids"] == [2, 6]
