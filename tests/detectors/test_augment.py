"""Rows of a feature memory in a training step."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lttune.detectors import DetectorConfig, build_detector
from lttune.detectors.augment import augmenting_rows
from lttune.losses.base import ClassificationLoss
from lttune.types import Target

Batch = tuple[list[Tensor], list[Target]]


class TwoCopies:
    """Asks for each ground-truth box twice, the second one shifted; gives back what it was given."""

    def boxes(
        self, targets: Sequence[Target], image_sizes: Sequence[tuple[int, int]], generator: torch.Generator
    ) -> list[Tensor]:
        assert list(image_sizes) == [(96, 128), (80, 64)]
        shift = torch.tensor([4.0, 0.0, 4.0, 0.0])
        return [torch.stack([t.boxes, t.boxes + shift], dim=1).flatten(0, 1) for t in targets]

    def update(self, features: Tensor, labels: Tensor, box_targets: Tensor) -> None:
        self.stored = (features, labels, box_targets)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        return self.stored


def augment(targets: Sequence[Target]) -> tuple[Tensor, Tensor, Tensor]:
    return augmenting_rows(
        TwoCopies(),
        targets,
        [(96, 128), (80, 64)],
        pool=torch.cat,
        encode=lambda goals, boxes: goals - boxes,
        generator=torch.Generator(),
    )


def test_each_copy_is_stored_with_the_label_and_target_of_its_instance(batch: Batch) -> None:
    _, targets = batch
    features, labels, box_targets = augment(targets)
    assert labels.tolist() == [3, 3, 0, 0, 1, 1]
    expected = [[0.0] * 4, [-4.0, 0.0, -4.0, 0.0]] * 3
    assert box_targets.tolist() == expected
    assert torch.equal(features + box_targets, torch.cat([t.boxes for t in targets]).repeat_interleave(2, dim=0))


def test_copies_without_area_and_images_without_instances_are_left_out(batch: Batch) -> None:
    _, targets = batch
    flat = targets[0].boxes.clone()
    flat[0, 2] = flat[0, 0]
    empty = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    _, labels, _ = augment([Target(boxes=flat, labels=targets[0].labels), empty])
    assert labels.tolist() == [0, 0]


def test_a_step_trains_on_the_memory_of_loce(
    batch: Batch, tiny: DetectorConfig, make_loss: Callable[..., ClassificationLoss]
) -> None:
    detector = build_detector(tiny, num_classes=5, make_loss=lambda: make_loss("loce"), seed=0)
    loss = detector.stages[0].loss
    seen = []
    loss.register_forward_hook(
        lambda module, args, kwargs, output: seen.append((args[1], kwargs["instance_ids"])), with_kwargs=True
    )
    terms = detector.losses(*batch, generator=torch.Generator().manual_seed(0))
    assert all(term.isfinite() for term in terms.values())
    # Sixteen jittered boxes of each instance are stored before rows are drawn.
    assert loss.augmenter.num_stored == {0: 16, 1: 16, 3: 16}
    ((labels, instance_ids),) = seen
    memory_labels = labels[instance_ids == -2].tolist()
    assert memory_labels
    assert set(memory_labels) <= {0, 1, 3}
    assert set(instance_ids[labels < 5].tolist()) <= {-2, 0, 1, 2}
    assert set(instance_ids[labels == 5].tolist()) <= {-1}
