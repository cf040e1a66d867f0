"""What is particular to the detectron2 backend."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from lttune.detectors import ARCHITECTURES, BACKENDS, Detector, DetectorConfig, build_detector
from lttune.errors import MissingExtraError, NonFiniteLossError
from lttune.losses.base import ClassificationLoss
from lttune.types import Target

Batch = tuple[list[Tensor], list[Target]]

needs_detectron2 = pytest.mark.skipif(
    find_spec("detectron2") is None, reason="detectron2 is not installed; see its own installation guide"
)
CONFIG = DetectorConfig(
    name="mask_rcnn_r50_fpn",
    backend="detectron2",
    num_train_proposals=20,
    num_test_proposals=20,
    num_rois=8,
    positive_fraction=0.5,
)


@pytest.fixture(scope="module")
def adapter() -> ModuleType:
    BACKENDS["detectron2"]()
    return importlib.import_module("lttune.detectors.detectron2")


def test_without_detectron2_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.delitem(sys.modules, "lttune.detectors.detectron2", raising=False)
    with pytest.raises(MissingExtraError, match=r"lttune\[detectron2\].*its own installation guide"):
        BACKENDS["detectron2"]()


@pytest.mark.detectron2
@needs_detectron2
def test_the_table_of_names_is_that_of_the_backend(adapter: ModuleType) -> None:
    assert ARCHITECTURES["detectron2"] == tuple(adapter.ARCHITECTURES)


@pytest.mark.detectron2
@needs_detectron2
@pytest.mark.parametrize("name", ARCHITECTURES["detectron2"])
def test_recipes_carry_our_counts(name: str, adapter: ModuleType) -> None:
    config = replace(CONFIG, name=name, positive_iou=0.6, class_agnostic_box=True)
    model = adapter._recipe(config, 5).MODEL
    assert (name.startswith("mask"), 101 if "101" in name else 50) == (model.MASK_ON, model.RESNETS.DEPTH)
    assert (model.ROI_HEADS.NUM_CLASSES, model.ROI_HEADS.BATCH_SIZE_PER_IMAGE) == (5, 8)
    assert (model.ROI_HEADS.POSITIVE_FRACTION, model.ROI_HEADS.IOU_THRESHOLDS) == (0.5, [0.6])
    assert (model.RPN.POST_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TEST) == (20, 20)
    assert model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG
    assert not model.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK
    # Nothing may be frozen that was not given; with given weights the recipe holds.
    assert (model.RESNETS.NORM, model.BACKBONE.FREEZE_AT) == ("BN", 0)
    given = adapter._recipe(replace(config, weights="r50.pth"), 5).MODEL
    assert (given.RESNETS.NORM, given.BACKBONE.FREEZE_AT) == ("FrozenBN", 2)
    assert given.PIXEL_STD == model.PIXEL_STD


@pytest.fixture(scope="module")
def small(adapter: ModuleType) -> Callable[[ClassificationLoss], Detector]:
    """A detector with the given loss; the first call builds it."""
    built: dict[str, Detector] = {}

    def with_loss(loss: ClassificationLoss) -> Detector:
        if not built:
            built["it"] = build_detector(CONFIG, num_classes=5, make_loss=lambda: loss, seed=0)
        built["it"].stages[0].loss = loss
        return built["it"].train()

    return with_loss


@pytest.mark.detectron2
@needs_detectron2
def test_predict_probs_is_our_scores_and_a_column_to_drop(
    small: Callable[[ClassificationLoss], Any], make_loss: Callable[..., ClassificationLoss]
) -> None:
    loss = make_loss("sigmoid_cross_entropy")
    predictor = small(loss).model.roi_heads.box_predictor
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    first, second = predictor.predict_probs((logits, torch.zeros(5, 20)), [range(3), range(2)])
    assert first.shape == (3, 6)
    assert second.shape == (2, 6)
    assert torch.equal(torch.cat([first, second])[:, :5], loss.scores(logits))


@pytest.mark.detectron2
@needs_detectron2
def test_the_loss_sees_instances_counted_over_the_batch(
    batch: Batch, small: Callable[[ClassificationLoss], Any], make_loss: Callable[..., ClassificationLoss]
) -> None:
    loss = make_loss("loce")
    seen: list[tuple[Tensor, Tensor]] = []
    loss.register_forward_hook(
        lambda module, args, kwargs, output: seen.append((args[1], kwargs["instance_ids"])), with_kwargs=True
    )
    terms = small(loss).losses(*batch, generator=torch.Generator().manual_seed(0))
    assert all(term.isfinite() for term in terms.values())
    ((labels, instance_ids),) = seen
    own = {0: 3, 1: 0, 2: 1}  # instance over the batch to its label
    found = instance_ids[instance_ids >= 0].tolist()
    assert set(found) == set(own)
    assert labels[instance_ids >= 0].tolist() == [own[number] for number in found]
    assert (labels[instance_ids == -1] == 5).all()
    assert set(labels[instance_ids == -2].tolist()) <= {0, 1, 3}
    assert loss.augmenter.num_stored == {0: 16, 1: 16, 3: 16}


@pytest.mark.detectron2
@needs_detectron2
def test_images_reach_the_network_as_bgr(
    small: Callable[[ClassificationLoss], Any], make_loss: Callable[..., ClassificationLoss]
) -> None:
    detector = small(make_loss()).eval()
    red = torch.zeros(3, 32, 32, dtype=torch.uint8)
    red[0] = 255
    prepared, _ = detector._features([red])
    expected = (
        torch.tensor([0.0, 0.0, 255.0]) - detector.model.pixel_mean.flatten()
    ) / detector.model.pixel_std.flatten()
    torch.testing.assert_close(prepared.tensor[0, :, 5, 5], expected)


@pytest.mark.detectron2
@needs_detectron2
def test_divergence_is_a_trial_error(
    batch: Batch, small: Callable[[ClassificationLoss], Any], make_loss: Callable[..., ClassificationLoss]
) -> None:
    detector = small(make_loss())
    bias = detector.model.proposal_generator.rpn_head.objectness_logits.bias
    before = bias.detach().clone()
    try:
        with torch.no_grad():
            bias.fill_(float("nan"))
        with pytest.raises(NonFiniteLossError, match=r"lower optim\.lr"):
            detector.losses(*batch, generator=torch.Generator())
    finally:
        with torch.no_grad():
            bias.copy_(before)
