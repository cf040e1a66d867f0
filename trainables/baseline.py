"""Plain cross-entropy, softmax and sigmoid, re-trained as the methods are: the controls of every comparison."""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable

_CLASSIFIER = Recipe(parts=("classifier",), fidelity="cached")


class BaselineTrainable(MethodTrainable):
    """One trial of a baseline."""

    recipes = {"cross_entropy": _CLASSIFIER, "sigmoid_cross_entropy": _CLASSIFIER}  # noqa: RUF012 - never changed
