"""Mask and Faster R-CNN from torchvision's parts with our classification losses: the default backend.

torchvision counts background first; its RoI heads are therefore not used but written here from their parts, so that
background is last everywhere. Its RPN, poolers, box coder and head layers do not count categories.

Shape letters: B images, P proposals of one image, R sampled RoIs of all images, M instances, D box-head width,
C foreground categories, m mask side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image, roi_align

from lttune.detectors.augment import MEMORY_ROW, augmenting_rows
from lttune.detectors.base import ClassificationStage, DetectorConfig, PartName, TrainRois
from lttune.detectors.classifiers import build_classifier, build_regressor
from lttune.detectors.roi_detector import RoiDetector
from lttune.detectors.rois import AnchorSampler, image_numbers, match_rois, sample_rois
from lttune.detectors.scopes import draw_seed, image_generators, seeded, training_flag
from lttune.detectors.trunks import ARCHITECTURES, SMOOTH_L1_BETA
from lttune.losses.base import ClassificationLoss
from lttune.losses.distributed import mean_over_all_rows
from lttune.types import Target

# Of the coarsest map in use; padding to it makes the strides of all maps exact.
_SIZE_DIVISOR = 32
# Scales of the box deltas, as in torchvision's detectors.
_BOX_CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))


class TorchvisionDetector(RoiDetector):
    """A detector of `ARCHITECTURES`, with one classification stage.

    Args:
        config: architecture and RoI rules.
        num_classes: C.
        make_loss: gives the classification loss.
    """

    def __init__(
        self, config: DetectorConfig, *, num_classes: int, make_loss: Callable[[], ClassificationLoss]
    ) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        trunk = ARCHITECTURES[config.name](config, num_classes)
        self._fixed = tuple(p for p in trunk.backbone.parameters() if not p.requires_grad)
        self._steady = trunk.steady
        self._smooth_l1_beta = SMOOTH_L1_BETA if config.box_loss_beta is None else config.box_loss_beta
        self.backbone, self.rpn, self.rpn_levels = trunk.backbone, trunk.rpn, trunk.rpn_levels
        self._anchor_sampler = AnchorSampler(cast(Any, self.rpn.fg_bg_sampler))
        self.rpn.fg_bg_sampler = cast(Any, self._anchor_sampler)
        # torchvision decodes boxes in the type of the head's outputs, and half precision knows no pixels.
        cast(nn.Module, self.rpn.head).register_forward_hook(_in_float32)
        self.box_pool, self.box_head = trunk.box_pool, trunk.box_head
        self.mask_pool, self.mask_head = trunk.mask_pool, trunk.mask_head
        self.mask_target_samples = trunk.mask_target_samples
        loss = make_loss()
        classifier = build_classifier(
            trunk.box_width, loss, normed=config.normed_classifier, temperature=config.temperature
        )
        self.stage = ClassificationStage(classifier, loss)
        self.box_regressor = build_regressor(trunk.box_width, 1 if config.class_agnostic_box else num_classes)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(trunk.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(trunk.pixel_std).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    @property
    def stages(self) -> Sequence[ClassificationStage]:
        return [self.stage]

    @property
    def parts(self) -> Mapping[PartName, nn.Module]:
        parts: dict[PartName, nn.Module] = {
            "backbone": self.backbone,
            "rpn": self.rpn,
            "box_head": self.box_head,
            "classifier": self.stage.classifier,
            "box_regressor": self.box_regressor,
        }
        return parts if self.mask_head is None else {**parts, "mask_head": self.mask_head}

    def losses(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        *,
        generator: torch.Generator,
        image_seeds: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        batch = self._batch(images)
        targets = [self._here(target) for target in targets]
        # In mixed precision, boxes would be pooled in the type of the maps, and half precision knows no pixels.
        features = {name: level.float() for name, level in self.backbone(batch.tensors).items()}
        self._anchor_sampler.seeds = image_seeds
        with seeded(draw_seed(generator), self.pixel_mean.device):
            proposals, losses = self._propose(batch, features, targets)
        if not self.trains("backbone", "rpn"):
            losses = {}
        losses = {name: mean_over_all_rows(term, self._anchor_sampler.num_drawn) for name, term in losses.items()}

        own_generators = image_generators(generator, image_seeds, len(images))
        sampled = [self._sample(p, t, g) for p, t, g in zip(proposals, targets, own_generators, strict=True)]
        boxes = [rois.boxes for rois in sampled]
        labels = torch.cat([rois.labels for rois in sampled])
        instance_ids = _count_over_batch([rois.instance_ids for rois in sampled], targets)
        image_ids = image_numbers([len(own) for own in boxes], device=labels.device)
        box_features = self.box_head(self.box_pool(features, boxes))
        box_targets = self._box_targets(torch.cat(boxes), labels, instance_ids, targets)
        if self.stage.loss.augmenter is not None:
            more_features, more_labels, more_targets = augmenting_rows(
                self.stage.loss.augmenter,
                targets,
                batch.image_sizes,
                pool=lambda own: self.box_head(self.box_pool(features, own)),
                encode=self.encode_boxes,
                generator=generator,
                image_generators=own_generators,
            )
            box_features, labels = torch.cat([box_features, more_features]), torch.cat([labels, more_labels])
            instance_ids = torch.cat([instance_ids, torch.full_like(more_labels, MEMORY_ROW)])
            image_ids = torch.cat([image_ids, torch.full_like(more_labels, -1)])
            box_targets = torch.cat([box_targets, more_targets])

        logits = self.stage.classifier(box_features)
        losses |= self.stage.loss(logits, labels, instance_ids=instance_ids, image_ids=image_ids)
        if self.trains("backbone", "box_head", "box_regressor"):
            losses["loss_box"] = self.box_loss(box_features, labels, box_targets)
        if self.trains("backbone", "mask_head") and self.mask_head is not None:
            losses["loss_mask"] = self._mask_loss(features, sampled, targets)
        return losses

    @torch.no_grad()
    def train_rois(self, images: Sequence[Tensor], targets: Sequence[Target]) -> list[TrainRois]:
        self.assert_trunk_stands_still()
        batch = self._batch(images)
        targets = [self._here(target) for target in targets]
        features = self.backbone(batch.tensors)
        with seeded(0, self.pixel_mean.device):  # the RPN draws anchors for a loss that is not used here
            proposals, _ = self._propose(batch, features, targets)
        matched = [self._match(p, t) for p, t in zip(proposals, targets, strict=True)]
        boxes = [rois.boxes for rois in matched]
        box_features = self.box_head(self.box_pool(features, boxes))
        return [
            TrainRois(boxes=rois.boxes, features=rows, labels=rois.labels, instance_ids=rois.instance_ids)
            for rois, rows in zip(matched, box_features.split([len(b) for b in boxes]), strict=True)
        ]

    @torch.no_grad()
    def box_features(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        self.assert_trunk_stands_still()
        here = [own.to(self.pixel_mean.device) for own in boxes]
        features = self.box_head(self.box_pool(self.backbone(self._batch(images).tensors), here))
        return list(torch.split(features, [len(own) for own in here]))

    def encode_boxes(self, goals: Tensor, boxes: Tensor) -> Tensor:
        deltas: Tensor = _BOX_CODER.encode_single(goals, boxes)
        return deltas

    def _batch(self, images: Sequence[Tensor]) -> ImageList:
        """Normalised images, padded with zeros at the right and the bottom to a common size."""
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        height, width = (-(-max(side) // _SIZE_DIVISOR) * _SIZE_DIVISOR for side in zip(*sizes, strict=True))
        batch = self.pixel_mean.new_zeros(len(images), 3, height, width)
        batch = batch.contiguous(memory_format=torch.channels_last)
        for row, image, size in zip(batch, images, sizes, strict=True):
            row[:, : size[0], : size[1]] = (image.to(row.device) - self.pixel_mean) / self.pixel_std
        return ImageList(batch, sizes)

    def _here(self, target: Target) -> Target:
        device = self.pixel_mean.device
        masks = None if target.masks is None else target.masks.to(device)
        return Target(boxes=target.boxes.to(device), labels=target.labels.to(device), masks=masks)

    def _propose(
        self, batch: ImageList, features: Mapping[str, Tensor], targets: Sequence[Target] | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals per image, with targets those of training and its losses."""
        levels = {name: features[name] for name in self.rpn_levels}
        boxes = None if targets is None else [{"boxes": target.boxes} for target in targets]
        # A frozen RPN is in evaluation mode, and yet training needs as many proposals as in training.
        with training_flag(self.rpn, targets is not None):
            proposals, losses = self.rpn(batch, levels, boxes)
        if targets is None:
            return proposals, {}
        return proposals, {"loss_rpn_cls": losses["loss_objectness"], "loss_rpn_box": losses["loss_rpn_box_reg"]}

    def _match(self, proposals: Tensor, target: Target) -> "_Rois":
        boxes = torch.cat([proposals, target.boxes])
        labels, instance_ids = match_rois(
            boxes, target, positive_iou=self.config.positive_iou, num_classes=self.num_classes
        )
        return _Rois(boxes=boxes, labels=labels, instance_ids=instance_ids)

    def _sample(self, proposals: Tensor, target: Target, generator: torch.Generator) -> "_Rois":
        rois = self._match(proposals, target)
        return rois.take(
            sample_rois(
                rois.labels,
                num_classes=self.num_classes,
                num_rois=self.config.num_rois,
                positive_fraction=self.config.positive_fraction,
                generator=generator,
            )
        )

    def _box_targets(self, boxes: Tensor, labels: Tensor, instance_ids: Tensor, targets: Sequence[Target]) -> Tensor:
        """Box deltas (n, 4) of the positives, in their order."""
        positive = torch.nonzero(labels < self.num_classes)[:, 0]
        goals = torch.cat([target.boxes for target in targets])[instance_ids[positive]]
        return self.encode_boxes(goals, boxes[positive])

    def _mask_loss(
        self, features: Mapping[str, Tensor], sampled: Sequence["_Rois"], targets: Sequence[Target]
    ) -> Tensor:
        """Binary cross-entropy of each positive's own mask, mean over pixels."""
        assert self.mask_pool is not None
        assert self.mask_head is not None
        positives = [rois.take(torch.nonzero(rois.labels < self.num_classes)[:, 0]) for rois in sampled]
        pooled = self.mask_pool(features, [rois.boxes for rois in positives])
        logits: Tensor = self.mask_head(pooled, torch.cat([rois.labels for rois in positives]))
        goals = [
            _mask_targets(target, rois, size=logits.shape[-1], samples=self.mask_target_samples)
            for target, rois in zip(targets, positives, strict=True)
        ]
        # A mean of nothing would be NaN where no RoI is positive.
        loss = F.binary_cross_entropy_with_logits(logits, torch.cat(goals), reduction="sum") / max(logits.numel(), 1)
        return mean_over_all_rows(loss, len(logits))

    def walk(self, images: Sequence[Tensor]) -> tuple[Mapping[str, Tensor], list[tuple[list[Tensor], Tensor]]]:
        batch = self._batch(images)
        features = self.backbone(batch.tensors)
        proposals, _ = self._propose(batch, features, None)
        box_features = self.box_head(self.box_pool(features, proposals)).split([len(own) for own in proposals])
        return features, [([rows], own) for rows, own in zip(box_features, proposals, strict=True)]

    @torch.no_grad()
    def refine(self, features: Tensor, proposals: Tensor, size: tuple[int, int]) -> Tensor:
        boxes: Tensor = _BOX_CODER.decode_single(self.box_regressor(features), proposals)
        if not self.config.class_agnostic_box:
            boxes = boxes.view(len(boxes), self.num_classes, 4)
        clipped: Tensor = clip_boxes_to_image(boxes, size)
        return clipped

    @torch.no_grad()
    def maps(self, images: Sequence[Tensor]) -> Mapping[str, Tensor]:
        self.assert_trunk_stands_still()
        maps: dict[str, Tensor] = self.backbone(self._batch(images).tensors)
        return maps

    def mask_scores(self, features: Mapping[str, Tensor], image: int, boxes: Tensor, labels: Tensor) -> Tensor:
        assert self.mask_pool is not None
        assert self.mask_head is not None
        own = {name: level[image : image + 1] for name, level in features.items()}
        masks: Tensor = self.mask_head(self.mask_pool(own, [boxes]), labels).sigmoid()
        return masks


def _in_float32(
    head: nn.Module, arguments: tuple[Any, ...], outputs: tuple[list[Tensor], ...]
) -> tuple[list[Tensor], ...]:
    return tuple([level.float() for level in levels] for levels in outputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rois:
    """Matched boxes of one image."""

    boxes: Tensor  # (P, 4)
    labels: Tensor  # (P,)
    instance_ids: Tensor  # (P,)

    def take(self, rows: Tensor) -> "_Rois":
        return _Rois(boxes=self.boxes[rows], labels=self.labels[rows], instance_ids=self.instance_ids[rows])


def _count_over_batch(instance_ids: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
    """Instance ids of each image, moved on by the instances of the images before; -1 stays."""
    counted, before = [], 0
    for ids, target in zip(instance_ids, targets, strict=True):
        counted.append(torch.where(ids >= 0, ids + before, ids))
        before += len(target.boxes)
    return torch.cat(counted)


def _mask_targets(target: Target, rois: _Rois, *, size: int, samples: int) -> Tensor:
    """(P, size, size) in [0, 1]: the ground-truth masks of positive RoIs, cropped to their boxes."""
    if len(rois.boxes) == 0:
        return rois.boxes.new_zeros(0, size, size)
    assert target.masks is not None, "this detector trains on masks, and the target has none"
    rows = torch.cat([rois.instance_ids[:, None].to(rois.boxes), rois.boxes], dim=1)
    masks = target.masks[:, None].to(rois.boxes)
    cropped: Tensor = roi_align(masks, rows, size, sampling_ratio=samples, aligned=True)
    return cropped[:, 0]
