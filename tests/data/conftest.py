"""A small document in LVIS's format, and a small glyph dataset."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lttune.data.glyphs import GlyphConfig, GlyphFiles, make_glyphs
from lttune.types import Annotations


@pytest.fixture
def document() -> dict[str, Any]:
    """Two images, listed in descending order of their ids; three categories; polygons and both forms of RLE."""
    square = [[1, 1, 3, 1, 3, 3, 1, 3]]
    runs = {"size": [4, 6], "counts": [5, 2, 17]}  # rows 1 and 2 of column 1
    return {
        "images": [
            {
                "id": 20,
                "height": 4,
                "width": 6,
                "file_name": "b.png",
                "neg_category_ids": [7],
                "not_exhaustive_category_ids": [5],
            },
            {
                "id": 10,
                "height": 5,
                "width": 8,
                "coco_url": "http://somewhere/val2017/a.png",
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            },
        ],
        "categories": [
            {"id": 9, "name": "nine", "frequency": "f"},
            {"id": 5, "name": "five", "frequency": "r"},
            {"id": 7, "name": "seven"},
        ],
        "annotations": [
            {"id": 1, "image_id": 20, "category_id": 9, "bbox": [1, 1, 1, 2], "area": 2, "segmentation": runs},
            {"id": 2, "image_id": 10, "category_id": 5, "bbox": [1, 1, 2, 2], "area": 4.0, "segmentation": square},
            {"id": 3, "image_id": 20, "category_id": 9, "bbox": [2, 2, 0, 2], "area": 0, "segmentation": square},
            {
                "id": 4,
                "image_id": 10,
                "category_id": 9,
                "bbox": [1.5, 0, 2, 3.25],
                "area": 6.5,
                "segmentation": square,
                "ignore": 1,
            },
        ],
    }


@pytest.fixture(scope="session")  # hypothesis asks for a fixture that outlives one example
def make_annotations() -> Callable[..., Annotations]:
    """Annotations of one 10 x 10 box per (image, category) pair; numbers are also the ids."""

    def make(
        pairs: list[tuple[int, int]],
        *,
        num_images: int,
        num_categories: int,
        negative: list[tuple[int, int]] | None = None,
        areas: list[float] | None = None,
        image_ids: list[int] | None = None,
    ) -> Annotations:
        A = len(pairs)
        table = np.array(pairs, np.int64).reshape(-1, 2)
        return Annotations(
            source="made",
            image_ids=np.array(image_ids if image_ids is not None else range(num_images), np.int64),
            image_heights=np.full(num_images, 20),
            image_widths=np.full(num_images, 20),
            file_names=tuple(f"{i}.jpg" for i in range(num_images)),
            category_ids=np.arange(num_categories),
            category_names=tuple(f"category_{c}" for c in range(num_categories)),
            frequency_group=np.full(num_categories, -1),
            annotation_ids=np.arange(1, A + 1),
            annotation_image=table[:, 0],
            annotation_category=table[:, 1],
            boxes_xywh=np.tile([0.0, 0.0, 10.0, 10.0], (A, 1)),
            areas=np.array(areas, np.float64) if areas is not None else np.full(A, 100.0),
            is_ignored=np.zeros(A, np.bool_),
            segmentations=[None] * A,
            negative=np.array(negative or [], np.int64).reshape(-1, 2),
            not_exhaustive=np.zeros((0, 2), np.int64),
        )

    return make


@pytest.fixture(scope="session")
def small_config() -> GlyphConfig:
    return GlyphConfig(num_categories=12, num_train_images=60, num_val_images=20, size_px=96)


@pytest.fixture(scope="session")
def small_glyphs(small_config: GlyphConfig, tmp_path_factory: pytest.TempPathFactory) -> GlyphFiles:
    return make_glyphs(small_config, tmp_path_factory.mktemp("glyphs") / "small")
