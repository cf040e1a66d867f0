"""Classification losses of long-tail detection, one row each in `LOSSES`."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from lttune.errors import InputError, did_you_mean
from lttune.losses.acsl import Acsl
from lttune.losses.base import ClassificationLoss, LossHyperparameters, RoiAugmenter
from lttune.losses.cross_entropy import SigmoidCrossEntropy, SoftmaxCrossEntropy
from lttune.losses.ecm import Ecm
from lttune.losses.federated import Federated
from lttune.losses.loce import Loce
from lttune.losses.logit_adjustment import LogitAdjustment
from lttune.losses.rog import Rog
from lttune.losses.seesaw import Seesaw
from lttune.types import CategoryFrequencies

__all__ = ["LOSSES", "ClassificationLoss", "LossHyperparameters", "RoiAugmenter", "build_loss"]

LOSSES: dict[str, type[ClassificationLoss]] = {
    "acsl": Acsl,
    "cross_entropy": SoftmaxCrossEntropy,
    "ecm": Ecm,
    "federated": Federated,
    "loce": Loce,
    "logit_adjustment": LogitAdjustment,
    "rog": Rog,
    "seesaw": Seesaw,
    "sigmoid_cross_entropy": SigmoidCrossEntropy,
}


def build_loss(
    name: str | type[ClassificationLoss],
    *,
    num_classes: int,
    frequencies: CategoryFrequencies,
    generator: torch.Generator | None = None,
    images_per_process: int | None = None,
    **hyperparameters: Any,
) -> ClassificationLoss:
    """A loss by its name in `LOSSES`, or of a class of one's own.

    Args:
        name: key of `LOSSES`, or the class.
        num_classes: C, foreground categories.
        frequencies: counts of the full training annotations.
        generator: source of the loss's draws; a loss that draws refuses to train without one.
        images_per_process: images of the batch that one process of the published run would have, for losses whose
            draws or comparisons stay within a process; None: all of them.
        hyperparameters: fields of the loss's `Hyperparameters`, published values where left out; a nested group may
            come as a mapping.

    Raises:
        InputError: unknown name or hyperparameter, or a value out of its range.
    """
    if isinstance(name, str) and name not in LOSSES:
        raise InputError(f"loss '{name}' does not exist.{did_you_mean(name, list(LOSSES))}")
    loss = LOSSES[name] if isinstance(name, str) else name
    return loss(
        num_classes=num_classes,
        frequencies=frequencies,
        hyperparameters=_hyperparameters(
            loss.Hyperparameters, hyperparameters, where=f"loss '{name if isinstance(name, str) else name.__name__}'"
        ),
        generator=generator,
        images_per_process=images_per_process,
    )


def _hyperparameters(kind: Any, values: Mapping[str, Any], *, where: str) -> LossHyperparameters:
    known = {field.name: field.default_factory for field in fields(kind)}
    for key in values:
        if key not in known:
            raise InputError(f"{where} has no hyperparameter '{key}'.{did_you_mean(key, list(known))}")
    made: LossHyperparameters = kind(
        **{
            key: _hyperparameters(known[key], value, where=f"{where}, {key}") if isinstance(value, Mapping) else value
            for key, value in values.items()
        }
    )
    return made
