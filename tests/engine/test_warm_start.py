"""The pass before training shows every category as often, in the order of the file."""

import numpy as np

from lttune.engine.warm_start import class_balanced_order


def order(pairs: list[tuple[int, int]], num_images: int) -> list[int]:
    """Of annotations as pairs (category, image)."""
    categories, images = np.array(pairs).T
    return class_balanced_order(categories, images, num_images=num_images).tolist()


def test_each_category_has_its_first_images() -> None:
    # Category 0 in images 1, 2 and 4, which holds it twice; category 2 in image 0 alone; category 1 nowhere.
    assert order([(0, 4), (2, 0), (0, 2), (0, 4), (0, 1)], 2) == [1, 2, 0, 0]


def test_few_images_come_again_in_turn() -> None:
    assert order([(1, 3), (1, 7), (0, 7)], 5) == [7, 7, 7, 7, 7, 3, 7, 3, 7, 3]
