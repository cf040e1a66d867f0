"""What every two-stage detector with one classification stage has in common: test time and the box loss, on cached
features or not.

Shape letters: P proposals of one image, C foreground categories, D box-head width, m mask side.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lttune.detectors.base import TRUNK, Detector, TestRois
from lttune.detectors.postprocess import select_detections
from lttune.detectors.rois import box_regression_loss
from lttune.types import Detections


class RoiDetector(Detector):
    """A detector that a backend completes by `refine` and `mask_scores`, besides the training step."""

    # Of the box loss; see `box_regression_loss`.
    _smooth_l1_beta: float

    @abstractmethod
    def refine(self, images: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
        """Feature maps by name, and per image box features (P, D) and refined boxes (P, 4), or (P, C, 4) where each
        category has its own, clipped to the image."""

    @abstractmethod
    def mask_scores(self, features: Mapping[str, Tensor], image: int, boxes: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities (P, m, m) of the boxes (P, 4) and their labels (P,) in one image of the batch."""

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor], *, max_dets: int) -> list[Detections]:
        self.assert_trunk_stands_still()
        features, all_rois = self.refine(images)
        config, stage = self.config, self.stages[0]
        detections = []
        for image, (box_features, boxes) in enumerate(all_rois):
            # Image by image, like a caller of `test_rois`: a product of another height may round differently.
            scores = stage.loss.scores(stage.classifier(box_features))
            rows, labels, best_scores = select_detections(
                boxes, scores, score_threshold=config.score_threshold, nms_iou=config.nms_iou, max_dets=max_dets
            )
            best = boxes[rows] if config.class_agnostic_box else boxes[rows, labels]
            masks = self.mask_scores(features, image, best, labels) if self.has_masks else None
            detections.append(Detections(boxes=best, scores=best_scores, labels=labels, masks=masks))
        return detections

    @torch.no_grad()
    def test_rois(self, images: Sequence[Tensor]) -> list[TestRois]:
        self.assert_trunk_stands_still()
        features, all_rois = self.refine(images)
        rois = []
        for image, (box_features, boxes) in enumerate(all_rois):
            masks = None
            if self.has_masks and self.has_class_agnostic_heads:
                labels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
                masks = self.mask_scores(features, image, boxes, labels)
            rois.append(TestRois(features=box_features, boxes=boxes, masks=masks))
        return rois

    def box_loss(self, features: Tensor, labels: Tensor, box_targets: Tensor) -> Tensor:
        positive = torch.nonzero(labels < self.num_classes)[:, 0]
        deltas = self.parts["box_regressor"](features[positive])
        return box_regression_loss(
            deltas, labels[positive], box_targets, num_rows=len(labels), beta=self._smooth_l1_beta
        )

    def assert_trunk_stands_still(self) -> None:
        """Features for a cache or a test are those of evaluation mode."""
        moving = [name for name in TRUNK if name in self.parts and self.parts[name].training]
        assert not moving, f"{moving} in training mode: call eval(), or freeze them"
