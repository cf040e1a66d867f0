"""What shapes the glyph dataset. Worker processes start from here, so this module and what they need avoid torch."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from lttune.errors import InputError

# The size of LVIS v1; the font holds a few more glyphs.
MAX_CATEGORIES = 1203

# Up to so many categories per image, one glyph in a thousand finds no place; at twice as many, one in twenty.
MAX_CATEGORIES_PER_IMAGE = 8

Split = Literal["train", "val"]
# Parts of a generator's key; a number once given keeps its meaning.
_SPLITS: dict[Split, int] = {"train": 0, "val": 1}
_PURPOSES = {"plan": 0, "image": 1}


@dataclass(frozen=True, kw_only=True)
class GlyphConfig:
    """Everything that shapes the dataset; lengths of glyphs are shares of the image side.

    Attributes:
        num_categories: up to 1203.
        num_train_images: a third of them hold the most frequent category, two the rarest; the share is smaller where
            many categories would crowd the images.
        counts: how often categories occur: `log_spaced` from the most frequent to the rarest, or `lvis_v1`, the shares
            of the categories of LVIS v1, its most frequent first, scaled to so many images as these hold well.
        num_val_images: images of `val`.
        size_px: side of the square images.
        seed: of every draw.
        val: `balanced` gives each category about as many validation images, `longtail` those of the training law.
        min_glyph: shortest longer side of a glyph.
        max_glyph: longest longer side of a glyph.
        max_rotation_deg: either way.
        max_overlap: share of the smaller box that another glyph's box may cover.
        max_lines: most distractor lines.
        noise: largest grey-level noise of a pixel.
        second_share: share of objects that come with another one of their category.
        unlabelled_share: share of a frequent category's training images in which it is left without annotations.
        not_exhaustive_share: share of an image's categories listed as not exhaustively annotated.
        num_negatives: absent categories listed per training image; validation images list a quarter of all categories
            where that is more.
    """

    num_categories: int = 60
    num_train_images: int = 1500
    num_val_images: int = 400
    counts: Literal["log_spaced", "lvis_v1"] = "log_spaced"
    size_px: int = 160
    seed: int = 0
    val: Literal["balanced", "longtail"] = "balanced"
    min_glyph: float = 0.17
    max_glyph: float = 0.5
    max_rotation_deg: float = 25.0
    max_overlap: float = 0.2
    max_lines: int = 3
    noise: int = 8
    second_share: float = 0.15
    unlabelled_share: float = 0.1
    not_exhaustive_share: float = 0.03
    num_negatives: int = 8

    def __post_init__(self) -> None:
        self._require("num_categories", 1 <= self.num_categories <= MAX_CATEGORIES, f"1 to {MAX_CATEGORIES}")
        self._require("num_train_images", self.num_train_images >= 6, "at least 6")
        self._require("num_val_images", self.num_val_images >= 2, "at least 2")
        self._require("size_px", 64 <= self.size_px <= 4096, "64 to 4096")
        self._require("seed", self.seed >= 0, "0 or more")
        self._require("counts", self.counts in ("log_spaced", "lvis_v1"), "log_spaced or lvis_v1")
        self._require("val", self.val in ("balanced", "longtail"), "balanced or longtail")
        self._require("min_glyph", 0.1 <= self.min_glyph <= 1, "0.1 to 1")
        self._require("max_glyph", self.min_glyph <= self.max_glyph <= 1, f"min_glyph ({self.min_glyph}) to 1")
        self._require("max_rotation_deg", 0 <= self.max_rotation_deg <= 180, "0 to 180")
        self._require("max_lines", self.max_lines >= 0, "0 or more")
        self._require("noise", 0 <= self.noise <= 127, "0 to 127")
        self._require("num_negatives", self.num_negatives >= 0, "0 or more")
        for name in ("max_overlap", "second_share", "unlabelled_share", "not_exhaustive_share"):
            self._require(name, 0 <= getattr(self, name) <= 1, "0 to 1")

        # The rarest category is in two images, in one where validation is balanced.
        train_needs = -(-2 * self.num_categories // MAX_CATEGORIES_PER_IMAGE)
        val_needs = -(-(1 if self.val == "balanced" else 2) * self.num_categories // MAX_CATEGORIES_PER_IMAGE)
        for name, needed in (("num_train_images", train_needs), ("num_val_images", val_needs)):
            enough = f"at least {needed} for {self.num_categories} categories"
            self._require(name, getattr(self, name) >= needed, enough)

    def identity(self) -> dict[str, Any]:
        """The values as data and caches are known by; one that was added later counts only where it is used."""
        values = asdict(self)
        if self.counts == "log_spaced":
            del values["counts"]
        return values

    def _require(self, name: str, is_met: bool, allowed: str) -> None:
        if not is_met:
            raise InputError(f"data.glyphs.{name} is {getattr(self, name)}; use {allowed}.")


def keyed_generator(seed: int, split: Split, purpose: Literal["plan", "image"], number: int = 0) -> np.random.Generator:
    """The source of every draw for the plan of a split, or for one of its images."""
    return np.random.default_rng([seed, _SPLITS[split], _PURPOSES[purpose], number])
