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
from lttune.losses.distributed import gather_numbers, gather_rows, mean_over_all_rows
from lttune.types import CategoryFrequencies, Target


@dataclass(frozen=True, kw_only=True)
class LossHyperparameters:
    """Base of each loss's frozen hyperparameters; ranges are checked in `__post_init__`, which names the field."""


class RoiAugmenter(Protocol):
    """Adds rows to the RoIs that classifier and box regressor train on (LOCE's feature memory)."""

    @property
    def num_bytes(self) -> int:
        """Memory of all that is stored."""

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

    Running statistics are buffers that move only in training mode, so that checkpoints keep them. A call moves them by
    the whole batch first, once, and over all ranks where several train together; then it takes the terms.

    The published runs gave each process a few images of the batch. A loss whose draws or comparisons stay within a
    process says `scope = "process"` and takes its terms of each process's images apart, with their own number of RoIs,
    and averages them, as training in parallel averages gradients. Statistics are one for all processes even then:
    counts that each process keeps for itself, as published, differ by which images it happened to see.

    Ranks that train together end as one process that has all of their rows. Terms of the scope `global` are means over
    rows, and a rank's weighs as much as it has rows. Those of the scope `process` every rank takes of all ranks' rows,
    with the same draws, and trains its own rows by them.

    Args:
        num_classes: C, foreground categories.
        frequencies: counts of the full training annotations.
        hyperparameters: the frozen values; the module reads them from here at every call.
        generator: source of the loss's own draws; None where the loss draws nothing.
        images_per_process: images of the batch that one process of the published run would have; None: all of them.

    Raises:
        InputError: `images_per_process` is below 1.
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
        images_per_process: int | None = None,
    ) -> None:
        super().__init__()
        assert num_classes == frequencies.num_categories, (num_classes, frequencies.num_categories)
        if images_per_process is not None and images_per_process < 1:
            raise InputError(f"images_per_process is {images_per_process}; use at least 1, or None for all images.")
        self.num_classes = num_classes
        self.hyperparameters = hyperparameters
        self.generator = generator
        self.images_per_process = images_per_process
        self.augmenter: RoiAugmenter | None = None
        self.set_up(frequencies)

    def set_up(self, frequencies: CategoryFrequencies) -> None:
        """Register constants and statistics; the end of construction."""

    @property
    def num_logits(self) -> int:
        """Columns of the classifier: C + 1 unless the loss says otherwise."""
        return self.num_classes + 1

    @property
    def num_warm_images(self) -> int:
        """Images of each category that the loss sees, in training mode and without any update of parameters, before
        training begins; 0 for none."""
        return 0

    @property
    def state_bytes(self) -> int:
        """Memory of everything that training changes: running statistics and the augmenter's memory."""
        statistics = sum(int(statistic.nbytes) for statistic in self.state_dict().values())
        return statistics if self.augmenter is None else statistics + self.augmenter.num_bytes

    def initial_bias(self) -> Tensor | None:
        """(num_logits,) start of a fresh classifier's bias, or None for zeros."""
        return None

    def forward(
        self, logits: Tensor, labels: Tensor, *, instance_ids: Tensor | None = None, image_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Named scalar terms, already weighted; their sum is trained.

        Computes in float32 at least: half precision is raised, float64 stays float64. No rows give zero with a
        gradient.

        Args:
            logits: (N, num_logits), any float type.
            labels: (N,) int64 in [0, C], C is background.
            instance_ids: (N,) int64, the matched ground truth of each row counted over the batch; -1 background,
                -2 a memory row.
            image_ids: (N,) int64, the image of each row counted over the batch; -1 a memory row. Needed where
                `images_per_process` is given.

        Raises:
            InputError: `image_ids` are needed and absent.
        """
        with torch.autocast(logits.device.type, enabled=False):
            return self._terms_of_batch(at_least_float32(logits), labels, instance_ids, image_ids)

    def _terms_of_batch(
        self, logits: Tensor, labels: Tensor, instance_ids: Tensor | None, image_ids: Tensor | None
    ) -> dict[str, Tensor]:
        if self.training:
            self.observe(logits.detach(), labels, instance_ids=instance_ids)
        if self.scope == "global":
            terms = self.terms(logits, labels)
            return {name: mean_over_all_rows(term, len(labels)) for name, term in terms.items()}
        if self.images_per_process is None:
            return self.terms(gather_rows(logits), gather_rows(labels))
        if image_ids is None:
            raise InputError(
                f"images_per_process is {self.images_per_process}, but the loss was called without image_ids; give "
                "both or neither."
            )
        logits, labels, image_ids = gather_rows(logits), gather_rows(labels), gather_numbers(image_ids)
        order, sizes = rows_by_process(image_ids, self.images_per_process)
        if len(sizes) < 2:
            return self.terms(logits, labels)
        parts = zip(torch.split(logits.index_select(0, order), sizes), torch.split(labels[order], sizes), strict=True)
        by_process = [self.terms(*part) for part in parts]
        return {name: torch.stack([own[name] for own in by_process]).mean() for name in by_process[0]}

    def observe(self, logits: Tensor, labels: Tensor, *, instance_ids: Tensor | None = None) -> None:
        """Move the running statistics by one batch, whatever the mode; arguments as in `forward`, without a graph."""

    @abstractmethod
    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms of `forward` over rows that belong together; moves no statistics.

        Args:
            logits: (N, num_logits), float32 or float64.
            labels: (N,).
        """

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """(N, C) in [0, 1]: the activation used at test time."""


def rows_by_process(image_ids: Tensor, images_per_process: int) -> tuple[Tensor, list[int]]:
    """Deal out rows to processes that have as many images each; the number of rows of each waits for the device.

    Args:
        image_ids: (N,) int64 image of each row; -1, a row of no image, goes to the first process.
        images_per_process: images of each process, the last one may have fewer.

    Returns:
        (N,) the rows in the order of the processes, within each in their own order, and how many each process has.
    """
    process = image_ids.clamp(min=0) // images_per_process
    return process.argsort(stable=True), process.bincount().tolist()


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
