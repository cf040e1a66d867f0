"""Seesaw loss (CVPR 2021): everything trains.

Published from ImageNet weights in one stage of 24 epochs with cosine classifier and mask predictor; its authors found a
classifier trained apart from the rest worse. A setting of one's own starts from its stage-1 model, with a fresh
classifier, since Seesaw's has two objectness columns in the place of background.
"""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable

_PUBLISHED = (
    ("optim.lr", 0.02),
    ("schedule.warmup_iters", 500),
    ("schedule.warmup_ratio", 1e-3),
    ("sampler.name", "repeat"),
    ("sampler.threshold", 1e-3),
    ("sampler.rounding", "whole"),
    ("detector.normed_classifier", True),
    ("detector.normed_mask", True),
    ("recipe.start", "weights"),
)


class SeesawTrainable(MethodTrainable):
    """One Seesaw trial."""

    recipes = {  # noqa: RUF012 - a table, never changed
        "seesaw": Recipe(
            parts="all",
            fidelity="full",
            left_out=("a proxy: the classifier alone trains, where the published method trains everything",),
            published=_PUBLISHED,
        )
    }
