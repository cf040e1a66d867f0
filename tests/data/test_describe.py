from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lttune.data.describe import describe, save_plot, terminal_plot
from lttune.errors import InputError
from lttune.types import Annotations


@pytest.fixture
def annotations(make_annotations: Callable[..., Annotations]) -> Annotations:
    """Category 0 in 8 images, 1 in two with three instances each, 2 in one, 3 in none; the last image is empty."""
    pairs = [(i, 0) for i in range(8)] + [(0, 1)] * 3 + [(1, 1)] * 3 + [(2, 2)]
    return make_annotations(pairs, num_images=9, num_categories=4)


def test_groups_count_categories_images_and_instances(annotations: Annotations) -> None:
    found = describe(annotations, max_rare=1, max_common=4)
    assert [(g.name, g.num_categories, g.num_images, g.num_instances, g.from_images) for g in found.groups] == [
        ("rare", 2, 1, 1, (0, 1)),
        ("common", 1, 2, 6, (2, 4)),
        ("frequent", 1, 8, 8, (5, None)),
    ]
    assert (found.num_images, found.num_empty_images, found.num_instances) == (9, 1, 15)
    assert found.one_image == ("category_2",)
    assert found.absent == ("category_3",)
    assert found.num_stated_otherwise is None


def test_each_way_to_count_gives_its_own_groups(annotations: Annotations) -> None:
    found = describe(annotations, max_rare=1, max_common=4, repeat_threshold=0.9)
    # The factors of images 0 to 7 are sqrt(0.9 / (1/8)) for 2, sqrt(0.9 / (2/8)) for 0 and 1, 1 for the rest, since
    # category 0 is in all eight.
    assert found.bases == {"images": (2, 1, 1), "instances": (2, 0, 2), "images after RFS": (1, 2, 1)}
    assert found.epoch_images == pytest.approx(6 + 2 * np.sqrt(3.6) + np.sqrt(7.2))


def test_stated_groups_are_compared(annotations: Annotations) -> None:
    annotations.frequency_group[:] = [2, 1, 1, 0]
    found = describe(annotations, max_rare=1, max_common=4)
    assert found.num_stated_otherwise == 1
    assert "1 categories state another group" in str(found)


def test_the_text_shows_all(annotations: Annotations) -> None:
    text = str(describe(annotations, max_rare=1, max_common=4))
    for line in (
        "made: LVIS format, 9 images (1 without annotations), 15 instances (0 ignored), 4 categories",
        "common            2 to 4           1         2           6",
        "categories of one image: 1 (category_2)",
        "images after RFS             2       1         1",
    ):
        assert line in text


def test_limits_are_checked(annotations: Annotations) -> None:
    with pytest.raises(InputError, match="groups end at 5 and 4 images"):
        describe(annotations, max_rare=5, max_common=4)


def test_an_empty_file_can_be_described(make_annotations: Callable[..., Annotations]) -> None:
    found = describe(make_annotations([], num_images=1, num_categories=2))
    assert found.absent == ("category_0", "category_1")
    assert "no category has an image" in str(found)


def test_the_terminal_plot_falls_with_the_rank() -> None:
    lines = terminal_plot(np.array([1, 1000, 10, 100]), width=4, height=6)
    columns = [[line[10 + c : 11 + c] not in (" ", "") for line in lines[:6]] for c in range(4)]
    heights = [sum(column) for column in columns]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] > heights[-1]
    assert lines[-1].split() == ["1", "4", "rank"]


def test_the_plot_is_a_png(annotations: Annotations, tmp_path: Path) -> None:
    save_plot(describe(annotations), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
