"""detectron2's Mask and Faster R-CNN with our classification losses: the full-strength backend.

Built from the model zoo's LVIS recipe, BGR pixels and frozen statistics included. detectron2 keeps its own anchors,
sampling and box and mask losses; classifier, classification loss, scores and the choice of detections are ours.

Shape letters: B images, P proposals of one image, R sampled RoIs of all images, D box-head width, C foreground
categories.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lttune.detectors.augment import MEMORY_ROW, augmenting_rows
from lttune.detectors.base import ClassificationStage, DetectorConfig, PartName, TrainRois
from lttune.detectors.classifiers import NormedConv2d, build_classifier
from lttune.detectors.roi_detector import RoiDetector
from lttune.detectors.rois import box_regression_loss, image_numbers, match_rois
from lttune.detectors.scopes import draw_seed, seeded, training_flag
from lttune.errors import MissingExtraError, NonFiniteLossError
from lttune.losses.base import ClassificationLoss
from lttune.types import Target

try:
    import detectron2 as installed
    from detectron2.config import CfgNode, get_cfg
    from detectron2.modeling import build_model
    from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
    from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage
except ImportError as error:
    raise MissingExtraError(
        f"the detectron2 backend cannot be imported ({error}). Install the packages it needs with "
        "`pip install 'lttune[detectron2]'` and detectron2 itself as its own installation guide says, or choose "
        "detector.backend: torchvision."
    ) from error

# Relative to the package; importing its `model_zoo` would need pkg_resources, which setuptools no longer has.
_RECIPES = Path("model_zoo", "configs", "LVISv1-InstanceSegmentation")
# Recipe and whether it has masks.
ARCHITECTURES: dict[str, tuple[str, bool]] = {
    "mask_rcnn_r50_fpn": ("mask_rcnn_R_50_FPN_1x.yaml", True),
    "mask_rcnn_r101_fpn": ("mask_rcnn_R_101_FPN_1x.yaml", True),
    "faster_rcnn_r50_fpn": ("mask_rcnn_R_50_FPN_1x.yaml", False),
    "faster_rcnn_r101_fpn": ("mask_rcnn_R_101_FPN_1x.yaml", False),
}
_TERM_NAMES = {"loss_rpn_loc": "loss_rpn_box", "loss_box_reg": "loss_box"}


class StageOutputLayers(FastRCNNOutputLayers):  # type: ignore[misc]
    """detectron2's output layers with the classifier, the loss and the scores of a classification stage."""

    def __init__(self, cfg: Any, input_shape: Any, *, stage: ClassificationStage) -> None:
        super().__init__(cfg, input_shape)
        del self.cls_score
        self.stage = stage

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(1)
        return self.stage.classifier(x), self.bbox_pred(x)

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Any]) -> dict[str, Tensor]:
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
        return {**losses, "loss_box_reg": loss_box}

    def predict_probs(self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Any]) -> Sequence[Tensor]:
        """Scores (P, C + 1) per image; detectron2 drops the last column."""
        lengths = [len(p) for p in proposals]
        scores = [self.stage.loss.scores(own) for own in torch.split(predictions[0], lengths)]
        return [torch.cat([own, own.new_zeros(len(own), 1)], dim=1) for own in scores]


class Detectron2Detector(RoiDetector):
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
        cfg = _recipe(config, num_classes)
        self.model = build_model(cfg)
        self._fixed = tuple(p for p in self.model.backbone.parameters() if not p.requires_grad)
        roi_heads = self.model.roi_heads
        loss = make_loss()
        shape = roi_heads.box_head.output_shape
        classifier = build_classifier(
            shape.channels, loss, normed=config.normed_classifier, temperature=config.temperature
        )
        predictor = roi_heads.box_predictor = StageOutputLayers(cfg, shape, stage=ClassificationStage(classifier, loss))
        self._smooth_l1_beta = predictor.smooth_l1_beta
        if config.normed_mask and roi_heads.mask_on:
            plain = roi_heads.mask_head.predictor
            roi_heads.mask_head.predictor = NormedConv2d(
                plain.in_channels, plain.out_channels, temperature=config.temperature
            )

    @property
    def stages(self) -> Sequence[ClassificationStage]:
        return [self.model.roi_heads.box_predictor.stage]

    @property
    def parts(self) -> Mapping[PartName, nn.Module]:
        roi_heads = self.model.roi_heads
        parts: dict[PartName, nn.Module] = {
            "backbone": self.model.backbone,
            "rpn": self.model.proposal_generator,
            "box_head": roi_heads.box_head,
            "classifier": roi_heads.box_predictor.stage.classifier,
            "box_regressor": roi_heads.box_predictor.bbox_pred,
        }
        return {**parts, "mask_head": roi_heads.mask_head} if roi_heads.mask_on else parts

    def losses(
        self, images: Sequence[Tensor], targets: Sequence[Target], *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        roi_heads = self.model.roi_heads
        trains_masks = self.has_masks and self.trains("backbone", "mask_head")
        instances = self._instances(images, targets, with_masks=trains_masks)
        batch, features = self._features(images)
        try:
            # detectron2 logs to a global storage, and there has to be one.
            with seeded(draw_seed(generator), self.model.device), EventStorage():
                proposals, terms = self._propose(batch, features, instances)
                proposals = roi_heads.label_and_sample_proposals(proposals, instances)
                box_features = torch.cat(self._box_features(features, proposals))
                rows = proposals
                if self.stages[0].loss.augmenter is not None:
                    more_features, more_rows = self._augment(features, targets, images, generator)
                    box_features, rows = torch.cat([box_features, more_features]), [*proposals, more_rows]
                terms |= roi_heads.box_predictor.losses(roi_heads.box_predictor(box_features), rows)
                if trains_masks:
                    with training_flag(roi_heads, True), training_flag(roi_heads.mask_head, True):
                        terms |= roi_heads._forward_mask(features, proposals)
        except FloatingPointError as error:
            raise NonFiniteLossError(f"the RPN's boxes or scores are not finite ({error}); lower optim.lr.") from error
        if not self.trains("backbone", "rpn"):
            terms = {name: term for name, term in terms.items() if not name.startswith("loss_rpn")}
        if not self.trains("backbone", "box_head", "box_regressor"):
            del terms["loss_box_reg"]
        return {_TERM_NAMES.get(name, name): term for name, term in terms.items()}

    @torch.no_grad()
    def train_rois(self, images: Sequence[Tensor], targets: Sequence[Target]) -> list[TrainRois]:
        self.assert_trunk_stands_still()
        instances = self._instances(images, targets, with_masks=False)
        batch, features = self._features(images)
        with seeded(0, self.model.device), EventStorage():  # the RPN draws anchors for a loss that is not used here
            proposals, _ = self._propose(batch, features, instances)
        proposals = add_ground_truth_to_proposals(instances, proposals)
        rois = []
        for own, rows, target in zip(proposals, self._box_features(features, proposals), targets, strict=True):
            boxes = own.proposal_boxes.tensor
            labels, ids = match_rois(
                boxes, _here(target, boxes.device), positive_iou=self.config.positive_iou, num_classes=self.num_classes
            )
            rois.append(TrainRois(boxes=boxes, features=rows, labels=labels, instance_ids=ids))
        return rois

    @torch.no_grad()
    def box_features(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        self.assert_trunk_stands_still()
        _, features = self._features(images)
        here = [own.to(self.model.device) for own in boxes]
        return list(self._box_features(features, _as_proposals(images, here)))

    def encode_boxes(self, goals: Tensor, boxes: Tensor) -> Tensor:
        deltas: Tensor = self.model.roi_heads.box_predictor.box2box_transform.get_deltas(boxes, goals)
        return deltas

    def _features(self, images: Sequence[Tensor]) -> tuple[Any, dict[str, Tensor]]:
        """Normalised and padded images, and their feature maps. Images come as RGB; the recipe wants BGR."""
        batch = self.model.preprocess_image([{"image": image.flip(0)} for image in images])
        return batch, self.model.backbone(batch.tensor)

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

    def _box_features(self, features: Mapping[str, Tensor], proposals: Sequence[Any]) -> tuple[Tensor, ...]:
        """Box-head output (P, D) per image."""
        roi_heads = self.model.roi_heads
        maps = [features[name] for name in roi_heads.box_in_features]
        rows: Tensor = roi_heads.box_head(roi_heads.box_pooler(maps, [p.proposal_boxes for p in proposals]))
        lengths = [len(p) for p in proposals]
        return tuple(torch.split(rows.flatten(1), lengths))

    def _augment(
        self,
        features: Mapping[str, Tensor],
        targets: Sequence[Target],
        images: Sequence[Tensor],
        generator: torch.Generator,
    ) -> tuple[Tensor, Any]:
        """The augmenter's rows as the proposals of one more image, with whatever boxes give their targets."""
        augmenter = self.stages[0].loss.augmenter
        assert augmenter is not None
        transform = self.model.roi_heads.box_predictor.box2box_transform
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        here = [_here(target, self.model.device) for target in targets]
        box_features, labels, box_targets = augmenting_rows(
            augmenter,
            here,
            sizes,
            pool=lambda own: torch.cat(self._box_features(features, _as_proposals(images, own))),
            encode=self.encode_boxes,
            generator=generator,
        )
        boxes = box_targets.new_tensor([0.0, 0.0, 100.0, 100.0]).expand(len(labels), 4)
        rows = Instances((100, 100), proposal_boxes=Boxes(boxes), gt_classes=labels)
        rows.gt_boxes = Boxes(transform.apply_deltas(box_targets, boxes))
        rows.gt_ids = torch.full_like(labels, MEMORY_ROW)
        return box_features, rows

    def refine(self, images: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
        batch, features = self._features(images)
        proposals, _ = self._propose(batch, features, None)
        rois = []
        predictor = self.model.roi_heads.box_predictor
        for own, rows in zip(proposals, self._box_features(features, proposals), strict=True):
            deltas = predictor.bbox_pred(rows)
            boxes = Boxes(predictor.box2box_transform.apply_deltas(deltas, own.proposal_boxes.tensor).view(-1, 4))
            boxes.clip(own.image_size)
            own_boxes = (4,) if self.config.class_agnostic_box else (self.num_classes, 4)
            rois.append((rows, boxes.tensor.view(len(rows), *own_boxes)))
        return features, rois

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


def _recipe(config: DetectorConfig, num_classes: int) -> "CfgNode":
    """The zoo's recipe with our counts. Without weights nothing of it may be frozen: no statistics, no first stages."""
    file_name, has_masks = ARCHITECTURES[config.name]
    cfg = get_cfg()
    cfg.merge_from_file(str(Path(installed.__file__).parent / _RECIPES / file_name))
    model = cfg.MODEL
    model.DEVICE = "cpu"
    model.MASK_ON = has_masks
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
    if config.weights is None:
        model.RESNETS.NORM = "BN"
        model.BACKBONE.FREEZE_AT = 0
    return cfg
