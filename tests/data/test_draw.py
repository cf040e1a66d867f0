from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lttune.data.draw import category_colour, draw_annotated, draw_grid, main, short_name
from lttune.data.glyphs import GlyphFiles
from lttune.data.lvis import annotations_from_document, load_annotations


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("alarm_clock", "alarm clock"),
        ("latin_capital_letter_yogh", "letter yogh"),
        ("x" * 30, "x" * 18),
        ("_", "_"),
    ],
)
def test_labels_keep_the_last_words(name: str, label: str) -> None:
    assert short_name(name) == label


def test_neighbouring_categories_have_distant_colours() -> None:
    colours = np.array([category_colour(c) for c in range(30)], np.int64)
    assert (np.abs(np.diff(colours, axis=0)).sum(axis=1) > 100).all()


def test_masks_are_tinted_and_boxes_drawn(document: dict[str, Any]) -> None:
    for annotation in document["annotations"]:
        annotation["category_id"] = 9
    document["images"][1] |= {"height": 60, "width": 80}
    document["annotations"][1] |= {"bbox": [20, 25, 40, 30], "area": 1200}
    document["annotations"][1]["segmentation"] = [[20, 25, 60, 25, 60, 55, 20, 55]]
    document["annotations"].pop(3)
    annotations = annotations_from_document(document, "file.json")
    drawn = np.asarray(draw_annotated(Image.new("RGB", (80, 60)), annotations, 0, scale=2), np.int64)
    assert drawn.shape == (120, 160, 3)
    colour = np.array(category_colour(2))
    assert drawn[80, 80] == pytest.approx(0.35 * colour, abs=2)
    assert (drawn[50, 45:115] == colour).all(), "upper side of the box"
    assert (drawn[115, :] == 0).all()
    unlabelled = np.asarray(draw_annotated(Image.new("RGB", (80, 60)), annotations, 0, names=["", "", ""]), np.int64)
    assert unlabelled.shape == (60, 80, 3)


def test_an_annotation_without_a_mask_shows_its_box(document: dict[str, Any]) -> None:
    annotations = annotations_from_document(document, "file.json")
    annotations = replace(annotations, segmentations=[None] * 4, boxes_xywh=np.tile([2.0, 1.0, 3.0, 2.0], (4, 1)))
    drawn = np.asarray(draw_annotated(Image.new("RGB", (8, 5)), annotations, 0))
    assert drawn.any()


def test_a_grid_holds_its_images_row_by_row(small_glyphs: GlyphFiles) -> None:
    annotations = load_annotations(small_glyphs.val_annotations)
    grid = draw_grid(annotations, small_glyphs.val_images, [0, 1, 2, 3, 4], columns=3, scale=2)
    assert grid.size == (3 * 192 + 2 * 8, 2 * 192 + 8)
    single = draw_grid(annotations, small_glyphs.val_images, [4], columns=1, scale=2)
    assert grid.crop((200, 200, 392, 392)).tobytes() == single.tobytes()


def test_the_command_writes_a_picture(small_glyphs: GlyphFiles, tmp_path: Path) -> None:
    places = [str(small_glyphs.val_annotations), str(small_glyphs.val_images), "--to", str(tmp_path / "grid.png")]
    assert main([*places, "--count", "2", "--columns", "2", "--scale", "1"]) == 0
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (2 * 96 + 8, 96)


def test_the_command_says_what_is_wrong(
    small_glyphs: GlyphFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(small_glyphs.val_annotations), str(small_glyphs.val_images), "--to", str(tmp_path / "grid.png")]
    assert main([*places, "--count", "0"]) == 2
    assert "--count is 0; use at least 1." in capsys.readouterr().err
    assert main([*places, "--first", "19"]) == 2
    assert "holds 20 images" in capsys.readouterr().err
