"""Effective class-margin loss (ECM, ECCV 2022): everything trains.

Published from ImageNet weights in one stage: 12 or 24 epochs at a learning rate of 0.02 with repeat factor sampling,
10000 iterations of warmup, the gradient clipped at 5, cosine classifier and mask predictor. Here it starts from the
setting's stage-1 model.
"""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable


class EcmTrainable(MethodTrainable):
    """One ECM trial."""

    recipes = {"ecm": Recipe(parts="all", fidelity="full")}  # noqa: RUF012 - a table, never changed
