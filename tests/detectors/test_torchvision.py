"""What is particular to the torchvision backend."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import FrozenBatchNorm2d, box_iou

from lttune.detectors import DetectorConfig, build_detector
from lttune.detectors.scopes import seeded
from lttune.detectors.torchvision import TorchvisionDetector, _mask_targets, _Rois
from lttune.detectors.trunks import ARCHITECTURES
from lttune.losses.base import ClassificationLoss
from lttune.types import Target

Batch = tuple[list[Tensor], list[Target]]
MakeLoss = Callable[..., ClassificationLoss]


def test_boxes_stay_in_their_own_image_not_in_the_padded_batch(
    batch: Batch, tiny: DetectorConfig, make_loss: MakeLoss
) -> None:
    images, _ = batch
    detector = build_detector(tiny, num_classes=5, make_loss=make_loss, seed=0).eval()
    for image, rois in zip(images, detector.test_rois(images), strict=True):
        height, width = image.shape[-2:]
        assert len(rois.boxes)
        assert rois.boxes.min() >= 0
        assert (rois.boxes <= torch.tensor([width, height, width, height])).all()


def test_box_loss_is_smooth_l1_of_the_positives_own_category(tiny: DetectorConfig, make_loss: MakeLoss) -> None:
    config = replace(tiny, class_agnostic_box=False)
    detector = build_detector(config, num_classes=5, make_loss=make_loss, seed=0)
    features = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([5, 2, 5, 4])
    goals = torch.tensor([[0.5, 0.0, -0.5, 1.0], [0.0, 0.1, 0.0, 0.0]])
    deltas = F.linear(features, detector.box_regressor.weight, detector.box_regressor.bias)
    distance = torch.stack([deltas[1, 8:12] - goals[0], deltas[3, 16:20] - goals[1]]).abs()
    per_value = torch.where(distance < 1 / 9, 4.5 * distance**2, distance - 1 / 18)
    torch.testing.assert_close(detector.box_loss(features, labels, goals), per_value.sum() / 4)


def test_training_on_one_batch_finds_its_objects_and_their_masks(
    batch: Batch, tiny: DetectorConfig, make_loss: MakeLoss
) -> None:
    images, targets = batch
    detector = build_detector(tiny, num_classes=5, make_loss=make_loss, seed=0)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5  # so few steps would not move the statistics otherwise
    for _ in range(30):
        loss = sum(detector.losses(images, targets, generator=generator).values(), torch.zeros(()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    detector.eval()
    for found, target in zip(detector.detect(images, max_dets=4), targets, strict=True):
        for label, box in zip(target.labels, target.boxes, strict=True):
            best = found.labels.tolist().index(int(label))
            assert box_iou(found.boxes[best : best + 1], box[None]) > 0.5
            assert found.masks is not None
            assert (found.masks[best] > 0.5).float().mean() > 0.7  # the objects fill their boxes


def test_masks_of_instances_are_cropped_to_the_roi(batch: Batch, tiny: DetectorConfig, make_loss: MakeLoss) -> None:
    _, targets = batch
    x1, y1, x2, y2 = targets[0].boxes[1].tolist()
    # The right half of the RoI lies on the instance, the left half beside it.
    boxes = torch.tensor([[x1 - (x2 - x1), y1, x2, y2]])
    rois = _Rois(boxes=boxes, labels=torch.tensor([0]), instance_ids=torch.tensor([1]))
    for samples in (0, 1):
        (goal,) = _mask_targets(targets[0], rois, size=28, samples=samples)
        assert goal[1:-1, :13].max() < 0.001
        assert goal[1:-1, 15:-1].min() > 0.999


def test_a_resnet_with_given_weights_keeps_its_statistics_and_first_stages(make_loss: MakeLoss, tmp_path: Path) -> None:
    given = {"conv1.weight": torch.ones(64, 3, 7, 7), "layer4.2.conv3.weight": torch.ones(2048, 512, 1, 1)}
    torch.save(given, tmp_path / "resnet50.pth")
    config = DetectorConfig(name="faster_rcnn_r50_fpn", backend="torchvision", weights=str(tmp_path / "resnet50.pth"))
    detector = build_detector(config, num_classes=5, make_loss=make_loss, seed=0)
    loaded = dict(detector.backbone.body.named_parameters())
    assert all(torch.equal(loaded[name], value) for name, value in given.items())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in detector.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in detector.modules())
    detector.freeze_except(detector.parts)
    fixed = {name.split(".")[0] for name, value in loaded.items() if not value.requires_grad}
    trained = {name.split(".")[0] for name, value in loaded.items() if value.requires_grad}
    assert fixed == {"conv1", "layer1"}
    assert trained == {"layer2", "layer3", "layer4"}
    assert not detector.has_masks


def test_mmdetections_recipe_trains_scale_and_shift_and_keeps_statistics(make_loss: MakeLoss) -> None:
    config = DetectorConfig(name="faster_rcnn_r50_fpn", backend="torchvision", recipe="mmdet", weights="given")
    detector = TorchvisionDetector(config, num_classes=5, make_loss=make_loss).train()
    detector.freeze_except(detector.parts)
    norms = {name: m for name, m in detector.backbone.body.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert not any(norm.training for norm in norms.values())
    trained = {name.split(".")[0] for name, norm in norms.items() if norm.weight.requires_grad}
    fixed = {name.split(".")[0] for name, norm in norms.items() if not norm.weight.requires_grad}
    assert (trained, fixed) == ({"layer2", "layer3", "layer4"}, {"bn1", "layer1"})


@pytest.mark.parametrize(("beta", "expected"), [(None, 1 / 9), (0.0, 0.0), (1.0, 1.0)])
def test_the_rpns_box_loss_turns_straight_where_it_is_asked_to(beta: float | None, expected: float) -> None:
    rpn = ARCHITECTURES["tiny_mask_rcnn_fpn"](DetectorConfig(name="tiny_mask_rcnn_fpn", rpn_loss_beta=beta), 5).rpn
    generator = torch.Generator().manual_seed(0)
    objectness, deltas, goals = (torch.randn(40, n, generator=generator) for n in (1, 4, 4))
    labels = [torch.tensor([1.0] * 6 + [0.0] * 10 + [-1.0] * 4), torch.tensor([0.0] * 20)]
    arguments = (objectness, deltas, labels, list(goals.split(20)))
    with seeded(0):
        loss, box_loss = rpn.compute_loss(*arguments)
    straight = (deltas[:6] - goals[:6]).abs()
    square = straight**2 / (2 * expected) if expected else straight
    own = torch.where(straight < expected, square, straight - expected / 2)
    torch.testing.assert_close(box_loss, own.sum() / 36)
    if beta is None:
        with seeded(0):
            assert RegionProposalNetwork.compute_loss(rpn, *arguments) == (loss, box_loss)


@pytest.mark.parametrize(
    "name", ["mask_rcnn_r101_fpn", "faster_rcnn_r101_fpn", "mask_rcnn_x101_64x4d_fpn", "faster_rcnn_x101_64x4d_fpn"]
)
def test_deeper_backbones_are_built(name: str, make_loss: MakeLoss) -> None:
    with torch.device("meta"):
        trunk = ARCHITECTURES[name](DetectorConfig(name=name), 5)
    assert len(trunk.backbone.body.layer3) == 23
    assert trunk.backbone.body.layer1[0].conv2.groups == (64 if "x101" in name else 1)
    assert (trunk.mask_head is not None) == name.startswith("mask")
