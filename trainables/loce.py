"""Equilibrium loss with memory-augmented feature sampling (LOCE, ICCV 2021): the heads train, the trunk stands still.

The published second stage trains classifier, box regressor, RPN and mask head, after a class-balanced pass that fills
mean scores and memory. Backbone and the shared layers of the box head stay frozen, so the memory holds the output of
these layers, and classifier and regressor can train on cached features.
"""

from lttune.engine.config import Recipe
from lttune.tuning.trainable import MethodTrainable

_PUBLISHED = (
    ("optim.lr", 0.02),
    ("optim.clip_norm", None),
    ("schedule.epochs", 6),
    ("schedule.drop_epochs", (3, 5)),
    ("schedule.warmup_iters", 500),
    ("schedule.warmup_ratio", 1e-3),
    ("schedule.images_per_process", 2),
    ("sampler.name", "uniform"),
    ("detector.normed_mask", True),
)


class LoceTrainable(MethodTrainable):
    """One LOCE trial."""

    recipes = {  # noqa: RUF012 - a table, never changed
        "loce": Recipe(
            parts=("classifier", "box_regressor", "rpn", "mask_head"),
            cached_parts=("classifier", "box_regressor"),
            fidelity="cached",
            left_out=(
                "RPN and mask head stay those of stage 1",
                "the memory holds at most 40 instances of each category, jittered once by 1/6 of their size",
            ),
            published=_PUBLISHED,
        )
    }
