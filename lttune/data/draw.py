"""Pictures of annotated images, one or a grid.

python -m lttune.data.draw glyphs/val.json glyphs/val --to glyphs.png --count 6
"""

import argparse
import colorsys
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from lttune.data.glyph_catalogue import font_path
from lttune.data.lvis import load_annotations
from lttune.errors import InputError, LttuneError
from lttune.masks import decode, to_rle
from lttune.types import Annotations

Colour = tuple[int, int, int]
Corners = tuple[float, float, float, float]  # xyxy

_TINT = 0.35  # opacity of a mask
_OUTLINE_PX = 5  # size of the filter that finds a mask's outline, odd
_LABEL_PX = 12
_PADDING_PX = 3
_MAX_LABEL = 18  # characters
_GAP_PX = 8  # between the images of a grid
_NUM_COLOURS = 256  # of the palette of a grid; noise makes true colour three times as large
_GOLDEN_RATIO = 0.618034


def draw_annotated(
    picture: Image.Image,
    annotations: Annotations,
    image: int,
    *,
    names: Sequence[str] | None = None,
    scale: int = 1,
) -> Image.Image:
    """An image with its masks tinted, boxes and category names; an annotation without a mask shows its box only.

    Args:
        picture: the image, in the size that the annotations state.
        annotations: of the file that holds it.
        image: its number there.
        names: (C,) what to write; the ends of the category names by default.
        scale: enlargement.
    """
    labels = names if names is not None else [short_name(name) for name in annotations.category_names]
    size = (picture.width * scale, picture.height * scale)
    canvas = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    rows = np.flatnonzero(annotations.annotation_image == image)
    # Large ones first, so that no mask or label hides below a larger one.
    rows = rows[np.argsort(-annotations.areas[rows], kind="stable")]
    for row in rows.tolist():
        if annotations.segmentations[row]:
            colour = category_colour(int(annotations.annotation_category[row]))
            mask = decode(to_rle(annotations.segmentations[row], picture.height, picture.width))
            _tint(canvas, Image.fromarray(mask * 255).resize(size, Image.Resampling.BICUBIC), colour)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(font_path(), _LABEL_PX)
    boxes = annotations.boxes_xywh[rows] * scale
    boxes[:, 2:] += boxes[:, :2]
    categories = annotations.annotation_category[rows].tolist()
    for box, category in zip(map(tuple, boxes.tolist()), categories, strict=True):
        pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=category_colour(category), width=2)
    written: list[Corners] = []
    for box, category in zip(map(tuple, boxes.tolist()), categories, strict=True):
        written.append(_write(pen, font, size, box, labels[category], category_colour(category), written))
    return canvas


def draw_grid(
    annotations: Annotations, images_root: Path, images: Sequence[int], *, columns: int = 3, scale: int = 2
) -> Image.Image:
    """Annotated images side by side, row by row."""
    pictures = []
    for image in images:
        with Image.open(images_root / annotations.file_names[image]) as file:
            pictures.append(draw_annotated(file, annotations, image, scale=scale))
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    num_rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", ((width + _GAP_PX) * columns - _GAP_PX, (height + _GAP_PX) * num_rows - _GAP_PX), "white")
    for i, picture in enumerate(pictures):
        grid.paste(picture, ((width + _GAP_PX) * (i % columns), (height + _GAP_PX) * (i // columns)))
    return grid


def category_colour(category: int) -> Colour:
    """A bright colour, far from those of the neighbouring categories."""
    red, green, blue = colorsys.hsv_to_rgb(category * _GOLDEN_RATIO % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def short_name(name: str) -> str:
    """The last words of a category's name, which tell most, as far as a label has room."""
    words = name.replace("_", " ").split()
    text = words.pop()[-_MAX_LABEL:] if words else name
    while words and len(text) + len(words[-1]) < _MAX_LABEL:
        text = f"{words.pop()} {text}"
    return text


def _tint(canvas: Image.Image, mask: Image.Image, colour: Colour) -> None:
    inside = mask.point(lambda opacity: 255 if opacity > 127 else 0)
    edge = ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(_OUTLINE_PX)))
    canvas.paste(colour, mask=inside.point(lambda opacity: round(opacity * _TINT)))
    canvas.paste(colour, mask=edge)


def _write(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    box: Corners,
    text: str,
    colour: Colour,
    written: Sequence[Corners],
) -> Corners:
    """Write a label above the box, or below or inside it where another label or the image's end is in the way."""
    width, height = pen.textlength(text, font=font) + 2 * _PADDING_PX, _LABEL_PX + 2 * _PADDING_PX
    left = max(0.0, min(box[0], size[0] - width))
    tops = (box[1] - height, box[3], box[1], box[3] - height)
    places = [(left, top, left + width, top + height) for top in tops if 0 <= top <= size[1] - height]
    places.append((left, 0.0, left + width, height))
    place = next((p for p in places if not any(_meet(p, other) for other in written)), places[0])
    pen.rounded_rectangle(place, radius=3, fill=colour)
    pen.text((left + _PADDING_PX, (place[1] + place[3]) / 2), text, fill="black", font=font, anchor="lm")
    return place


def _meet(a: Corners, b: Corners) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command in the module's docstring; the result is its exit status."""
    parser = argparse.ArgumentParser(prog="python -m lttune.data.draw", description="Draw annotated images in a grid.")
    parser.add_argument("annotations", type=Path, help="LVIS-format JSON file")
    parser.add_argument("images", type=Path, help="folder that its file names start from")
    parser.add_argument("--to", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--count", type=int, default=6, help="number of images")
    parser.add_argument("--first", type=int, default=0, help="number of the first image")
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("--scale", type=int, default=2, help="enlargement")
    given = parser.parse_args(arguments)
    try:
        for name in ("count", "columns", "scale"):
            if getattr(given, name) < 1:
                raise InputError(f"--{name} is {getattr(given, name)}; use at least 1.")
        annotations = load_annotations(given.annotations, require_federated=False)
        if not 0 <= given.first <= annotations.num_images - given.count:
            raise InputError(
                f"--first {given.first} and --count {given.count} go beyond {given.annotations}, which holds "
                f"{annotations.num_images} images; use smaller ones."
            )
        images = range(given.first, given.first + given.count)
        grid = draw_grid(annotations, given.images, images, columns=given.columns, scale=given.scale)
    except LttuneError as error:
        print(error, file=sys.stderr)
        return 2
    # Pillow spreads the error of a palette only where it is given one.
    palette = grid.quantize(_NUM_COLOURS)
    grid.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(given.to, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
