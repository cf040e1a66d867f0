"""The categories of the glyph dataset: characters of DejaVu Sans Bold that a small detector can tell apart.

Characters are scanned in one fixed shuffled order, so that the first K categories are the same for every K and seed.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lttune.errors import InputError

_FONT_FILE = "DejaVuSans-Bold.ttf"
# Glyphs are judged at this size; the outline takes its share at every size.
_JUDGED_PX = 96
_STROKE_SHARE = 6 / 96
# Thin, flat and tiny shapes make masks that no 28 x 28 mask head can draw.
_MIN_COVERAGE = 0.30
_MAX_ASPECT = 2.2
_MIN_SIDE_PX = 50
# Mean difference of two 20 x 20 bitmaps below which shapes look the same.
_MIN_DIFFERENCE = 0.10
_BITMAP_SIDE = 20


@dataclass(frozen=True, kw_only=True)
class Glyph:
    """A character and its Unicode name."""

    character: str
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Sprite:
    """A glyph as two opacities of one size, mode L, cropped to the outline."""

    outline: Image.Image
    fill: Image.Image


def glyph_catalogue(num_categories: int) -> tuple[Glyph, ...]:
    """The first glyphs of the catalogue.

    Raises:
        InputError: the font holds fewer.
    """
    glyphs = _scan(num_categories)
    if len(glyphs) < num_categories:
        raise InputError(
            f"data.glyphs.num_categories is {num_categories}, but {_FONT_FILE} of matplotlib holds {len(glyphs)} "
            f"distinct glyphs; use at most {len(glyphs)}."
        )
    return glyphs


def render(glyph: Glyph, longest_px: int) -> Sprite:
    """The glyph with its longer side scaled to `longest_px`."""
    sprite = _typeset(glyph.character, _font(longest_px), longest_px)
    scale = longest_px / max(sprite.outline.size)
    size = (max(1, round(sprite.outline.width * scale)), max(1, round(sprite.outline.height * scale)))
    bilinear = Image.Resampling.BILINEAR
    return Sprite(outline=sprite.outline.resize(size, bilinear), fill=sprite.fill.resize(size, bilinear))


@cache
def _scan(limit: int) -> tuple[Glyph, ...]:
    chosen: list[Glyph] = []
    bitmaps = np.empty((limit, _BITMAP_SIDE**2), np.float32)
    font = _font(_JUDGED_PX)
    for glyph in _candidates():
        if len(chosen) == limit:
            break
        outline = _typeset(glyph.character, font, _JUDGED_PX).outline
        if not _is_blob(outline):
            continue
        bitmap = np.asarray(outline.resize((_BITMAP_SIDE, _BITMAP_SIDE)), np.float32).ravel() / 255
        if (np.abs(bitmaps[: len(chosen)] - bitmap).mean(axis=1) >= _MIN_DIFFERENCE).all():
            bitmaps[len(chosen)] = bitmap
            chosen.append(glyph)
    return tuple(chosen)


def _candidates() -> Iterator[Glyph]:
    """Named letters, numbers, symbols and punctuation in a fixed shuffled order, each outline of the font once."""
    from fontTools.ttLib import TTFont  # slow to import, and only a new dataset needs it

    with TTFont(font_path()) as font:
        outline_of: dict[int, str] = font.getBestCmap()
    # Modifiers look like other characters, only smaller.
    usable = [
        c
        for c in sorted(outline_of)
        if (kind := unicodedata.category(chr(c)))[0] in "LNSP" and kind not in ("Lm", "Sk")
    ]
    seen: set[str] = set()
    for code in np.random.default_rng(0).permutation(usable).tolist():
        name = unicodedata.name(chr(code), "")
        if name and outline_of[code] not in seen:
            yield Glyph(character=chr(code), name=name)
        seen.add(outline_of[code])


def _is_blob(outline: Image.Image) -> bool:
    long, short = max(outline.size), min(outline.size)
    if short == 0 or long / short > _MAX_ASPECT or long < _MIN_SIDE_PX:
        return False
    return bool(np.asarray(outline, np.float32).mean() / 255 >= _MIN_COVERAGE)


def font_path() -> Path:
    """Path of the font, which comes with matplotlib."""
    import matplotlib  # slow to import, and only a new dataset needs it

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / _FONT_FILE


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    # The basic layout engine, because the other one is an optional part of Pillow and may place glyphs differently.
    return ImageFont.truetype(font_path(), size_px, layout_engine=ImageFont.Layout.BASIC)


def _typeset(character: str, font: ImageFont.FreeTypeFont, size_px: int) -> Sprite:
    stroke = max(1, round(size_px * _STROKE_SHARE))
    left, top, right, bottom = (int(v) for v in font.getbbox(character, stroke_width=stroke))
    size = (max(0, right - left), max(0, bottom - top))
    outline, fill = Image.new("L", size), Image.new("L", size)
    if min(size):
        ImageDraw.Draw(outline).text((-left, -top), character, 255, font=font, stroke_width=stroke, stroke_fill=255)
        ImageDraw.Draw(fill).text((-left, -top), character, 255, font=font)
    return Sprite(outline=outline, fill=fill)
