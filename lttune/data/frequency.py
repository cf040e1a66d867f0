"""How often categories occur, LVIS's frequency groups, and how often training repeats an image for a rare category.

Repeat factors are those of Gupta et al., LVIS (CVPR 2019), appendix B.
"""

import numpy as np
import numpy.typing as npt
import torch

from lttune.errors import DataError, InputError
from lttune.types import COMMON, FREQUENT, RARE, Annotations, CategoryFrequencies, FloatArray, IntArray

# Most training images of a category of the group, by LVIS's definition.
MAX_RARE, MAX_COMMON = 10, 100
# Share of images below which repeat factor sampling repeats a category; LVIS's own value.
REPEAT_THRESHOLD = 1e-3


def frequency_groups(
    image_count: npt.NDArray[np.number], *, max_rare: int = MAX_RARE, max_common: int = MAX_COMMON
) -> IntArray:
    """(C,) groups: rare up to `max_rare` images (also 0), common up to `max_common`, frequent above.

    Raises:
        InputError: the limits are not ascending from 0.
    """
    if not 0 <= max_rare < max_common:
        raise InputError(
            f"groups end at {max_rare} and {max_common} images; use two ascending limits from 0, for example "
            f"{MAX_RARE} and {MAX_COMMON}, LVIS's."
        )
    return np.select([image_count <= max_rare, image_count <= max_common], [RARE, COMMON], FREQUENT).astype(np.int64)


def category_frequencies(
    annotations: Annotations,
    *,
    max_rare: int = MAX_RARE,
    max_common: int = MAX_COMMON,
    repeat_threshold: float = REPEAT_THRESHOLD,
) -> CategoryFrequencies:
    """Counts over all given annotations; give the full training set, since groups and counts refer to it."""
    C = annotations.num_categories
    image_count = np.bincount(positive_pairs(annotations)[:, 1], minlength=C)
    instance_count = np.bincount(annotations.annotation_category, minlength=C)
    repeats = repeat_factors(annotations, threshold=repeat_threshold)[annotations.annotation_image]
    repeated_instance_count = np.bincount(annotations.annotation_category, repeats, minlength=C)
    return CategoryFrequencies(
        image_count=torch.from_numpy(image_count),
        instance_count=torch.from_numpy(instance_count),
        group=torch.from_numpy(frequency_groups(image_count, max_rare=max_rare, max_common=max_common)),
        repeated_instance_count=torch.from_numpy(repeated_instance_count),
    )


def repeat_factors(annotations: Annotations, *, threshold: float) -> FloatArray:
    """(B,) how often an epoch shows each image, at least 1.

    An image's factor is the largest sqrt(threshold / f) of its categories, f being the share of images that contain
    the category. Images without annotations have factor 1 and do not count in f, as if they had been filtered out.

    Args:
        annotations: the training set.
        threshold: share of images below which a category is repeated; 1e-3 on LVIS.
    """
    pairs = positive_pairs(annotations)
    num_annotated = len(np.unique(pairs[:, 0]))
    num_containing = np.bincount(pairs[:, 1], minlength=annotations.num_categories)
    factors = np.ones(annotations.num_images)
    # In the published order of operations: a rounding difference at factor 1 would add a copy under `whole`.
    np.maximum.at(factors, pairs[:, 0], np.sqrt(threshold / (num_containing[pairs[:, 1]] / num_annotated)))
    return factors


def groups_of(
    annotations: Annotations, train: Annotations, *, max_rare: int = MAX_RARE, max_common: int = MAX_COMMON
) -> IntArray:
    """(C,) groups of a file's categories by the full training annotations.

    Raises:
        DataError: the two list different categories.
    """
    if not np.array_equal(annotations.category_ids, train.category_ids):
        raise DataError(
            f"{annotations.source}: its categories are not those of {train.source}; both files must list the same "
            "category ids."
        )
    return category_frequencies(train, max_rare=max_rare, max_common=max_common).group.numpy().astype(np.int64)


def positive_pairs(annotations: Annotations) -> IntArray:
    """(n, 2) pairs (image, category) with at least one annotation, ascending, each once."""
    return unique_pairs(annotations.annotation_image, annotations.annotation_category, annotations.num_categories)


def unique_pairs(images: IntArray, categories: IntArray, num_categories: int) -> IntArray:
    """(n, 2) distinct pairs (image, category), ascending."""
    keys = np.unique(images * max(1, num_categories) + categories)
    return np.stack(np.divmod(keys, max(1, num_categories)), axis=1)
