"""The methods as Ray trainables, each with what its authors train."""

from lttune.tuning.trainable import MethodTrainable
from trainables.acsl import AcslTrainable
from trainables.baseline import BaselineTrainable

TRAINABLES: dict[str, type[MethodTrainable]] = {
    "acsl": AcslTrainable,
    "cross_entropy": BaselineTrainable,
    "sigmoid_cross_entropy": BaselineTrainable,
}
