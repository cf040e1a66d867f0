"""A loss of one's own, from outside the package: python examples/own_loss.py [OUT]

Three things make a method: the loss with its frozen hyperparameters, what trains with it, and a search space that names
it. Nothing is registered: the two tables of `FocalTrainable` are passed to the functions that need them. Ray's workers
need no import path either. Each trial carries the class, by value where this file is run as a script, and by its module
where it is imported; Ray gives workers the path of the script's folder.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

import lttune

SPACE = Path(__file__).parent / "focal.yaml"


@dataclass(frozen=True, kw_only=True)
class FocalHyperparameters(lttune.LossHyperparameters):
    """Values of the focal loss; the defaults are the published ones.

    Attributes:
        gamma: power of the error, at least 0.
        alpha: weight of the own column, in (0, 1).
    """

    gamma: float = 2.0
    alpha: float = 0.25

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"loss.gamma is {self.gamma}; use 0 or more.")
        if not 0 < self.alpha < 1:
            raise ValueError(f"loss.alpha is {self.alpha}; use a value in (0, 1).")


class Focal(lttune.ClassificationLoss):
    """Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, over C + 1 columns, background last."""

    Hyperparameters = FocalHyperparameters
    hyperparameters: FocalHyperparameters
    scope = "global"

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        values = self.hyperparameters
        targets = F.one_hot(labels, self.num_logits).to(logits.dtype)
        cost = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        error = (logits.sigmoid() - targets).abs()
        weight = values.alpha * targets + (1 - values.alpha) * (1 - targets)
        return {"loss_cls": (weight * error**values.gamma * cost).sum() / max(1, len(logits))}

    def scores(self, logits: Tensor) -> Tensor:
        return logits[:, :-1].sigmoid()


class FocalTrainable(lttune.MethodTrainable):
    """One trial of the focal loss: the classifier alone trains, from the stage-1 model's."""

    recipes = {"focal": lttune.Recipe(parts=("classifier",), fidelity="cached")}  # noqa: RUF012 - a table
    losses = {"focal": Focal}  # noqa: RUF012


def main(out: str = "lttune_runs") -> None:
    """Train the published values, then search."""
    spec = lttune.load_spec(SPACE, trainable=FocalTrainable)
    trained = lttune.train(spec, Path(out) / "focal_published", out=out)
    print(f"published values: AP {trained.metrics['tune']['AP']:.2f} on the tune half")
    end = lttune.run_search(spec, "focal", out=out, trainable=FocalTrainable, resume=True)
    best = end.result.best_trial
    assert best is not None
    print(f"best of {len(end.result.trials)}: trial {best.number}, AP {best.metrics['AP']:.2f}, {dict(best.params)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
