"""`tiny_mask_rcnn_fpn` of detectron2's own parts: as wide and deep as torchvision's, for images of about 160 px.

It is what a search on the embedded data runs with `--backend detectron2`: detectron2's anchors, sampling, pooling and
losses, learnt from scratch on two CPU cores within minutes.
"""

from typing import Any

from detectron2.modeling import GeneralizedRCNN, build_proposal_generator, build_roi_heads
from detectron2.modeling.backbone.fpn import FPN
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

from lttune.detectors.base import DetectorConfig
from lttune.detectors.tiny import BLOCKS, BOX_WIDTH, PYRAMID_WIDTH, WIDTHS

NAME = "tiny_mask_rcnn_fpn"
_STAGES = ("res2", "res3", "res4")


def shrink(model: Any, config: DetectorConfig) -> None:
    """Change the keys of `cfg.MODEL` from the model zoo's detector to the tiny one's."""
    model.PIXEL_MEAN, model.PIXEL_STD = [128.0] * 3, [64.0] * 3
    model.RPN.IN_FEATURES = ["p3", "p4"]
    # The head is shared by the levels, so each has as many anchors.
    model.ANCHOR_GENERATOR.SIZES = [[28, 44], [60, 76]]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0]]
    model.RPN.BATCH_SIZE_PER_IMAGE = 64
    model.RPN.IOU_THRESHOLDS = [0.3, 0.6]
    model.RPN.PRE_NMS_TOPK_TRAIN = 2 * config.num_train_proposals
    model.RPN.PRE_NMS_TOPK_TEST = 3 * config.num_test_proposals
    model.ROI_HEADS.IN_FEATURES = ["p2", "p3"]
    model.ROI_BOX_HEAD.FC_DIM = BOX_WIDTH
    model.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = 1
    model.ROI_MASK_HEAD.NUM_CONV = 1
    model.ROI_MASK_HEAD.CONV_DIM = PYRAMID_WIDTH
    model.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO = 1


def build_tiny(cfg: Any) -> GeneralizedRCNN:
    """The model; its backbone has no place in detectron2's configuration."""
    stages, inputs = [], WIDTHS[0]
    for outputs, num_blocks, stride in zip(WIDTHS[1:], BLOCKS, (1, 2, 2), strict=True):
        strides = [stride] + [1] * (num_blocks - 1)
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                num_blocks,
                in_channels=inputs,
                out_channels=outputs,
                stride_per_block=strides,
                norm="BN",
            )
        )
        inputs = outputs
    body = ResNet(BasicStem(out_channels=WIDTHS[0], norm="BN"), stages, out_features=list(_STAGES))
    backbone = FPN(body, list(_STAGES), PYRAMID_WIDTH, norm="BN")
    shape = backbone.output_shape()
    return GeneralizedRCNN(
        backbone=backbone,
        proposal_generator=build_proposal_generator(cfg, shape),
        roi_heads=build_roi_heads(cfg, shape),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        input_format=cfg.INPUT.FORMAT,
    )
