"""One image of the glyph dataset as files hold it: a JPEG, an entry of `images` and entries of `annotations`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from lttune.data.glyph_catalogue import Sprite
from lttune.data.glyph_config import GlyphConfig, Split, keyed_generator
from lttune.data.glyph_images import DrawnGlyph, draw_image

_JPEG_QUALITY = 90
# An entry of `images`, and its entries of `annotations` without ids.
Made = tuple[dict[str, Any], list[dict[str, Any]]]

# A validation image lists at least this share of all categories as absent, so that false positives count.
_VAL_NEGATIVE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageMaker:
    """Makes the images of a dataset in any order and any process.

    Attributes:
        config: of the dataset.
        folder: holds a folder per split, where the images go.
        sprites: one per category.
        is_frequent: one per category, whether some of its training images leave it without annotations.
    """

    config: GlyphConfig
    folder: Path
    sprites: Sequence[Sprite]
    is_frequent: Sequence[bool]

    def __call__(self, split: Split, number: int, categories: Sequence[int]) -> Made:
        """Write an image of the categories; its entry and those of its annotations, which have no ids yet."""
        config = self.config
        generator = keyed_generator(config.seed, split, "image", number)
        seconds = [c for c in categories if generator.random() < config.second_share]
        order = generator.permutation([*categories, *seconds]).astype(int).tolist()
        picture, drawn = draw_image(generator, order, self.sprites, config)
        file_name = f"{number + 1:08d}.jpg"
        picture.save(self.folder / split / file_name, quality=_JPEG_QUALITY)

        present = sorted({glyph.category for glyph in drawn})
        # Frequent categories that the image shows but nobody looked for, as in LVIS's federated training set.
        unlabelled_share = config.unlabelled_share if split == "train" else 0.0
        unlabelled = {c for c in present if self.is_frequent[c] and generator.random() < unlabelled_share}
        listed = [c for c in present if c not in unlabelled and generator.random() < config.not_exhaustive_share]
        absent = np.setdiff1d(np.arange(config.num_categories), present)
        num_negatives = config.num_negatives
        if split == "val":
            num_negatives = max(num_negatives, int(config.num_categories * _VAL_NEGATIVE_SHARE))
        negative = generator.choice(absent, min(len(absent), num_negatives), replace=False)
        entry = {
            "id": number + 1,
            "file_name": file_name,
            "coco_url": f"{split}/{file_name}",
            "height": config.size_px,
            "width": config.size_px,
            "neg_category_ids": [c + 1 for c in sorted(negative.tolist())],
            "not_exhaustive_category_ids": [c + 1 for c in listed],
        }
        labelled = [glyph for glyph in drawn if glyph.category not in unlabelled]
        return entry, _annotation_entries(labelled, number + 1, config.size_px)


def _annotation_entries(drawn: Sequence[DrawnGlyph], image_id: int, size_px: int) -> list[dict[str, Any]]:
    planes = np.zeros((size_px, size_px, len(drawn)), np.uint8, order="F")
    for i, glyph in enumerate(drawn):
        height, width = glyph.mask.shape
        planes[glyph.top : glyph.top + height, glyph.left : glyph.left + width, i] = glyph.mask
    return [
        {
            "image_id": image_id,
            "category_id": glyph.category + 1,
            "bbox": _box(glyph),
            "area": float(glyph.mask.sum()),
            "segmentation": {"size": [size_px, size_px], "counts": rle["counts"].decode()},
        }
        for glyph, rle in zip(drawn, coco_mask.encode(planes), strict=True)
    ]


def _box(glyph: DrawnGlyph) -> list[float]:
    """x, y, width, height around the visible pixels."""
    rows, columns = (np.flatnonzero(glyph.mask.any(axis=axis)) for axis in (1, 0))
    corner = (glyph.left + columns[0], glyph.top + rows[0])
    return [float(v) for v in (*corner, columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)]


# A worker process is given its maker once, since the sprites are too large to send with every image.
_maker: ImageMaker | None = None


def set_maker(maker: ImageMaker) -> None:
    """Start a worker process."""
    global _maker
    _maker = maker


def make_one(split: Split, number: int, categories: Sequence[int]) -> Made:
    """An image by this worker's maker."""
    assert _maker is not None
    return _maker(split, number, categories)
