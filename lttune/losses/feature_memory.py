"""Memory-augmented feature sampling: extra RoIs of the categories that score worst, drawn from a memory of features.

Shape letters: M instances of one image, K stored rows of one pass, R drawn rows, D box-head width, Q queue size,
C foreground categories, H W pixels. Boxes are xyxy in absolute pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from lttune.losses.base import at_least_float32, uniform
from lttune.losses.distributed import gather_rows, own_share
from lttune.types import Target

# One jittered box per pattern of signs on (x1, y1, x2, y2).
JITTERS_PER_BOX = 16
# (4, 16): the last coordinate changes its sign fastest, as in the published code.
_SIGNS = torch.tensor(list(product((-1.0, 1.0), repeat=4)), dtype=torch.float64).T
# Keeps the inverse of a mean score finite; the published code's value.
_EPSILON = 1e-7


def class_probabilities(mean_score: Tensor) -> Tensor:
    """(C,) probability of drawing each category: inverse to its mean score.

    Args:
        mean_score: (C + 1,), background last and left out.
    """
    inverse = 1 / (mean_score[:-1] + _EPSILON)
    return inverse / inverse.sum()


def draw_classes(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Categories by inverse cumulative sum, ascending, duplicates allowed.

    A draw above the rounded total gives the last category, where the published code drops it.

    Args:
        probabilities: (C,), adding up to 1.
        uniforms: (..., n) in [0, 1).

    Returns:
        (..., n) int64.
    """
    drawn = torch.searchsorted(probabilities.cumsum(0), uniforms.sort(dim=-1).values)
    return drawn.clamp(max=len(probabilities) - 1)


def jitter_boxes(boxes: Tensor, image_size: tuple[int, int], uniforms: Tensor, *, amplitude: float = 1 / 6) -> Tensor:
    """Sixteen shifted copies of each box, one for each pattern of signs on its four sides.

    Args:
        boxes: (M, 4).
        image_size: (H, W); boxes are clamped to [0, W - 1] and [0, H - 1], as published.
        uniforms: (4, 16) in [0, 1), shared by all boxes of the image.
        amplitude: largest shift, in widths or heights of the box.

    Returns:
        (16 M, 4), the copies of a box in a row.
    """
    height, width = image_size
    sides = boxes[:, 2:] - boxes[:, :2]
    shifts = (_SIGNS.to(uniforms.device) * uniforms).T.to(boxes) * amplitude  # (16, 4)
    jittered = boxes[:, None] + shifts * sides.repeat(1, 2)[:, None]
    limit = boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
    return torch.minimum(jittered.clamp(min=0), limit).flatten(0, 1)


@dataclass
class _Queue:
    """Ring buffer of one category."""

    features: Tensor  # (Q, D)
    box_targets: Tensor  # (Q, 4)
    num_written: int = 0  # ever, so that the next place is this modulo Q

    def write(self, features: Tensor, box_targets: Tensor) -> None:
        size = len(self.features)
        # More rows than places: only the newest survive, at the places they would have reached one by one.
        skipped = max(len(features) - size, 0)
        places = torch.arange(self.num_written + skipped, self.num_written + len(features)) % size
        self.features[places] = features[skipped:]
        self.box_targets[places] = box_targets[skipped:]
        self.num_written += len(features)

    @property
    def num_stored(self) -> int:
        return min(self.num_written, len(self.features))


class FeatureMemory:
    """LOCE's memory: per category a ring buffer of box-head outputs and regression targets, in host memory.

    Feng et al., ICCV 2021 (see `loce.py`); published as fcjian/LOCE 0a0194d, `mfs.py`.

    Differences from the published code: it stores the box head's output, not the pooled map before it, which is the
    same training while the box head is frozen, in a twelfth of the memory; a category takes memory once it has been
    seen; one generator draws everything; its state can be saved.

    Args:
        mean_score: gives the current (C + 1,) mean scores.
        queue_size: rows kept per category.
        num_drawn_classes: categories drawn per pass, with replacement.
        num_drawn_features: rows drawn per drawn category, with replacement; a category without rows gives none.
        jitter_amplitude: see `jitter_boxes`.
    """

    def __init__(
        self,
        mean_score: Callable[[], Tensor],
        *,
        queue_size: int = 80,
        num_drawn_classes: int = 8,
        num_drawn_features: int = 4,
        jitter_amplitude: float = 1 / 6,
    ) -> None:
        self.queue_size = queue_size
        self.num_drawn_classes = num_drawn_classes
        self.num_drawn_features = num_drawn_features
        self.jitter_amplitude = jitter_amplitude
        self._mean_score = mean_score
        self._queues: dict[int, _Queue] = {}
        # What drawn rows look like before anything is stored, and the device they go to.
        self._last_features = torch.zeros(0, 0)

    @property
    def num_bytes(self) -> int:
        """Host memory of the stored rows: on LVIS v1 at most 0.40 GB, 1203 categories of 80 rows of 1024 features and 4
        targets in float32, where pooled maps would take 4.8."""
        return sum(queue.features.nbytes + queue.box_targets.nbytes for queue in self._queues.values())

    @property
    def num_stored(self) -> Mapping[int, int]:
        """Rows held of each category seen so far."""
        return {label: queue.num_stored for label, queue in self._queues.items()}

    def boxes(
        self, targets: Sequence[Target], image_sizes: Sequence[tuple[int, int]], generator: torch.Generator
    ) -> list[Tensor]:
        """Per image its jittered ground-truth boxes (16 M, 4), the copies of an instance in a row."""
        return [
            jitter_boxes(
                target.boxes,
                image_size,
                uniform(4, JITTERS_PER_BOX, generator=generator, device=target.boxes.device),
                amplitude=self.jitter_amplitude,
            )
            for target, image_size in zip(targets, image_sizes, strict=True)
        ]

    def update(self, features: Tensor, labels: Tensor, box_targets: Tensor) -> None:
        """Store rows of all ranks that train together, each category's oldest giving way, so that all store the same.

        Args:
            features: (K, D).
            labels: (K,) in [0, C).
            box_targets: (K, 4).
        """
        features = at_least_float32(features.detach())
        self._last_features = features[:0]
        features, labels, box_targets = gather_rows(features), gather_rows(labels), gather_rows(box_targets.detach())
        features, labels, box_targets = features.cpu(), labels.cpu(), box_targets.cpu()
        for label in torch.unique(labels).tolist():
            rows = (labels == label).nonzero()[:, 0]
            if label not in self._queues:
                self._queues[label] = _Queue(
                    features=features.new_zeros(self.queue_size, features.shape[1]),
                    box_targets=box_targets.new_zeros(self.queue_size, 4),
                )
            self._queues[label].write(features[rows], box_targets[rows])

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Extra rows of drawn categories: features (R, D), labels (R,) and box targets (R, 4), where the last stored
        features were.

        Ranks that train together draw the same rows, from equal generators, and each gives its share of them.
        """
        uniforms = uniform(
            self.num_drawn_classes, 1 + self.num_drawn_features, generator=generator, device=torch.device("cpu")
        )
        classes = draw_classes(class_probabilities(self._mean_score().cpu()), uniforms[:, 0]).tolist()
        features, labels, box_targets = [self._last_features.cpu()], [], [torch.zeros(0, 4)]
        for label, row_uniforms in zip(classes, uniforms[:, 1:], strict=True):
            if queue := self._queues.get(label):
                rows = (row_uniforms * queue.num_stored).long()
                features.append(queue.features[rows])
                box_targets.append(queue.box_targets[rows])
                labels += [label] * len(rows)
        device = self._last_features.device
        return (
            own_share(torch.cat(features)).to(device),
            own_share(torch.tensor(labels, dtype=torch.int64)).to(device),
            own_share(torch.cat(box_targets)).to(device),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The stored rows by name; tensors are shared, not copied."""
        state: dict[str, Tensor] = {}
        for label, queue in self._queues.items():
            state[f"{label}.features"] = queue.features
            state[f"{label}.box_targets"] = queue.box_targets
            state[f"{label}.num_written"] = torch.tensor(queue.num_written)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace everything by what `state_dict` gave."""
        names = [name.removesuffix(".features") for name in state if name.endswith(".features")]
        self._queues = {
            int(name): _Queue(
                features=state[f"{name}.features"].cpu().clone(),
                box_targets=state[f"{name}.box_targets"].cpu().clone(),
                num_written=int(state[f"{name}.num_written"]),
            )
            for name in names
        }
        if self._queues:
            self._last_features = next(iter(self._queues.values())).features[:0].to(self._last_features.device)
