"""Orders in which an epoch visits the images: functions of seed and epoch, so that a resumed run needs no state.

Repeat factors are those of Gupta et al., LVIS (CVPR 2019), appendix B.
"""

from typing import Literal

import numpy as np

from lttune.data.frequency import positive_pairs
from lttune.types import Annotations, FloatArray, IntArray

# Keeps image orders apart from whatever else is drawn from the same seed.
_STREAM = 0x6F72646572


def uniform_order(num_images: int, *, seed: int, epoch: int) -> IntArray:
    """(num_images,) a permutation of the image numbers."""
    return _generator(seed, epoch).permutation(num_images)


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


def repeat_order(factors: FloatArray, *, seed: int, epoch: int, rounding: Literal["whole", "stochastic"]) -> IntArray:
    """Image numbers, repeated and shuffled.

    Args:
        factors: (B,) of `repeat_factors`.
        seed: of the run.
        epoch: which of its epochs.
        rounding: `whole` repeats each image ceil(factor) times, as mmdetection does; `stochastic` draws the fraction
            anew in each epoch, as detectron2 does. Their epochs differ in length.
    """
    generator = _generator(seed, epoch)
    if rounding == "whole":
        copies = np.ceil(factors)
    else:
        copies = np.floor(factors)
        copies += generator.random(len(factors)) < factors - copies
    return generator.permutation(np.repeat(np.arange(len(factors)), copies.astype(np.int64)))


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([_STREAM, seed, epoch]))
