"""Seesaw loss (CVPR 2021): everything trains.

Published from ImageNet weights in one stage of 24 epochs with cosine classifier and mask predictor; its authors found a
classifier trained apart from the rest worse. Here it starts from the setting's stage-1 model, with a fresh classifier,
since Seesaw's has two objectness columns in the place of background.
"""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable


class SeesawTrainable(MethodTrainable):
    """One Seesaw trial."""

    recipes = {"seesaw": Recipe(parts="all", fidelity="full")}  # noqa: RUF012 - a table, never changed
