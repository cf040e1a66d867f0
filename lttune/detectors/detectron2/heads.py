"""What of detectron2's RoI heads is ours: output layers around a classification stage, and a pooler.

Shape letters: P proposals of one image, R RoIs of all images, D box-head width, C foreground categories.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes
from torch import Tensor, nn

from lttune.detectors.augment import MEMORY_ROW
from lttune.detectors.base import ClassificationStage
from lttune.detectors.pooling import widened
from lttune.detectors.rois import box_regression_loss, image_numbers


class StageOutputLayers(FastRCNNOutputLayers):  # type: ignore[misc]
    """detectron2's output layers with the classifier, the loss and the scores of a classification stage.

    Args:
        cfg: detectron2's configuration.
        input_shape: of the box head's output.
        stage: ours.
        box_scales: of the four box deltas; by default the configuration's of a single stage.
    """

    def __init__(
        self,
        cfg: Any,
        input_shape: Any,
        *,
        stage: ClassificationStage,
        box_scales: tuple[float, float, float, float] | None = None,
    ) -> None:
        options = {} if box_scales is None else {"box2box_transform": Box2BoxTransform(weights=box_scales)}
        super().__init__(cfg, input_shape, **options)
        del self.cls_score
        self.stage = stage

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(1)
        return self.stage.classifier(x), self.bbox_pred(x)

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Any]) -> dict[str, Tensor]:
        """The terms of the stage's loss, and `loss_box`."""
        logits, deltas = predictions
        labels = torch.cat([p.gt_classes for p in proposals])
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        # An image without instances gives neither boxes nor ids; its RoIs are background, whose boxes are not used.
        goals = torch.cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        ids = torch.cat([p.gt_ids if p.has("gt_ids") else torch.zeros_like(p.gt_classes) for p in proposals])
        ids = torch.where(labels < self.num_classes, ids, -1)
        image_ids = image_numbers([len(p) for p in proposals], device=labels.device)
        image_ids = torch.where(ids == MEMORY_ROW, -1, image_ids)
        losses = self.stage.loss(logits, labels, instance_ids=ids, image_ids=image_ids)
        positive = torch.nonzero(labels < self.num_classes)[:, 0]
        box_targets = self.box2box_transform.get_deltas(boxes[positive], goals[positive])
        loss_box = box_regression_loss(
            deltas[positive], labels[positive], box_targets, num_rows=len(labels), beta=self.smooth_l1_beta
        )
        return {**losses, "loss_box": loss_box}

    def predict_probs(self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Any]) -> Sequence[Tensor]:
        """Scores (P, C + 1) per image; detectron2 drops the last column."""
        lengths = [len(p) for p in proposals]
        scores = [self.stage.loss.scores(own) for own in torch.split(predictions[0], lengths)]
        return [torch.cat([own, own.new_zeros(len(own), 1)], dim=1) for own in scores]


class WidePooler(nn.Module):
    """detectron2's pooler over boxes that are a pixel wider and higher, as mmdetection 1 counts them."""

    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, x: list[Tensor], box_lists: Sequence[Boxes]) -> Tensor:
        pooled: Tensor = self.pooler(x, [Boxes(widened(own.tensor, 1)) for own in box_lists])
        return pooled


def per_stage(module: nn.Module) -> list[nn.Module]:
    """The modules of a cascade's stages, or the only one."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def together(modules: Sequence[nn.Module]) -> nn.Module:
    """One module for the same part of each stage; it is in training mode where one of them is."""
    if len(modules) == 1:
        return modules[0]
    joined = nn.ModuleList(modules)
    joined.training = any(module.training for module in modules)
    return joined
