"""The methods as Ray trainables, each with what its authors train."""

from collections.abc import Sequence
from types import MappingProxyType

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable
from trainables.acsl import AcslTrainable
from trainables.baseline import BaselineTrainable
from trainables.ecm import EcmTrainable
from trainables.loce import LoceTrainable
from trainables.rog import RogTrainable
from trainables.seesaw import SeesawTrainable

TRAINABLES: dict[str, type[MethodTrainable]] = {
    "acsl": AcslTrainable,
    "cross_entropy": BaselineTrainable,
    "ecm": EcmTrainable,
    "federated": BaselineTrainable,
    "loce": LoceTrainable,
    "logit_adjustment": BaselineTrainable,
    "rog": RogTrainable,
    "seesaw": SeesawTrainable,
    "sigmoid_cross_entropy": BaselineTrainable,
}


class AnyTrainable(MethodTrainable):
    """One trial of any method: for searches that sample the method, too."""

    recipes = MappingProxyType({name: trainable.recipe(name) for name, trainable in TRAINABLES.items()})


def recipe_of(method: str) -> Recipe:
    """What a method's authors train, and how."""
    return TRAINABLES[method].recipe(method)


def trainable_for(methods: Sequence[str]) -> type[MethodTrainable]:
    """The class that runs a search over these methods."""
    return TRAINABLES[methods[0]] if len(methods) == 1 else AnyTrainable
