"""Ranking on top of another loss (ROG, ICCV 2023): everything trains.

Published from ImageNet weights in one stage: 12 epochs with binary cross-entropy and linear layers, or 24 with Seesaw
and cosine layers, which `search_spaces/rog.yaml` says how to choose. A setting of one's own starts from its stage-1
model.
"""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable

_PUBLISHED = (
    ("optim.lr", 0.02),
    ("optim.clip_norm", 5.0),
    ("schedule.warmup_iters", 500),
    ("schedule.warmup_ratio", 1e-4),
    ("schedule.images_per_process", 4),
    ("sampler.name", "repeat"),
    ("sampler.threshold", 1e-3),
    ("sampler.rounding", "whole"),
    ("recipe.start", "weights"),
)


class RogTrainable(MethodTrainable):
    """One ROG trial."""

    recipes = {  # noqa: RUF012 - a table, never changed
        "rog": Recipe(
            parts="all",
            fidelity="full",
            left_out=("a proxy: the classifier alone trains, where the published method trains everything",),
            published=_PUBLISHED,
        )
    }
