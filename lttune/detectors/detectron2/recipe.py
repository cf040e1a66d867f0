"""An architecture and a training recipe as detectron2's configuration, made from the model zoo's for LVIS v1."""

from pathlib import Path
from typing import Any

import detectron2 as installed
from detectron2.config import get_cfg

from lttune.detectors.base import DetectorConfig
from lttune.detectors.detectron2 import tiny

# Relative to the package; importing its `model_zoo` would need pkg_resources, which setuptools no longer has.
_FOLDER = Path("model_zoo", "configs", "LVISv1-InstanceSegmentation")
_BACKBONES = {
    "r50": "mask_rcnn_R_50_FPN_1x.yaml",
    "r101": "mask_rcnn_R_101_FPN_1x.yaml",
    "x101_64x4d": "mask_rcnn_X_101_32x8d_FPN_1x.yaml",
}
# Name -> file.
ARCHITECTURES: dict[str, str] = {tiny.NAME: _BACKBONES["r50"]} | {
    f"{kind}_{backbone}_fpn": file
    for kind in ("mask_rcnn", "faster_rcnn", "cascade_mask_rcnn", "cascade_rcnn")
    for backbone, file in _BACKBONES.items()
}

# IoU from which each stage of a cascade takes a box for positive; the first is the configuration's.
CASCADE_IOUS = (0.5, 0.6, 0.7)
# What mmdetection multiplies the losses of the stages by. detectron2 sums them and lets a third of the gradient through
# to the feature maps.
_MMDET_STAGE_WEIGHTS = (1.0, 0.5, 0.25)
# Scales of the box deltas: one over mmdetection's `target_stds`. detectron2 rounds the last stage's to 30 and 15.
_MMDET_BOX_SCALES = tuple(
    (1 / centre, 1 / centre, 1 / size, 1 / size) for centre, size in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
)
# torchvision's ImageNet weights, in mmdetection's recipe: red, green, blue.
_RGB_MEAN, _RGB_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def is_rgb(config: DetectorConfig) -> bool:
    """Whether the network sees red first; detectron2's own weights see blue first."""
    return config.recipe == "mmdet"


def stage_weights(config: DetectorConfig) -> tuple[float, ...]:
    """What the losses of each classification stage count."""
    if not config.is_cascade:
        return (1.0,)
    return _MMDET_STAGE_WEIGHTS if config.recipe == "mmdet" else (1.0,) * len(CASCADE_IOUS)


def gradient_scale(config: DetectorConfig) -> float:
    """The share of the box heads' gradient that reaches the feature maps."""
    return 1 / len(CASCADE_IOUS) if config.is_cascade and config.recipe != "mmdet" else 1.0


def stage_ious(config: DetectorConfig) -> tuple[float, ...]:
    """IoU from which a box is positive, by classification stage."""
    return (config.positive_iou, *CASCADE_IOUS[1:]) if config.is_cascade else (config.positive_iou,)


def build_cfg(config: DetectorConfig, num_classes: int) -> Any:
    """detectron2's configuration of a detector; without given weights nothing of it is frozen.

    Args:
        config: architecture, recipe and RoI rules.
        num_classes: C.
    """
    cfg = get_cfg()
    cfg.merge_from_file(str(Path(installed.__file__).parent / _FOLDER / ARCHITECTURES[config.name]))
    model = cfg.MODEL
    model.DEVICE = "cpu"
    if config.name == tiny.NAME:
        tiny.shrink(model, config)
    model.MASK_ON = config.has_masks
    if "64x4d" in config.name:
        model.RESNETS.NUM_GROUPS, model.RESNETS.WIDTH_PER_GROUP = 64, 4
    model.ROI_HEADS.NUM_CLASSES = num_classes
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = config.num_rois
    model.ROI_HEADS.POSITIVE_FRACTION = config.positive_fraction
    model.ROI_HEADS.IOU_THRESHOLDS = [config.positive_iou]
    model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = config.class_agnostic_box
    model.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = config.class_agnostic_mask
    model.RPN.PRE_NMS_TOPK_TRAIN = max(model.RPN.PRE_NMS_TOPK_TRAIN, config.num_train_proposals)
    model.RPN.PRE_NMS_TOPK_TEST = max(model.RPN.PRE_NMS_TOPK_TEST, config.num_test_proposals)
    model.RPN.POST_NMS_TOPK_TRAIN = config.num_train_proposals
    model.RPN.POST_NMS_TOPK_TEST = config.num_test_proposals
    if config.box_loss_beta is not None:
        model.ROI_BOX_HEAD.SMOOTH_L1_BETA = config.box_loss_beta
    if config.rpn_loss_beta is not None:
        model.RPN.SMOOTH_L1_BETA = config.rpn_loss_beta
    if config.roi_align == "legacy":
        for head in (model.ROI_BOX_HEAD, model.ROI_MASK_HEAD):
            head.POOLER_TYPE, head.POOLER_SAMPLING_RATIO = "ROIAlign", 2
    if config.is_cascade:
        model.ROI_HEADS.NAME = "CascadeROIHeads"
        model.ROI_BOX_CASCADE_HEAD.IOUS = stage_ious(config)
    if config.recipe == "mmdet":
        model.PIXEL_MEAN, model.PIXEL_STD = _RGB_MEAN, _RGB_STD
        model.RESNETS.STRIDE_IN_1X1 = False
        model.RESNETS.NORM = "BN"  # its statistics are kept by the detector, scale and shift train
        model.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS = _MMDET_BOX_SCALES
    if config.weights is None:
        model.RESNETS.NORM = "BN"
        model.BACKBONE.FREEZE_AT = 0
    return cfg
