"""Orders in which an epoch visits the images: functions of seed and epoch, so that a resumed run needs no state."""

from typing import Literal

import numpy as np

from lttune.data.frequency import repeat_factors
from lttune.types import FloatArray, IntArray

__all__ = ["repeat_factors", "repeat_order", "uniform_order"]

# Keeps image orders apart from whatever else is drawn from the same seed.
_STREAM = 0x6F72646572


def uniform_order(num_images: int, *, seed: int, epoch: int) -> IntArray:
    """(num_images,) a permutation of the image numbers."""
    return _generator(seed, epoch).permutation(num_images)


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
