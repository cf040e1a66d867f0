"""Ranking on top of another loss (ROG, ICCV 2023): everything trains.

Published from ImageNet weights in one stage, with repeat factor sampling and the gradient clipped at 5: 12 epochs with
binary cross-entropy and linear layers, or 24 with Seesaw and cosine layers. Here it starts from the setting's stage-1
model.
"""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable


class RogTrainable(MethodTrainable):
    """One ROG trial."""

    recipes = {"rog": Recipe(parts="all", fidelity="full")}  # noqa: RUF012 - a table, never changed
