from typing import Any

import numpy as np
import pytest

from lttune.data.glyph_config import GlyphConfig, keyed_generator
from lttune.errors import InputError


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("num_categories", 0, "1 to 1203"),
        ("num_categories", 1204, "1 to 1203"),
        ("num_train_images", 5, "at least 6"),
        ("num_val_images", 1, "at least 2"),
        ("size_px", 63, "64 to 4096"),
        ("seed", -1, "0 or more"),
        ("val", "even", "balanced or longtail"),
        ("min_glyph", 0.05, "0.1 to 1"),
        ("max_glyph", 0.1, r"min_glyph \(0.17\) to 1"),
        ("max_rotation_deg", 181.0, "0 to 180"),
        ("max_overlap", 1.5, "0 to 1"),
        ("max_lines", -1, "0 or more"),
        ("noise", 128, "0 to 127"),
        ("second_share", float("nan"), "0 to 1"),
        ("unlabelled_share", -0.1, "0 to 1"),
        ("not_exhaustive_share", 2.0, "0 to 1"),
        ("num_negatives", -1, "0 or more"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(InputError, match=rf"data\.glyphs\.{field} is {value}; use {allowed}\."):
        GlyphConfig(**{field: value})


def test_images_must_have_room_for_all_categories() -> None:
    GlyphConfig(num_categories=1203, num_train_images=301, num_val_images=151)
    with pytest.raises(InputError, match="num_train_images is 300; use at least 301 for 1203 categories"):
        GlyphConfig(num_categories=1203, num_train_images=300)
    with pytest.raises(InputError, match="num_val_images is 150; use at least 151 for 1203 categories"):
        GlyphConfig(num_categories=1203, num_val_images=150)
    with pytest.raises(InputError, match="num_val_images is 300; use at least 301 for 1203 categories"):
        GlyphConfig(num_categories=1203, num_val_images=300, val="longtail")


def test_every_key_has_draws_of_its_own() -> None:
    keys: list[tuple[Any, ...]] = [
        (0, "train", "plan", 0),
        (0, "train", "image", 0),
        (0, "train", "image", 1),
        (0, "val", "image", 0),
        (1, "train", "image", 0),
    ]
    draws = [keyed_generator(*key).random() for key in keys]
    assert len(np.unique(draws)) == len(keys)
    assert keyed_generator(0, "train", "image", 1).random() == draws[2]
