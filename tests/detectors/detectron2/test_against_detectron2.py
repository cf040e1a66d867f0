"""Same weights, same images, softmax cross-entropy: detectron2's own losses, gradients and detections."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from lttune.detectors import Detector, DetectorConfig, build_detector
from lttune.detectors.postprocess import select_detections
from lttune.detectors.scopes import draw_seed, seeded
from lttune.losses.base import ClassificationLoss
from lttune.types import Target

pytestmark = [
    pytest.mark.detectron2,
    pytest.mark.skipif(
        find_spec("detectron2") is None, reason="detectron2 is not installed; see its own installation guide"
    ),
]
CONFIG = DetectorConfig(
    name="mask_rcnn_r50_fpn",
    backend="detectron2",
    num_train_proposals=60,
    num_test_proposals=30,
    num_rois=24,
    positive_fraction=0.5,
    score_threshold=0.05,
)
CASCADE = replace(CONFIG, name="cascade_mask_rcnn_r50_fpn", class_agnostic_box=True)
NAMES = {"loss_rpn_loc": "loss_rpn_box", "loss_box_reg": "loss_box"}
MAX_DETS = 12
Pair = tuple[Detector, Any]
Batch = tuple[list[Tensor], list[Target]]


@pytest.fixture(scope="module", params=[CONFIG, CASCADE], ids=lambda config: config.name)
def config(request: pytest.FixtureRequest) -> DetectorConfig:
    own: DetectorConfig = request.param
    return own


@pytest.fixture(scope="module")
def built(config: DetectorConfig) -> dict[str, Pair]:
    """Holds our detector and detectron2's model, once they are built."""
    return {}


@pytest.fixture
def pair(
    config: DetectorConfig, built: dict[str, Pair], batch: Batch, make_loss: Callable[..., ClassificationLoss]
) -> Pair:
    """Our detector and detectron2's own model with the same weights, whose statistics have seen the batch."""
    if not built:
        detector = build_detector(config, num_classes=5, make_loss=make_loss, seed=0).train()
        detector.losses(*batch, generator=torch.Generator())
        from detectron2.modeling import build_model

        from lttune.detectors.detectron2.recipe import build_cfg

        cfg = build_cfg(config, 5)
        cfg.TEST.DETECTIONS_PER_IMAGE = MAX_DETS
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = config.score_threshold
        own = build_model(cfg)
        state = {
            name.removeprefix("model.").replace("stage.classifier", "cls_score"): value
            for name, value in detector.state_dict().items()
        }
        own.load_state_dict(state)
        built["pair"] = (detector, own)
    detector, own = built["pair"]
    detector.zero_grad()
    own.zero_grad()
    return detector, own


def inputs(batch: Batch) -> list[dict[str, Any]]:
    """The batch as detectron2 takes it: blue first."""
    from detectron2.structures import BitMasks, Boxes, Instances

    dicts = []
    for image, target in zip(*batch, strict=True):
        instances = Instances(tuple(image.shape[-2:]), gt_boxes=Boxes(target.boxes), gt_classes=target.labels)
        instances.gt_masks = BitMasks(target.masks)
        dicts.append({"image": image.flip(0), "instances": instances})
    return dicts


def test_losses_and_gradients_are_detectron2s(pair: Pair, batch: Batch) -> None:
    from detectron2.utils.events import EventStorage

    detector, own = pair
    detector.train()
    own.train()
    # Steps in training mode move the statistics that the other one's forward does not use.
    ours = detector.losses(*batch, generator=torch.Generator().manual_seed(3))
    with seeded(draw_seed(torch.Generator().manual_seed(3))), EventStorage():
        theirs = own(inputs(batch))
    renamed = {}
    for name, value in theirs.items():
        plain, _, stage = name.partition("_stage")
        renamed[NAMES.get(plain, plain) + (f"_stage{stage}" if stage else "")] = value
    assert ours.keys() == renamed.keys()
    assert len(ours) == (9 if detector.config.is_cascade else 5)
    for name, value in ours.items():
        assert torch.equal(value, renamed[name]), name
    torch.stack(list(ours.values())).sum().backward()
    torch.stack([renamed[name] for name in ours]).sum().backward()
    for part in ("backbone", "proposal_generator", "roi_heads.box_head", "roi_heads.mask_head"):
        pairs = zip(detector.model.get_submodule(part).parameters(), own.get_submodule(part).parameters(), strict=True)
        for first, second in pairs:
            torch.testing.assert_close(first.grad, second.grad, rtol=1e-4, atol=1e-6)


def test_detections_are_detectron2s(pair: Pair, batch: Batch) -> None:
    detector, own = pair
    detector.eval()
    own.eval()
    for image, dicts in zip(batch[0], inputs(batch), strict=True):
        (theirs,) = own.inference([dicts], do_postprocess=False)
        assert len(theirs) > 0
        (ours,) = detector.detect([image], max_dets=MAX_DETS)
        if not detector.config.is_cascade:
            assert torch.equal(ours.scores, theirs.scores)
            assert torch.equal(ours.labels, theirs.pred_classes)
            assert torch.equal(ours.boxes, theirs.pred_boxes.tensor)
            assert torch.equal(ours.masks, theirs.pred_masks[:, 0])
            continue
        # detectron2 averages probabilities, we average logits; by its rule our boxes and features give its detections.
        (rois,) = detector.test_rois([image])
        probabilities = [
            stage.loss.scores(stage.classifier(features))
            for stage, features in zip(detector.stages, (rois.features, *rois.later), strict=True)
        ]
        rows, labels, scores = select_detections(
            rois.boxes,
            sum(probabilities) * (1 / 3),
            score_threshold=detector.config.score_threshold,
            nms_iou=detector.config.nms_iou,
            max_dets=MAX_DETS,
        )
        assert torch.equal(scores, theirs.scores)
        assert torch.equal(labels, theirs.pred_classes)
        assert torch.equal(rois.boxes[rows], theirs.pred_boxes.tensor)
        assert not torch.equal(ours.scores[: len(scores)], scores[: len(ours.scores)])
