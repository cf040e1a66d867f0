"""Adaptive Class Suppression Loss (CVPR 2021): from the softmax baseline, the classifier's weight and bias alone train.

So a trial on cached features leaves nothing of it out but the flipped views, where a setting flips.
"""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable

_PUBLISHED = (
    ("optim.lr", 0.02),
    ("optim.clip_norm", 35.0),
    ("schedule.epochs", 12),
    ("schedule.drop_epochs", (8, 11)),
    ("schedule.warmup_iters", 500),
    ("schedule.warmup_ratio", 1 / 3),
    ("schedule.images_per_process", 2),
    ("sampler.name", "uniform"),
)


class AcslTrainable(MethodTrainable):
    """One ACSL trial."""

    recipes = {  # noqa: RUF012 - a table, never changed
        "acsl": Recipe(parts=("classifier",), fidelity="cached", published=_PUBLISHED)
    }
