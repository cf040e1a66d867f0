"""Every architecture of the four methods builds, trains a step and detects, on LVIS v0.5's and v1's categories."""

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from lttune.detectors import ARCHITECTURES, DetectorConfig, build_detector
from lttune.losses import build_loss
from lttune.types import CategoryFrequencies, Target

pytestmark = [
    pytest.mark.slow,
    pytest.mark.detectron2,
    pytest.mark.skipif(
        find_spec("detectron2") is None, reason="detectron2 is not installed; see its own installation guide"
    ),
]
Batch = tuple[list[Tensor], list[Target]]


@pytest.mark.parametrize("num_classes", [1203, 1230])
@pytest.mark.parametrize("name", ARCHITECTURES["detectron2"])
def test_it_trains_a_step_and_detects(name: str, num_classes: int, batch: Batch) -> None:
    config = DetectorConfig(
        name=name,
        backend="detectron2",
        recipe="backend" if name.startswith("tiny_") else "mmdet",
        class_agnostic_box="cascade" in name,
        num_train_proposals=40,
        num_test_proposals=20,
        num_rois=32,
        score_threshold=0.0,
    )
    counts = torch.logspace(3, 0, num_classes).long()
    frequencies = CategoryFrequencies(
        image_count=counts, instance_count=counts, group=(counts > 10).long() + (counts > 100).long()
    )
    generator = torch.Generator().manual_seed(0)
    make: Callable[[], object] = lambda: build_loss(  # noqa: E731 - as the engine makes them
        "acsl", num_classes=num_classes, frequencies=frequencies, generator=generator
    )
    detector = build_detector(config, num_classes=num_classes, make_loss=make, seed=0).train()  # type: ignore[arg-type]
    optimiser = torch.optim.SGD(detector.parameters(), lr=1e-4)
    losses = detector.losses(*batch, generator=generator)
    terms = {key.partition("_stage")[0] for key in losses}
    of_masks = {"loss_mask"} if "mask" in name else set()
    assert terms == {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box"} | of_masks
    assert len([key for key in losses if key.startswith("loss_cls")]) == (3 if "cascade" in name else 1)
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters())
    before = [value.detach().clone() for value in detector.parts["classifier"].parameters()]
    optimiser.step()
    after = list(detector.parts["classifier"].parameters())
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    detector.eval()
    for found in detector.detect(batch[0], max_dets=5):
        assert len(found.scores) == 5
        assert found.labels.max() < num_classes
        assert (found.masks is not None) == ("mask" in name)
