"""Effective class-margin loss (ECM, ECCV 2022): everything trains.

Published from ImageNet weights in one stage with cosine classifier and mask predictor, for 12 or 24 epochs as the
setting has it. A setting of one's own starts from its stage-1 model.
"""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable

_PUBLISHED = (
    ("optim.lr", 0.02),
    ("optim.clip_norm", 5.0),
    ("schedule.warmup_iters", 10_000),
    ("schedule.warmup_ratio", 1e-4),
    ("sampler.name", "repeat"),
    ("sampler.threshold", 1e-3),
    ("sampler.rounding", "whole"),
    ("detector.normed_classifier", True),
    ("detector.normed_mask", True),
    ("recipe.start", "weights"),
)


class EcmTrainable(MethodTrainable):
    """One ECM trial."""

    recipes = {  # noqa: RUF012 - a table, never changed
        "ecm": Recipe(
            parts="all",
            fidelity="full",
            left_out=("a proxy: the classifier alone trains, where the published method trains everything",),
            published=_PUBLISHED,
        )
    }
