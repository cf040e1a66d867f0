"""How often categories occur, and LVIS's frequency groups."""

import numpy as np
import torch

from lttune.types import COMMON, FREQUENT, RARE, Annotations, CategoryFrequencies, IntArray

# Most training images of a category of the group, by LVIS's definition.
_MAX_RARE, _MAX_COMMON = 10, 100


def frequency_groups(image_count: IntArray) -> IntArray:
    """(C,) groups: rare up to 10 images (also 0), common up to 100, frequent above."""
    return np.select([image_count <= _MAX_RARE, image_count <= _MAX_COMMON], [RARE, COMMON], FREQUENT).astype(np.int64)


def category_frequencies(annotations: Annotations) -> CategoryFrequencies:
    """Counts over all given annotations; give the full training set, since groups and counts refer to it."""
    C = annotations.num_categories
    image_count = np.bincount(positive_pairs(annotations)[:, 1], minlength=C)
    instance_count = np.bincount(annotations.annotation_category, minlength=C)
    return CategoryFrequencies(
        image_count=torch.from_numpy(image_count),
        instance_count=torch.from_numpy(instance_count),
        group=torch.from_numpy(frequency_groups(image_count)),
    )


def positive_pairs(annotations: Annotations) -> IntArray:
    """(n, 2) pairs (image, category) with at least one annotation, ascending, each once."""
    return unique_pairs(annotations.annotation_image, annotations.annotation_category, annotations.num_categories)


def unique_pairs(images: IntArray, categories: IntArray, num_categories: int) -> IntArray:
    """(n, 2) distinct pairs (image, category), ascending."""
    keys = np.unique(images * max(1, num_categories) + categories)
    return np.stack(np.divmod(keys, max(1, num_categories)), axis=1)
