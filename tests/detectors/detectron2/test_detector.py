"""What is particular to the detectron2 backend: its import, what its losses see, pixels and normalisations."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lttune.detectors import ARCHITECTURES, BACKENDS, Detector, DetectorConfig, build_detector
from lttune.detectors.base import NO_AREA
from lttune.errors import InputError, MissingExtraError, NonFiniteLossError
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


@pytest.mark.detectron2
@needs_detectron2
def test_mmdetections_recipe_trains_scale_and_shift_and_keeps_statistics(
    adapter: ModuleType, batch: Batch, make_loss: Callable[..., ClassificationLoss]
) -> None:
    config = replace(CONFIG, name="faster_rcnn_r50_fpn", recipe="mmdet", weights="given")
    detector = adapter.Detectron2Detector(config, num_classes=5, make_loss=make_loss).train()
    detector.freeze_except(detector.parts)
    body = detector.model.backbone.bottom_up
    norms = {name: module for name, module in body.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {name.split(".")[0] for name in norms} == {"res3", "res4", "res5"}
    assert not any(norm.training for norm in norms.values())
    assert all(norm.weight.requires_grad and norm.bias.requires_grad for norm in norms.values())
    assert not any(value.requires_grad for value in [*body.stem.parameters(), *body.res2.parameters()])
    before = {name: value.clone() for name, value in body.named_buffers()}
    losses = detector.losses(*batch, generator=torch.Generator())
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in body.named_buffers())
    assert all(norm.weight.grad is not None for norm in norms.values())


@pytest.mark.detectron2
@needs_detectron2
def test_detectron2s_recipe_freezes_the_normalisations(
    adapter: ModuleType, make_loss: Callable[..., ClassificationLoss]
) -> None:
    config = replace(CONFIG, name="faster_rcnn_r50_fpn", recipe="d2", weights="given")
    detector = adapter.Detectron2Detector(config, num_classes=5, make_loss=make_loss)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in detector.modules())


@pytest.mark.detectron2
@needs_detectron2
def test_images_reach_mmdetections_network_as_rgb(
    adapter: ModuleType, make_loss: Callable[..., ClassificationLoss]
) -> None:
    config = replace(CONFIG, name="faster_rcnn_r50_fpn", recipe="mmdet")
    detector = adapter.Detectron2Detector(config, num_classes=5, make_loss=make_loss).eval()
    red = torch.zeros(3, 32, 32, dtype=torch.uint8)
    red[0] = 255
    prepared, _ = detector._features([red])
    expected = torch.tensor([(255 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375])
    torch.testing.assert_close(prepared.tensor[0, :, 5, 5], expected)


@pytest.mark.detectron2
@needs_detectron2
def test_legacy_pooling_takes_a_pixel_more_and_two_samples(adapter: ModuleType) -> None:
    heads = importlib.import_module("lttune.detectors.detectron2.heads")
    poolers = importlib.import_module("detectron2.modeling.poolers")
    boxes = importlib.import_module("detectron2.structures").Boxes
    ramp = torch.arange(32.0).expand(1, 1, 32, 32).contiguous()
    pooler = heads.WidePooler(poolers.ROIPooler(1, (0.25,), 2, "ROIAlign"))
    found = pooler([ramp], [boxes(torch.tensor([[8.0, 8.0, 23.0, 23.0]]))])
    # From 2 to 6 on the map; the two samples lie at 3 and 5, whose values the ramp has there, since pixel 0 is at 0.
    assert found.item() == pytest.approx(4.0)


@pytest.mark.detectron2
@needs_detectron2
def test_a_cascade_keeps_no_memory(adapter: ModuleType, make_loss: Callable[..., ClassificationLoss]) -> None:
    config = replace(CONFIG, name="cascade_rcnn_r50_fpn", class_agnostic_box=True)
    with pytest.raises(InputError, match=r"none is published for a cascade.*set loss\.has_memory: false"):
        adapter.Detectron2Detector(config, num_classes=5, make_loss=lambda: make_loss("loce"))


@pytest.mark.detectron2
@needs_detectron2
def test_boxes_that_a_stage_moves_to_nothing_do_not_train_the_next(
    adapter: ModuleType, batch: Batch, make_loss: Callable[..., ClassificationLoss]
) -> None:
    images, targets = batch
    config = replace(CONFIG, name="cascade_rcnn_r50_fpn", class_agnostic_box=True)
    detector = adapter.Detectron2Detector(config, num_classes=5, make_loss=make_loss).train()
    with torch.no_grad():
        detector.parts["box_regressor"][0].bias[2] = -1000.0  # log of the width
    losses = detector.losses(images, targets, generator=torch.Generator())
    assert losses["loss_cls_stage0"] > 0
    for stage in (1, 2):
        assert losses[f"loss_cls_stage{stage}"] == losses[f"loss_box_stage{stage}"] == 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in detector.parameters())
    detector.eval()
    for rois in detector.train_rois(images, targets):
        assert (rois.labels >= 0).all()
        assert all((own.labels == NO_AREA).all() and (own.instance_ids == -1).all() for own in rois.later)
    assert all(found.boxes.isfinite().all() for found in detector.detect(images, max_dets=3))
