"""What every two-stage detector has in common: test time and the box loss, on cached features or not.

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

# Masks of one call to the mask head where their number must not show: another number may choose another convolution
# routine, and its rounding moves pixels at the threshold.
_MASKS_TOGETHER = 16


class RoiDetector(Detector):
    """A detector that a backend completes by `walk`, `refine`, `maps` and `mask_scores`, besides the training step."""

    # Of the box loss; see `box_regression_loss`.
    _smooth_l1_beta: float

    @abstractmethod
    def walk(self, images: Sequence[Tensor]) -> tuple[Mapping[str, Tensor], list[tuple[list[Tensor], Tensor]]]:
        """Feature maps by name, and per image the box features (P, D) of each stage and the proposals (P, 4) as the
        last one meets them."""

    @abstractmethod
    def mask_scores(self, features: Mapping[str, Tensor], image: int, boxes: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities (P, m, m) of the boxes (P, 4) and their labels (P,) in one image of the batch."""

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor], *, max_dets: int, has_like_masks: bool = False) -> list[Detections]:
        self.assert_trunk_stands_still()
        features, all_rois = self.walk(images)
        config = self.config
        mask_scores = self.masks if has_like_masks else self.mask_scores
        detections = []
        for image, (box_features, proposals) in enumerate(all_rois):
            # Image by image, like a caller of `test_rois`: a product of another height may round differently.
            boxes = self.refine(box_features[-1], proposals, size_of(images[image]))
            rows, labels, best_scores = select_detections(
                boxes,
                self.scores(box_features),
                score_threshold=config.score_threshold,
                nms_iou=config.nms_iou,
                max_dets=max_dets,
            )
            best = boxes[rows] if config.class_agnostic_box else boxes[rows, labels]
            masks = mask_scores(features, image, best, labels) if self.has_masks else None
            detections.append(Detections(boxes=best, scores=best_scores, labels=labels, masks=masks))
        return detections

    @torch.no_grad()
    def test_rois(self, images: Sequence[Tensor]) -> list[TestRois]:
        self.assert_trunk_stands_still()
        features, all_rois = self.walk(images)
        rois = []
        for image, (box_features, proposals) in enumerate(all_rois):
            boxes = self.refine(box_features[-1], proposals, size_of(images[image]))
            masks = None
            if self.has_masks and self.config.has_class_agnostic_heads:
                labels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
                masks = self.mask_scores(features, image, boxes, labels)
            rois.append(
                TestRois(
                    features=box_features[0],
                    proposals=proposals,
                    boxes=boxes,
                    masks=masks,
                    later=tuple(box_features[1:]),
                )
            )
        return rois

    @torch.no_grad()
    def masks(self, maps: Mapping[str, Tensor], image: int, boxes: Tensor, labels: Tensor) -> Tensor:
        if len(boxes) == 0:
            return self.mask_scores(maps, image, boxes, labels)
        # The last call is filled up with copies of the last box.
        calls = torch.arange(-(-len(boxes) // _MASKS_TOGETHER) * _MASKS_TOGETHER, device=boxes.device)
        calls = calls.clamp(max=len(boxes) - 1)
        parts = [
            self.mask_scores(maps, image, boxes[rows], labels[rows]) for rows in torch.split(calls, _MASKS_TOGETHER)
        ]
        return torch.cat(parts)[: len(boxes)]

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


def size_of(image: Tensor) -> tuple[int, int]:
    """(H, W) of an image (3, H, W)."""
    return int(image.shape[-2]), int(image.shape[-1])
