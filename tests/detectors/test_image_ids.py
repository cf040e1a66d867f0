"""Every detector tells its loss which image a row belongs to."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lttune.detectors import DetectorConfig, build_detector
from lttune.detectors.rois import image_numbers
from lttune.losses.base import ClassificationLoss
from lttune.types import Target


def test_rows_are_numbered_image_by_image() -> None:
    numbers = image_numbers([2, 0, 3], device=torch.device("cpu"))
    assert numbers.tolist() == [0, 0, 2, 2, 2]
    assert numbers.dtype == torch.int64
    assert image_numbers([], device=torch.device("cpu")).tolist() == []


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="torchvision"),
        pytest.param(
            {"name": "faster_rcnn_r50_fpn", "backend": "detectron2"},
            id="detectron2",
            marks=[
                pytest.mark.detectron2,
                pytest.mark.skipif(
                    importlib.util.find_spec("detectron2") is None, reason="detectron2 is not installed"
                ),
            ],
        ),
    ],
)
def test_the_loss_sees_the_image_of_each_row(
    batch: tuple[list[Tensor], list[Target]],
    tiny: DetectorConfig,
    make_loss: Callable[..., ClassificationLoss],
    changes: dict[str, str],
) -> None:
    detector = build_detector(replace(tiny, **changes), num_classes=5, make_loss=lambda: make_loss("loce"), seed=0)
    seen: list[dict[str, Tensor]] = []
    detector.stages[0].loss.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs), with_kwargs=True
    )
    detector.losses(*batch, generator=torch.Generator().manual_seed(0))
    ((image_ids, instance_ids),) = [(own["image_ids"], own["instance_ids"]) for own in seen]
    assert image_ids.dtype == torch.int64
    # Instances 0 and 1 lie in the first image, 2 in the second.
    assert set(zip(instance_ids.tolist(), image_ids.tolist(), strict=True)) == {
        (0, 0),
        (1, 0),
        (2, 1),
        (-1, 0),
        (-1, 1),
        (-2, -1),
    }
