"""detectron2's detectors as ours.

Built from the model zoo's LVIS recipe, with mmdetection's changes where the configuration asks for them. detectron2
keeps its own anchors, sampling, box deltas and mask loss; classifier, classification loss, scores and the choice of
detections are ours. So is the way from one stage of a cascade to the next, which leads all proposals through a frozen
trunk, too.

Shape letters: B images, P proposals of one image, R sampled RoIs of all images, D box-head width, C foreground
categories.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from lttune.detectors.augment import MEMORY_ROW, augmenting_rows
from lttune.detectors.base import NO_AREA, ClassificationStage, DetectorConfig, PartName, TrainRois
from lttune.detectors.classifiers import NormedConv2d, build_classifier
from lttune.detectors.detectron2.heads import StageOutputLayers, WidePooler, per_stage, together
from lttune.detectors.detectron2.recipe import build_cfg, gradient_scale, is_rgb, stage_ious, stage_weights
from lttune.detectors.detectron2.tiny import NAME as TINY
from lttune.detectors.detectron2.tiny import build_tiny
from lttune.detectors.roi_detector import RoiDetector, size_of
from lttune.detectors.rois import match_rois
from lttune.detectors.scopes import draw_seed, image_generators, seeded, seeded_calls, training_flag
from lttune.errors import InputError, NonFiniteLossError
from lttune.losses.base import ClassificationLoss
from lttune.losses.distributed import mean_over_all_rows
from lttune.types import Target

_TERM_NAMES = {"loss_rpn_loc": "loss_rpn_box"}


class Detectron2Detector(RoiDetector):
    """A detector of `ARCHITECTURES`.

    Args:
        config: architecture and RoI rules.
        num_classes: C.
        make_loss: gives the classification loss of a stage.

    Raises:
        InputError: the losses of a cascade have an augmenter.
    """

    def __init__(
        self, config: DetectorConfig, *, num_classes: int, make_loss: Callable[[], ClassificationLoss]
    ) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.stage_weights = stage_weights(config)
        cfg = build_cfg(config, num_classes)
        self.model = build_tiny(cfg) if config.name == TINY else build_model(cfg)
        backbone, roi_heads = self.model.backbone, self.model.roi_heads
        self._fixed = tuple(p for p in backbone.parameters() if not p.requires_grad)
        if config.weights is not None:
            self._steady = tuple(module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))
        scales = cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS if config.is_cascade else [None]
        predictors = [self._output_layers(cfg, make_loss(), own) for own in scales]
        roi_heads.box_predictor = nn.ModuleList(predictors) if config.is_cascade else predictors[0]
        self._smooth_l1_beta = predictors[0].smooth_l1_beta
        if config.roi_align == "legacy":
            roi_heads.box_pooler = WidePooler(roi_heads.box_pooler)
            if roi_heads.mask_on:
                roi_heads.mask_pooler = WidePooler(roi_heads.mask_pooler)
        if config.normed_mask and roi_heads.mask_on:
            plain = roi_heads.mask_head.predictor
            roi_heads.mask_head.predictor = NormedConv2d(
                plain.in_channels, plain.out_channels, temperature=config.temperature
            )

    def _output_layers(
        self, cfg: Any, loss: ClassificationLoss, box_scales: tuple[float, float, float, float] | None
    ) -> StageOutputLayers:
        config = self.config
        if config.is_cascade and loss.augmenter is not None:
            raise InputError(
                f"the loss keeps a feature memory, and none is published for a cascade such as {config.name}, whose "
                "stages see other boxes each; set loss.has_memory: false, or use a detector with one stage."
            )
        shape: Any = per_stage(self.model.roi_heads.box_head)[0].output_shape
        classifier = build_classifier(
            shape.channels, loss, normed=config.normed_classifier, temperature=config.temperature
        )
        return StageOutputLayers(cfg, shape, stage=ClassificationStage(classifier, loss), box_scales=box_scales)

    @property
    def _predictors(self) -> list[StageOutputLayers]:
        return cast(list[StageOutputLayers], per_stage(self.model.roi_heads.box_predictor))

    @property
    def stages(self) -> Sequence[ClassificationStage]:
        return [predictor.stage for predictor in self._predictors]

    @property
    def parts(self) -> Mapping[PartName, nn.Module]:
        roi_heads = self.model.roi_heads
        parts: dict[PartName, nn.Module] = {
            "backbone": self.model.backbone,
            "rpn": self.model.proposal_generator,
            "box_head": roi_heads.box_head,
            "classifier": together([predictor.stage.classifier for predictor in self._predictors]),
            "box_regressor": together([predictor.bbox_pred for predictor in self._predictors]),
        }
        return {**parts, "mask_head": roi_heads.mask_head} if roi_heads.mask_on else parts

    def losses(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        *,
        generator: torch.Generator,
        image_seeds: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        roi_heads = self.model.roi_heads
        trains_masks = self.has_masks and self.trains("backbone", "mask_head")
        instances = self._instances(images, targets, with_masks=trains_masks)
        batch, features = self._features(images)
        try:
            # detectron2 logs to a global storage, and there has to be one.
            with seeded(draw_seed(generator), self.model.device), EventStorage():
                rpn, device = self.model.proposal_generator, self.model.device
                with seeded_calls(rpn, "_subsample_labels", image_seeds, device):
                    proposals, terms = self._propose(batch, features, instances)
                with seeded_calls(roi_heads, "_sample_proposals", image_seeds, device):
                    proposals = roi_heads.label_and_sample_proposals(proposals, instances)
                more = None
                if self.stages[0].loss.augmenter is not None:
                    more = self._augment(features, targets, images, generator, image_seeds)
                terms |= self._box_terms(features, proposals, instances, more)
                if trains_masks:
                    with training_flag(roi_heads, True), training_flag(roi_heads.mask_head, True):
                        masks = roi_heads._forward_mask(features, proposals)
                    num_positives = sum(int((own.gt_classes < self.num_classes).sum()) for own in proposals)
                    terms |= {name: mean_over_all_rows(term, num_positives) for name, term in masks.items()}
        except FloatingPointError as error:
            raise NonFiniteLossError(f"the RPN's boxes or scores are not finite ({error}); lower optim.lr.") from error
        if not self.trains("backbone", "rpn"):
            terms = {name: term for name, term in terms.items() if not name.startswith("loss_rpn")}
        if not self.trains("backbone", "box_head", "box_regressor"):
            terms = {name: term for name, term in terms.items() if not name.startswith("loss_box")}
        return {_TERM_NAMES.get(name, name): term for name, term in terms.items()}

    def _box_terms(
        self,
        features: Mapping[str, Tensor],
        proposals: list[Any],
        instances: Sequence[Any],
        more: tuple[Tensor, Any] | None,
    ) -> dict[str, Tensor]:
        """Classification and box losses of every stage; `more` are the augmenter's rows, as of one more image."""
        terms: dict[str, Tensor] = {}
        for stage, predictor in enumerate(self._predictors):
            rows, labelled = torch.cat(self._box_features(features, proposals, stage)), proposals
            if more is not None:
                rows, labelled = torch.cat([rows, more[0]]), [*proposals, more[1]]
            predictions = predictor(rows)
            terms |= self.of_stage(stage, predictor.losses(predictions, labelled))
            if stage + 1 < len(self.stages):
                with torch.no_grad():
                    boxes = predictor.predict_boxes(predictions, proposals)
                proposals = [
                    self._labelled(own, instance, stage + 1) for own, instance in zip(boxes, instances, strict=True)
                ]
        return terms

    def _labelled(self, boxes: Tensor, instances: Any, stage: int) -> Any:
        """A later stage's proposals in one image: the boxes of the stage before, but those without an area."""
        moved = Boxes(boxes)
        moved.clip(instances.image_size)
        moved = moved[moved.nonempty()]
        target = Target(boxes=instances.gt_boxes.tensor, labels=instances.gt_classes)
        labels, ids = self._match(moved.tensor, target, stage)
        rows = Instances(instances.image_size, proposal_boxes=moved, gt_classes=labels)
        if len(instances) > 0:
            matched = ids.clamp(min=0)
            rows.gt_boxes, rows.gt_ids = instances.gt_boxes[matched], instances.gt_ids[matched]
        return rows

    def _match(self, boxes: Tensor, target: Target, stage: int) -> tuple[Tensor, Tensor]:
        return match_rois(boxes, target, positive_iou=stage_ious(self.config)[stage], num_classes=self.num_classes)

    @torch.no_grad()
    def train_rois(self, images: Sequence[Tensor], targets: Sequence[Target]) -> list[TrainRois]:
        self.assert_trunk_stands_still()
        instances = self._instances(images, targets, with_masks=False)
        batch, features = self._features(images)
        with seeded(0, self.model.device), EventStorage():  # the RPN draws anchors for a loss that is not used here
            proposals, _ = self._propose(batch, features, instances)
        proposals = add_ground_truth_to_proposals(instances, proposals)
        by_image: list[list[TrainRois]] = [[] for _ in images]
        for stage, (all_boxes, all_rows) in enumerate(self._stage_by_stage(images, features, proposals)):
            for known, boxes, rows, target in zip(by_image, all_boxes, all_rows, targets, strict=True):
                labels, ids = self._match(boxes, _here(target, boxes.device), stage)
                if stage > 0:
                    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & (known[-1].labels != NO_AREA)
                    labels, ids = torch.where(has_area, labels, NO_AREA), torch.where(has_area, ids, -1)
                known.append(TrainRois(boxes=boxes, features=rows, labels=labels, instance_ids=ids))
        return [replace(first, later=tuple(later)) for first, *later in by_image]

    @torch.no_grad()
    def box_features(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        self.assert_trunk_stands_still()
        _, features = self._features(images)
        here = [own.to(self.model.device) for own in boxes]
        return list(self._box_features(features, _as_proposals(images, here), 0))

    def encode_boxes(self, goals: Tensor, boxes: Tensor) -> Tensor:
        deltas: Tensor = self._predictors[0].box2box_transform.get_deltas(boxes, goals)
        return deltas

    def _features(self, images: Sequence[Tensor]) -> tuple[Any, dict[str, Tensor]]:
        """Normalised and padded images, and their feature maps. Images come as RGB."""
        ordered = images if is_rgb(self.config) else [image.flip(0) for image in images]
        batch = self.model.preprocess_image([{"image": image} for image in ordered])
        # In mixed precision, boxes would be pooled in the type of the maps, and half precision knows no pixels.
        return batch, {name: level.float() for name, level in self.model.backbone(batch.tensor).items()}

    def _instances(self, images: Sequence[Tensor], targets: Sequence[Target], *, with_masks: bool) -> list[Any]:
        """Targets as detectron2 wants them; each instance carries its number counted over the batch."""
        instances, first = [], 0
        for image, target in zip(images, targets, strict=True):
            own = Instances((int(image.shape[-2]), int(image.shape[-1])))
            own.gt_boxes = Boxes(target.boxes)
            own.gt_classes = target.labels
            own.gt_ids = torch.arange(first, first + len(target.boxes))
            if with_masks:
                masks = target.masks
                assert masks is not None or len(target.boxes) == 0, "this detector trains on masks: the target has none"
                own.gt_masks = BitMasks(masks if masks is not None else torch.zeros(0, *own.image_size))
            instances.append(own.to(self.model.device))
            first += len(target.boxes)
        return instances

    def _propose(
        self, batch: Any, features: Mapping[str, Tensor], instances: Sequence[Any] | None
    ) -> tuple[list[Any], dict[str, Tensor]]:
        """Proposals per image, with instances those of training and its losses."""
        rpn = self.model.proposal_generator
        # A frozen RPN is in evaluation mode, and yet training needs as many proposals as in training.
        with training_flag(rpn, instances is not None), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.meshgrid")  # of its anchors; the result is the same
            return cast(tuple[list[Any], dict[str, Tensor]], rpn(batch, features, instances))

    def _box_features(self, features: Mapping[str, Tensor], proposals: Sequence[Any], stage: int) -> tuple[Tensor, ...]:
        """Box-head output (P, D) of one stage, per image."""
        roi_heads = self.model.roi_heads
        maps = [features[name] for name in roi_heads.box_in_features]
        pooled = roi_heads.box_pooler(maps, [p.proposal_boxes for p in proposals])
        scale = gradient_scale(self.config)
        if pooled.requires_grad and scale != 1:
            pooled.register_hook(lambda gradient: gradient * scale)
        rows: Tensor = per_stage(roi_heads.box_head)[stage](pooled)
        lengths = [len(p) for p in proposals]
        return tuple(torch.split(rows.flatten(1), lengths))

    def _stage_by_stage(
        self, images: Sequence[Tensor], features: Mapping[str, Tensor], proposals: Sequence[Any]
    ) -> Iterator[tuple[list[Tensor], tuple[Tensor, ...]]]:
        """Boxes (P, 4) per image as each stage meets them, and their box features, without training."""
        boxes: list[Tensor] = [own.proposal_boxes.tensor for own in proposals]
        rows: tuple[Tensor, ...] = ()
        for stage in range(len(self.stages)):
            if stage > 0:
                boxes = [
                    self._moved(own_rows, own_boxes, size_of(image), stage - 1)
                    for image, own_boxes, own_rows in zip(images, boxes, rows, strict=True)
                ]
            rows = self._box_features(features, _as_proposals(images, boxes), stage)
            yield boxes, rows

    def _moved(self, rows: Tensor, boxes: Tensor, size: tuple[int, int], stage: int) -> Tensor:
        """Boxes of an image, (P, 4) or (P, C, 4) where each category has its own, as a stage's regressor moves them."""
        predictor = self._predictors[stage]
        moved = Boxes(predictor.box2box_transform.apply_deltas(predictor.bbox_pred(rows), boxes).view(-1, 4))
        moved.clip(size)
        shape = (4,) if self.config.class_agnostic_box else (self.num_classes, 4)
        clipped: Tensor = moved.tensor.view(len(rows), *shape)
        return clipped

    def _augment(
        self,
        features: Mapping[str, Tensor],
        targets: Sequence[Target],
        images: Sequence[Tensor],
        generator: torch.Generator,
        image_seeds: Sequence[int] | None,
    ) -> tuple[Tensor, Any]:
        """The augmenter's rows as the proposals of one more image, with whatever boxes give their targets."""
        augmenter = self.stages[0].loss.augmenter
        assert augmenter is not None
        transform = self._predictors[0].box2box_transform
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        here = [_here(target, self.model.device) for target in targets]
        box_features, labels, box_targets = augmenting_rows(
            augmenter,
            here,
            sizes,
            pool=lambda own: torch.cat(self._box_features(features, _as_proposals(images, own), 0)),
            encode=self.encode_boxes,
            generator=generator,
            image_generators=image_generators(generator, image_seeds, len(images)),
        )
        boxes = box_targets.new_tensor([0.0, 0.0, 100.0, 100.0]).expand(len(labels), 4)
        rows = Instances((100, 100), proposal_boxes=Boxes(boxes), gt_classes=labels)
        rows.gt_boxes = Boxes(transform.apply_deltas(box_targets, boxes))
        rows.gt_ids = torch.full_like(labels, MEMORY_ROW)
        return box_features, rows

    def walk(self, images: Sequence[Tensor]) -> tuple[Mapping[str, Tensor], list[tuple[list[Tensor], Tensor]]]:
        batch, features = self._features(images)
        proposals, _ = self._propose(batch, features, None)
        stages = list(self._stage_by_stage(images, features, proposals))
        by_image = [list(own) for own in zip(*(rows for _, rows in stages), strict=True)]
        return features, list(zip(by_image, stages[-1][0], strict=True))

    @torch.no_grad()
    def refine(self, features: Tensor, proposals: Tensor, size: tuple[int, int]) -> Tensor:
        return self._moved(features, proposals, size, len(self.stages) - 1)

    @torch.no_grad()
    def maps(self, images: Sequence[Tensor]) -> Mapping[str, Tensor]:
        self.assert_trunk_stands_still()
        return self._features(images)[1]

    def mask_scores(self, features: Mapping[str, Tensor], image: int, boxes: Tensor, labels: Tensor) -> Tensor:
        instances = Instances((0, 0), pred_boxes=Boxes(boxes), pred_classes=labels)
        own = {name: level[image : image + 1] for name, level in features.items()}
        with training_flag(self.model.roi_heads, False):
            self.model.roi_heads._forward_mask(own, [instances])
        masks: Tensor = instances.pred_masks
        return masks[:, 0]


def _here(target: Target, device: torch.device) -> Target:
    return Target(boxes=target.boxes.to(device), labels=target.labels.to(device))


def _as_proposals(images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Any]:
    """Boxes (K, 4) of each image in detectron2's form."""
    return [Instances(tuple(i.shape[-2:]), proposal_boxes=Boxes(own)) for i, own in zip(images, boxes, strict=True)]
