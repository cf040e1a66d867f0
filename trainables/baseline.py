"""Losses worth beating, re-trained as ACSL is: the controls of every comparison.

Cross-entropy, softmax and sigmoid, logit adjustment, and the federated loss; the classifier alone trains, from the
stage-1 model's.
"""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable

_CLASSIFIER = Recipe(parts=("classifier",), fidelity="cached")


class BaselineTrainable(MethodTrainable):
    """One trial of a baseline."""

    recipes = {  # noqa: RUF012 - a table, never changed
        "cross_entropy": _CLASSIFIER,
        "federated": _CLASSIFIER,
        "logit_adjustment": _CLASSIFIER,
        "sigmoid_cross_entropy": _CLASSIFIER,
    }
