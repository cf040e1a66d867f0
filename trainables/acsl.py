"""Adaptive Class Suppression Loss (CVPR 2021): from the softmax baseline, the classifier's weight and bias alone train.

The published second stage runs 12 epochs at a learning rate of 0.02 with everything else frozen, so a trial on cached
features leaves nothing of it out but the flipped views, where a setting flips.
"""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable


class AcslTrainable(MethodTrainable):
    """One ACSL trial."""

    recipes = {"acsl": Recipe(parts=("classifier",), fidelity="cached")}  # noqa: RUF012 - a table, never changed
