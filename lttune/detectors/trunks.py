"""What each architecture of the torchvision backend is made of.

Shape letters: R RoIs of all images, C foreground categories, m mask side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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


def _rpn(
    head: nn.Module,
    anchors: nn.Module,
    config: DetectorConfig,
    *,
    num_anchors: int,
    pre_nms: tuple[int, int],
    ious: tuple[float, float],
) -> nn.Module:
    rpn: nn.Module = RegionProposalNetwork(
        anchors,
        head,
        fg_iou_thresh=ious[0],
        bg_iou_thresh=ious[1],
        batch_size_per_image=num_anchors,
        positive_fraction=0.5,
        pre_nms_top_n={"training": pre_nms[0], "testing": pre_nms[1]},
        post_nms_top_n={"training": config.num_train_proposals, "testing": config.num_test_proposals},
        nms_thresh=0.7,
    )
    return rpn


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


def _resnet(config: DetectorConfig, num_classes: int, *, depth: int, has_masks: bool) -> Trunk:
    """torchvision's R-CNN: with given weights, statistics are frozen and the first two stages fixed; without, not."""
    is_given = config.weights is not None
    backbone = resnet_fpn_backbone(
        backbone_name=f"resnet{depth}",
        weights=None,
        norm_layer=FrozenBatchNorm2d if is_given else nn.BatchNorm2d,
        trainable_layers=3 if is_given else 5,
    )
    width = backbone.out_channels
    anchors = AnchorGenerator(sizes=((32,), (64,), (128,), (256,), (512,)), aspect_ratios=((0.5, 1.0, 2.0),) * 5)
    pooled = {"0": 4, "1": 8, "2": 16, "3": 32}
    mask_head = None
    if has_masks:
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
        box_pool=AlignPool(pooled, size=7, second_side=112, samples=2),
        box_head=TwoMLPHead(width * 7 * 7, 1024),
        box_width=1024,
        mask_pool=AlignPool(pooled, size=14, second_side=112, samples=2) if has_masks else None,
        mask_head=mask_head,
        pixel_mean=(123.675, 116.28, 103.53),
        pixel_std=(58.395, 57.12, 57.375),
        mask_target_samples=0,
    )


ARCHITECTURES: dict[str, Callable[[DetectorConfig, int], Trunk]] = {
    "tiny_mask_rcnn_fpn": _tiny,
    "mask_rcnn_r50_fpn": partial(_resnet, depth=50, has_masks=True),
    "mask_rcnn_r101_fpn": partial(_resnet, depth=101, has_masks=True),
    "faster_rcnn_r50_fpn": partial(_resnet, depth=50, has_masks=False),
    "faster_rcnn_r101_fpn": partial(_resnet, depth=101, has_masks=False),
}
