"""Equilibrium loss with memory-augmented feature sampling (LOCE, ICCV 2021): the heads train, the trunk stands still.

The published second stage runs 6 epochs at a learning rate of 0.02, divided by ten after 3 and 5, on classifier, box
regressor, RPN and mask head, after a class-balanced pass that fills mean scores and memory. Backbone and the shared
layers of the box head stay frozen, so the memory may hold the output of these layers. A trained RPN and regressor move
the boxes, so trials run on images.
"""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable


class LoceTrainable(MethodTrainable):
    """One LOCE trial."""

    recipes = {  # noqa: RUF012 - a table, never changed
        "loce": Recipe(parts=("classifier", "box_regressor", "rpn", "mask_head"), fidelity="full")
    }
