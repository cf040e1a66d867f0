"""Draws one image of the glyph dataset with the exact visible mask of each glyph.

Everything is pasted inside the glyph's own box, so that the cost is linear in the pixels drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from lttune.data.glyph_catalogue import Sprite
from lttune.data.glyph_config import GlyphConfig

# Line widths and the smallest visible mask are given for this image side and scale with it.
_REFERENCE_PX = 160
_MIN_VISIBLE_PX = 25
_LINE_WIDTHS_PX = (1, 3)
# Cells per side and amplitude in grey levels of each background octave.
_OCTAVES = ((3, 55.0), (9, 25.0), (27, 14.0))
_BACKGROUND_LEVELS = (40.0, 215.0)
# Deviation of the background's noise before it is cut at +-3.2 deviations.
_MAX_DEVIATION = 3.2
_STRETCH = 0.15  # of the natural logarithm of width and height
_MAX_OUTSIDE = 0.05  # share of a glyph's side that may leave the image
_NUM_TRIES = 40
# From this try on the glyph is as small as allowed, so that crowded images lose none.
_SMALLEST_FROM_TRY = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnGlyph:
    """What is visible of one glyph: its category and a mask cropped to the glyph, top left corner at (top, left)."""

    category: int
    top: int
    left: int
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Place:
    category: int
    x: float
    y: float
    width: int
    height: int


def draw_image(
    generator: np.random.Generator, categories: Sequence[int], sprites: Sequence[Sprite], config: GlyphConfig
) -> tuple[Image.Image, list[DrawnGlyph]]:
    """An image of the given categories, later ones in front, and the glyphs of which enough is visible."""
    canvas = _background(generator, config.size_px)
    _draw_lines(generator, canvas, config)
    drawn = [
        _draw_glyph(generator, canvas, place, sprites, config)
        for place in _layout(generator, categories, sprites, config)
    ]
    return _with_noise(generator, canvas, config.noise), _visible(drawn, config.size_px)


def _background(generator: np.random.Generator, size_px: int) -> Image.Image:
    """Soft coloured clouds, their octaves summed on the finest grid, since scaling is linear and the image large."""
    finest = _OCTAVES[-1][0]
    levels = np.broadcast_to(generator.uniform(*_BACKGROUND_LEVELS, 3), (finest, finest, 3)).astype(np.float32)
    for cells, amplitude in _OCTAVES:
        noise = generator.standard_normal((3, cells, cells), np.float32).clip(-_MAX_DEVIATION, _MAX_DEVIATION)
        noise *= amplitude * generator.uniform(0.3, 1)
        scaled = [Image.fromarray(channel).resize((finest, finest), Image.Resampling.BICUBIC) for channel in noise]
        levels += np.stack([np.asarray(channel) for channel in scaled], axis=2)
    small = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return small.resize((size_px, size_px), Image.Resampling.BICUBIC)


def _draw_lines(generator: np.random.Generator, canvas: Image.Image, config: GlyphConfig) -> None:
    pen = ImageDraw.Draw(canvas)
    for _ in range(generator.integers(config.max_lines + 1)):
        ends = generator.uniform(0, config.size_px, 4).tolist()
        width = generator.integers(_LINE_WIDTHS_PX[0], _LINE_WIDTHS_PX[1] + 1) * config.size_px / _REFERENCE_PX
        pen.line(ends, fill=_colour(generator.uniform(0, 255, 3)), width=max(1, round(width)))


def _layout(
    generator: np.random.Generator, categories: Sequence[int], sprites: Sequence[Sprite], config: GlyphConfig
) -> list[_Place]:
    """A place for each category that finds one in a bounded number of tries."""
    places: list[_Place] = []
    for category in categories:
        sprite = sprites[category].outline
        for attempt in range(_NUM_TRIES):
            place = _draw_place(generator, category, sprite, config, is_smallest=attempt >= _SMALLEST_FROM_TRY)
            if not any(_overlap(place, other) > config.max_overlap for other in places):
                places.append(place)
                break
    return places


def _draw_place(
    generator: np.random.Generator, category: int, sprite: Image.Image, config: GlyphConfig, *, is_smallest: bool
) -> _Place:
    spread = 0.0 if is_smallest else generator.random()
    length = config.min_glyph * (config.max_glyph / config.min_glyph) ** spread * config.size_px
    stretch = math.exp(generator.uniform(-_STRETCH, _STRETCH))
    width = max(6, int(sprite.width * length / max(sprite.size) * stretch))
    height = max(6, int(sprite.height * length / max(sprite.size) / stretch))
    x, y = (
        generator.uniform(-_MAX_OUTSIDE * side, config.size_px - (1 - _MAX_OUTSIDE) * side) for side in (width, height)
    )
    return _Place(category=category, x=x, y=y, width=width, height=height)


def _overlap(a: _Place, b: _Place) -> float:
    """Shared share of the smaller box."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min(a.width * a.height, b.width * b.height)


def _draw_glyph(
    generator: np.random.Generator, canvas: Image.Image, place: _Place, sprites: Sequence[Sprite], config: GlyphConfig
) -> DrawnGlyph:
    angle = generator.uniform(-config.max_rotation_deg, config.max_rotation_deg)
    sprite = sprites[place.category]
    bilinear = Image.Resampling.BILINEAR
    outline, fill = (
        layer.resize((place.width, place.height), bilinear).rotate(angle, bilinear, expand=True)
        for layer in (sprite.outline, sprite.fill)
    )
    colour = generator.uniform(0, 255, 3)
    # The outline is a darker shade of a light glyph, a lighter one of a dark glyph.
    if colour.mean() > 100:
        edge = colour * generator.uniform(0.2, 0.5)
    else:
        edge = 255 - (255 - colour) * generator.uniform(0.3, 0.6)
    left = int(place.x + place.width / 2 - outline.width / 2)
    top = int(place.y + place.height / 2 - outline.height / 2)
    for layer, level in ((outline, edge), (fill, colour)):
        canvas.paste(_colour(level), (left, top), layer)

    rows, columns = (slice(max(0, -start), config.size_px - start) for start in (top, left))
    mask = np.asarray(outline)[rows, columns] > 127
    return DrawnGlyph(category=place.category, top=max(0, top), left=max(0, left), mask=mask)


def _with_noise(generator: np.random.Generator, canvas: Image.Image, noise: int) -> Image.Image:
    levels = np.asarray(canvas, np.int16)
    levels = levels + generator.integers(-noise, noise, (*levels.shape[:2], 1), dtype=np.int8, endpoint=True)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def _visible(drawn: Sequence[DrawnGlyph], size_px: int) -> list[DrawnGlyph]:
    """The glyphs without what lies behind later ones; those of which too little is left are dropped."""
    taken = np.zeros((size_px, size_px), np.bool_)
    smallest = _MIN_VISIBLE_PX * min(1.0, (size_px / _REFERENCE_PX) ** 2)
    visible: list[DrawnGlyph] = []
    for glyph in reversed(drawn):
        height, width = glyph.mask.shape
        under = taken[glyph.top : glyph.top + height, glyph.left : glyph.left + width]
        mask = glyph.mask & ~under
        under |= glyph.mask
        if mask.sum() >= smallest:
            visible.append(DrawnGlyph(category=glyph.category, top=glyph.top, left=glyph.left, mask=mask))
    return visible[::-1]


def _colour(levels: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    red, green, blue = (int(level) for level in levels)
    return red, green, blue
