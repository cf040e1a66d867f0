"""Architectures and recipes as detectron2's configuration."""

from dataclasses import replace
from importlib.util import find_spec

import pytest

from lttune.detectors import ARCHITECTURES, BACKENDS, DetectorConfig

pytestmark = [
    pytest.mark.detectron2,
    pytest.mark.skipif(
        find_spec("detectron2") is None, reason="detectron2 is not installed; see its own installation guide"
    ),
]
CONFIG = DetectorConfig(
    name="mask_rcnn_r50_fpn",
    backend="detectron2",
    num_train_proposals=20,
    num_test_proposals=20,
    num_rois=8,
    positive_fraction=0.5,
)


def model_of(config: DetectorConfig):  # type: ignore[no-untyped-def]
    """The `MODEL` node."""
    BACKENDS["detectron2"]()
    from lttune.detectors.detectron2.recipe import build_cfg

    return build_cfg(config, 5).MODEL


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES["detectron2"] if not name.startswith("tiny_")])
def test_the_zoos_recipe_carries_our_counts(name: str) -> None:
    config = replace(CONFIG, name=name, positive_iou=0.6, class_agnostic_box=True)
    model = model_of(config)
    assert ("mask" in name, 50 if "r50" in name else 101) == (model.MASK_ON, model.RESNETS.DEPTH)
    assert ((64, 4) if "x101" in name else (1, 64)) == (model.RESNETS.NUM_GROUPS, model.RESNETS.WIDTH_PER_GROUP)
    assert (model.ROI_HEADS.NUM_CLASSES, model.ROI_HEADS.BATCH_SIZE_PER_IMAGE) == (5, 8)
    assert (model.ROI_HEADS.POSITIVE_FRACTION, model.ROI_HEADS.IOU_THRESHOLDS) == (0.5, [0.6])
    assert (model.RPN.POST_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TEST) == (20, 20)
    assert model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG
    assert not model.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK
    # Nothing may be frozen that was not given; with given weights the recipe holds.
    assert (model.RESNETS.NORM, model.BACKBONE.FREEZE_AT) == ("BN", 0)
    given = model_of(replace(config, weights="r50.pth"))
    assert (given.RESNETS.NORM, given.BACKBONE.FREEZE_AT) == ("FrozenBN", 2)
    assert given.PIXEL_STD == model.PIXEL_STD
    if name.startswith("cascade"):
        assert (model.ROI_HEADS.NAME, tuple(model.ROI_BOX_CASCADE_HEAD.IOUS)) == ("CascadeROIHeads", (0.6, 0.6, 0.7))


@pytest.mark.parametrize("name", ["mask_rcnn_r50_fpn", "faster_rcnn_x101_64x4d_fpn"])
def test_detectron2s_recipe_is_the_backends_own(name: str) -> None:
    assert model_of(replace(CONFIG, name=name, recipe="d2")) == model_of(replace(CONFIG, name=name))


@pytest.mark.parametrize("name", ["mask_rcnn_r50_fpn", "faster_rcnn_x101_64x4d_fpn"])
def test_mmdetections_recipe(name: str) -> None:
    model = model_of(replace(CONFIG, name=name, recipe="mmdet", weights="given.pth"))
    assert model.PIXEL_MEAN == [123.675, 116.28, 103.53]
    assert model.PIXEL_STD == [58.395, 57.12, 57.375]
    assert not model.RESNETS.STRIDE_IN_1X1
    assert (model.RESNETS.NORM, model.BACKBONE.FREEZE_AT) == ("BN", 2)


def test_pooling_and_box_losses() -> None:
    plain = model_of(CONFIG)
    assert (plain.ROI_BOX_HEAD.SMOOTH_L1_BETA, plain.RPN.SMOOTH_L1_BETA) == (0.0, 0.0)
    assert plain == model_of(replace(CONFIG, roi_align="aligned", box_loss_beta=0.0, rpn_loss_beta=0.0))
    legacy = model_of(replace(CONFIG, roi_align="legacy", box_loss_beta=1.0, rpn_loss_beta=1 / 9))
    for head in (legacy.ROI_BOX_HEAD, legacy.ROI_MASK_HEAD):
        assert (head.POOLER_TYPE, head.POOLER_SAMPLING_RATIO) == ("ROIAlign", 2)
    assert (legacy.ROI_BOX_HEAD.SMOOTH_L1_BETA, legacy.RPN.SMOOTH_L1_BETA) == (1.0, 1 / 9)


def test_stages_of_a_cascade_count_as_each_code_has_it() -> None:
    from lttune.detectors.detectron2 import recipe

    cascade = replace(CONFIG, name="cascade_rcnn_r50_fpn", class_agnostic_box=True)
    mmdet = replace(cascade, recipe="mmdet")
    assert recipe.stage_weights(CONFIG) == (1.0,)
    assert (recipe.stage_weights(cascade), recipe.gradient_scale(cascade)) == ((1.0, 1.0, 1.0), 1 / 3)
    assert (recipe.stage_weights(mmdet), recipe.gradient_scale(mmdet)) == ((1.0, 0.5, 0.25), 1.0)
    assert recipe.stage_ious(cascade) == (0.5, 0.6, 0.7)
    scales = model_of(mmdet).ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS
    for own, stds in zip(scales, ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067)), strict=True):
        assert own == pytest.approx((1 / stds[0], 1 / stds[0], 1 / stds[1], 1 / stds[1]))
    assert model_of(cascade).ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS[2] == (30.0, 30.0, 15.0, 15.0)
