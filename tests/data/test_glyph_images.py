from dataclasses import replace

import numpy as np
import pytest

from lttune.data.glyph_catalogue import Sprite, glyph_catalogue, render
from lttune.data.glyph_config import GlyphConfig
from lttune.data.glyph_images import draw_image


@pytest.fixture(scope="module")
def sprites() -> list[Sprite]:
    return [render(glyph, 96) for glyph in glyph_catalogue(10)]


def _plain(**changes: object) -> GlyphConfig:
    """Without lines and noise, and with nothing rotated."""
    return replace(GlyphConfig(max_lines=0, noise=0, max_rotation_deg=0.0), **changes)  # type: ignore[arg-type]


def test_one_generator_state_gives_one_image(sprites: list[Sprite]) -> None:
    (first, _), (again, _), (other, _) = (
        draw_image(np.random.default_rng(seed), [1, 2, 3], sprites, GlyphConfig()) for seed in (5, 5, 6)
    )
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    assert first.size == (160, 160)
    assert first.mode == "RGB"


@pytest.mark.parametrize("seed", range(5))
def test_masks_cover_what_the_glyphs_changed(sprites: list[Sprite], seed: int) -> None:
    config = _plain()
    empty, _ = draw_image(np.random.default_rng(seed), [], sprites, config)
    full, drawn = draw_image(np.random.default_rng(seed), [4, 7, 1, 0], sprites, config)
    changed = (np.asarray(full) != np.asarray(empty)).any(axis=2)
    covered = np.zeros((160, 160), np.int64)
    for glyph in drawn:
        height, width = glyph.mask.shape
        covered[glyph.top : glyph.top + height, glyph.left : glyph.left + width] += glyph.mask
    assert covered.max() == 1, "a pixel belongs to the glyph in front"
    # The soft edge of a glyph changes pixels that are less than half opaque, and belong to no mask.
    assert (covered.astype(bool) & ~changed).sum() <= 0.01 * covered.sum()
    assert changed.sum() <= 1.4 * covered.sum()


def test_glyphs_have_the_stated_sizes(sprites: list[Sprite]) -> None:
    config = _plain(min_glyph=0.3, max_glyph=0.4)
    for seed in range(10):
        _, drawn = draw_image(np.random.default_rng(seed), [seed % 10], sprites, config)
        (glyph,) = drawn
        # Width and height may be stretched by 15 %; a glyph may lose 5 % of its side over the edge.
        assert 0.3 * 160 * 0.8 <= max(glyph.mask.shape) <= 0.4 * 160 * 1.17


def test_crowded_images_show_every_glyph(sprites: list[Sprite]) -> None:
    for seed in range(30):
        _, drawn = draw_image(np.random.default_rng(seed), [seed % 10, 1, 2, 3, 4, 5], sprites, GlyphConfig())
        assert [glyph.category for glyph in drawn] == [seed % 10, 1, 2, 3, 4, 5]


def test_noise_is_the_same_in_all_channels_and_within_its_range(sprites: list[Sprite]) -> None:
    config = _plain(noise=3)
    calm, _ = draw_image(np.random.default_rng(1), [], sprites, replace(config, noise=0))
    noisy, _ = draw_image(np.random.default_rng(1), [], sprites, config)
    inner = (np.asarray(calm) > 3).all(axis=2) & (np.asarray(calm) < 252).all(axis=2)
    difference = (np.asarray(noisy, np.int64) - np.asarray(calm))[inner]
    assert (difference == difference[:, :1]).all()
    assert set(difference[:, 0].tolist()) == set(range(-3, 4))
