"""What every classification loss and every RoI augmenter promises.

Shape letters: N sampled RoIs of one call, C foreground categories, M instances.
Logits are (N, num_logits); foreground categories are columns 0 to C-1 and background is last. Labels lie in [0, C]
and C is background.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from lttune.errors import InputError
from lttune.types import CategoryFrequencies, Target


@dataclass(frozen=True, kw_only=True)
class LossHyperparameters:
    """Base of each loss's frozen hyperparameters; ranges are checked in `__post_init__`, which names the field."""


class RoiAugmenter(Protocol):
    """Adds rows to the RoIs that classifier and box regressor train on (LOCE's feature memory)."""

    def boxes(
        self, targets: Sequence[Target], image_sizes: Sequence[tuple[int, int]], generator: torch.Generator
    ) -> list[Tensor]:
        """Per image the boxes (K, 4) that the detector shall pool besides its proposals."""

    def update(self, features: Tensor, labels: Tensor, box_targets: Tensor) -> None:
        """Store features (K, D) of those boxes with labels (K,) and regression targets (K, 4)."""

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Extra rows: features (R, D), labels (R,), box targets (R, 4); R may be 0."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that is stored, by name; tensors are shared, not copied."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace everything by what `state_dict` gave."""


class ClassificationLoss(nn.Module, ABC):
    """A classification loss that owns its width, its activation and its statistics.

    Running statistics are buffers that move only in training mode, so that checkpoints keep them.

    Args:
        num_classes: C, foreground categories.
        frequencies: counts of the full training annotations.
        hyperparameters: the frozen values; the module reads them from here at every call.
        generator: source of the loss's own draws; None where the loss draws nothing.
    """

    Hyperparameters: ClassVar[type[LossHyperparameters]]
    # Whether its statistics and draws are those of one process of the published code, or of the whole batch.
    scope: ClassVar[Literal["process", "global"]] = "process"

    def __init__(
        self,
        *,
        num_classes: int,
        frequencies: CategoryFrequencies,
        hyperparameters: Any,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        assert num_classes == frequencies.num_categories, (num_classes, frequencies.num_categories)
        self.num_classes = num_classes
        self.hyperparameters = hyperparameters
        self.generator = generator
        self.augmenter: RoiAugmenter | None = None

    @property
    def num_logits(self) -> int:
        """Columns of the classifier: C + 1 unless the loss says otherwise."""
        return self.num_classes + 1

    @property
    def num_warm_images(self) -> int:
        """Images of each category that the loss sees, in training mode and without any update of parameters, before
        training begins; 0 for none."""
        return 0

    def initial_bias(self) -> Tensor | None:
        """(num_logits,) start of a fresh classifier's bias, or None for zeros."""
        return None

    @abstractmethod
    def forward(self, logits: Tensor, labels: Tensor, *, instance_ids: Tensor | None = None) -> dict[str, Tensor]:
        """Named scalar terms, already weighted; their sum is trained.

        Computes in float32 at least: half precision is raised, float64 stays float64. No rows give zero with a
        gradient.

        Args:
            logits: (N, num_logits), any float type.
            labels: (N,) int64 in [0, C], C is background.
            instance_ids: (N,) int64, the matched ground truth of each row counted over the batch; -1 background,
                -2 a memory row.
        """

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """(N, C) in [0, 1]: the activation used at test time."""


def require(condition: bool, field: str, value: object, advice: str) -> None:
    """Check one hyperparameter.

    Raises:
        InputError: `loss.<field> is <value>; <advice>.`
    """
    if not condition:
        raise InputError(f"loss.{field} is {value}; {advice}.")


def uniform(*shape: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Float64 draws from [0, 1) on `device`, whatever device the generator lives on.

    Raises:
        InputError: there is no generator.
    """
    if generator is None:
        raise InputError("this loss draws at random and was built without a generator; pass a torch.Generator.")
    return torch.rand(shape, dtype=torch.float64, device=generator.device, generator=generator).to(device)


def at_least_float32(logits: Tensor) -> Tensor:
    """Raise half precision to float32; leave float32 and float64 as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def mean_over_rows(per_cell: Tensor, num_rows: int) -> Tensor:
    """Sum of all cells over the number of RoIs; zero with a gradient where there is no RoI."""
    return per_cell.sum() / max(num_rows, 1)
