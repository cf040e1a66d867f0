"""What each architecture of the torchvision backend is made of.

Shape letters: R RoIs of all images, C foreground categories, m mask side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead
from torchvision.ops import FrozenBatchNorm2d

from lttune.detectors.base import DetectorConfig
from lttune.detectors.classifiers import NormedConv2d, own_channel
from lttune.detectors.pooling import AlignPool, BilinearPool
from lttune.detectors.tiny import (
    BOX_WIDTH,
    MASK_WIDTH,
    TinyBackbone,
    TinyBoxHead,
    TinyMaskLayers,
    TinyRpnHead,
    quads_to_pixels,
)

SMOOTH_L1_BETA = 1 / 9  # of torchvision's detectors, for proposals and for boxes


class MaskHead(nn.Module):
    """Layers over pooled maps and a 1x1 predictor with one output per category, or a single one for all.

    Args:
        layers: pooled maps (R, c, h, w) to features (R, width, h', w').
        width: of these features.
        config: whether the predictor is class-agnostic or normed.
        num_classes: C.
        arrange: puts logits (R, h', w') into the order of pixels (R, m, m) where they are not.
    """

    def __init__(
        self,
        layers: nn.Module,
        width: int,
        config: DetectorConfig,
        *,
        num_classes: int,
        arrange: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.arrange = arrange
        self.is_class_agnostic = config.class_agnostic_mask
        num_masks = 1 if self.is_class_agnostic else num_classes
        if config.normed_mask:
            self.predictor: nn.Conv2d = NormedConv2d(width, num_masks, temperature=config.temperature)
        else:
            self.predictor = nn.Conv2d(width, num_masks, 1)
            nn.init.kaiming_normal_(self.predictor.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Logits (R, m, m) of each row's own category."""
        channels = None if self.is_class_agnostic else labels
        logits = own_channel(self.predictor, self.layers(pooled), channels)
        return logits if self.arrange is None else self.arrange(logits)


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """What differs between the architectures: everything but classifier and box regressor."""

    backbone: nn.Module
    rpn: nn.Module
    rpn_levels: tuple[str, ...]
    box_pool: nn.Module
    box_head: nn.Module
    box_width: int
    mask_pool: nn.Module | None
    mask_head: MaskHead | None
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    mask_target_samples: int  # per bin and axis, 0 for as many as there are pixels
    steady: tuple[nn.Module, ...] = ()  # normalisations, see `Detector`


class Rpn(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's region proposal network with a smooth L1 of its boxes that turns straight at `loss_beta`."""

    def __init__(self, *args: Any, loss_beta: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.loss_beta = loss_beta

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        positive, negative = (torch.nonzero(torch.cat(mask))[:, 0] for mask in self.fg_bg_sampler(labels))
        drawn = torch.cat([positive, negative])
        is_object, goals = torch.cat(labels), torch.cat(regression_targets)
        distance = F.smooth_l1_loss(pred_bbox_deltas[positive], goals[positive], beta=self.loss_beta, reduction="sum")
        loss = F.binary_cross_entropy_with_logits(objectness.flatten()[drawn], is_object[drawn])
        return loss, distance / len(drawn)


def _rpn(
    head: nn.Module,
    anchors: nn.Module,
    config: DetectorConfig,
    *,
    num_anchors: int,
    pre_nms: tuple[int, int],
    ious: tuple[float, float],
) -> nn.Module:
    return Rpn(
        anchors,
        head,
        fg_iou_thresh=ious[0],
        bg_iou_thresh=ious[1],
        batch_size_per_image=num_anchors,
        positive_fraction=0.5,
        pre_nms_top_n={"training": pre_nms[0], "testing": pre_nms[1]},
        post_nms_top_n={"training": config.num_train_proposals, "testing": config.num_test_proposals},
        nms_thresh=0.7,
        loss_beta=SMOOTH_L1_BETA if config.rpn_loss_beta is None else config.rpn_loss_beta,
    )


def _tiny(config: DetectorConfig, num_classes: int) -> Trunk:
    anchors = AnchorGenerator(sizes=((28, 44), (68,)), aspect_ratios=((1.0,), (1.0,)))
    strides = {"p2": 4, "p3": 8}
    return Trunk(
        backbone=TinyBackbone(),
        rpn=_rpn(
            TinyRpnHead(num_anchors=(2, 1)),
            anchors,
            config,
            num_anchors=64,
            pre_nms=(2 * config.num_train_proposals, 3 * config.num_test_proposals),
            ious=(0.6, 0.3),
        ),
        rpn_levels=("p3", "p4"),
        box_pool=BilinearPool(strides, size=7, second_side=64),
        box_head=TinyBoxHead(),
        box_width=BOX_WIDTH,
        mask_pool=BilinearPool(strides, size=14, second_side=64),
        mask_head=MaskHead(TinyMaskLayers(), MASK_WIDTH, config, num_classes=num_classes, arrange=quads_to_pixels),
        pixel_mean=(128.0, 128.0, 128.0),
        pixel_std=(64.0, 64.0, 64.0),
        mask_target_samples=1,
    )


def _resnet(config: DetectorConfig, num_classes: int, *, body: str) -> Trunk:
    """torchvision's R-CNN: with given weights, statistics are fixed and the first two stages frozen; without, not.

    Scale and shift of the normalisations train in mmdetection's recipe, and stand still in torchvision's.
    """
    is_given = config.weights is not None
    is_frozen = is_given and config.recipe != "mmdet"
    backbone = resnet_fpn_backbone(
        backbone_name=body,
        weights=None,
        norm_layer=FrozenBatchNorm2d if is_frozen else nn.BatchNorm2d,
        trainable_layers=3 if is_given else 5,
    )
    norms = tuple(module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))
    width = backbone.out_channels
    anchors = AnchorGenerator(sizes=((32,), (64,), (128,), (256,), (512,)), aspect_ratios=((0.5, 1.0, 2.0),) * 5)
    pooled = {"0": 4, "1": 8, "2": 16, "3": 32}
    is_aligned, margin = config.roi_align == "aligned", int(config.roi_align == "legacy")
    pool = partial(
        AlignPool, pooled, second_side=112, samples=0 if is_aligned else 2, is_aligned=is_aligned, margin=margin
    )
    mask_head = None
    if config.has_masks:
        upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        nn.init.kaiming_normal_(upsample.weight, mode="fan_out", nonlinearity="relu")
        layers = nn.Sequential(MaskRCNNHeads(width, (width,) * 4, 1), upsample, nn.ReLU(inplace=True))
        mask_head = MaskHead(layers, width, config, num_classes=num_classes)
    return Trunk(
        backbone=backbone,
        rpn=_rpn(
            RPNHead(width, anchors.num_anchors_per_location()[0]),
            anchors,
            config,
            num_anchors=256,
            pre_nms=(max(2000, config.num_train_proposals), max(1000, config.num_test_proposals)),
            ious=(0.7, 0.3),
        ),
        rpn_levels=(*pooled, "pool"),
        box_pool=pool(size=7),
        box_head=TwoMLPHead(width * 7 * 7, 1024),
        box_width=1024,
        mask_pool=pool(size=14) if config.has_masks else None,
        mask_head=mask_head,
        pixel_mean=(123.675, 116.28, 103.53),
        pixel_std=(58.395, 57.12, 57.375),
        steady=norms if is_given else (),
        mask_target_samples=0,
    )


ARCHITECTURES: dict[str, Callable[[DetectorConfig, int], Trunk]] = {
    "tiny_mask_rcnn_fpn": _tiny,
    **{
        f"{kind}_rcnn_{backbone}_fpn": partial(_resnet, body=body)
        for kind in ("mask", "faster")
        for backbone, body in (("r50", "resnet50"), ("r101", "resnet101"), ("x101_64x4d", "resnext101_64x4d"))
    },
}
