"""What every detector backend promises.

Shape letters: B images, P proposals of one image, M instances of one image, D box-head width, C foreground categories,
m mask side, H W pixels. Images are uint8 RGB tensors (3, H, W); the detector normalises and pads them itself, because
channel order and statistics belong to its recipe. Boxes are xyxy in pixels of the image as given.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lttune.errors import InputError, did_you_mean
from lttune.losses.base import ClassificationLoss
from lttune.types import Detections, Target

PartName = Literal["backbone", "rpn", "box_head", "classifier", "box_regressor", "mask_head"]
PARTS: tuple[PartName, ...] = ("backbone", "rpn", "box_head", "classifier", "box_regressor", "mask_head")
NO_AREA = -1  # label of a proposal that a cascade's stage before has moved to nothing
# What has to stand still for box features, boxes and masks to be the same in every trial.
TRUNK: tuple[PartName, ...] = ("backbone", "rpn", "box_head", "box_regressor", "mask_head")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Architecture and RoI rules; counts are per image.

    Attributes:
        name: an architecture known to the backend, for example `mask_rcnn_r50_fpn`.
        backend: `auto` takes detectron2 where it is installed and knows the name, else torchvision.
        class_agnostic_box: one box regression for all categories.
        class_agnostic_mask: one mask for all categories.
        num_train_proposals: proposals kept after RPN's NMS in training.
        num_test_proposals: the same at test time.
        num_rois: RoIs sampled per image for the box head.
        positive_fraction: largest share of positives among them, in (0, 1].
        positive_iou: IoU with a ground truth from which a proposal is positive.
        normed_classifier: cosine classifier (ECM, ROG with Seesaw) instead of a linear one.
        normed_mask: cosine mask predictor (ECM, LOCE, ROG with Seesaw) instead of a plain 1x1 convolution.
        temperature: scale of the cosine of both.
        score_threshold: detections below it are dropped.
        nms_iou: per-category NMS threshold.
        weights: path or `detectron2://` address of initial weights (backbone or whole detector), or None for a random
            start.
        recipe: whose pixels, place of the stride in residual blocks, normalisation and weights of a cascade's stages:
            mmdetection's, detectron2's, or what the backend has of its own.
        roi_align: `aligned` with as many samples per bin as it has pixels; `legacy` with two per axis, not aligned and
            boxes a pixel wider, as in mmdetection 1; or what the backend has of its own.
        box_loss_beta: where smooth L1 of the boxes turns from square to straight, in encoded units; 0 is plain L1;
            None is what the backend has of its own.
        rpn_loss_beta: the same of the RPN's boxes.
    """

    name: str
    backend: Literal["auto", "torchvision", "detectron2"] = "auto"
    class_agnostic_box: bool = False
    class_agnostic_mask: bool = False
    num_train_proposals: int = 1000
    num_test_proposals: int = 1000
    num_rois: int = 512
    positive_fraction: float = 0.25
    positive_iou: float = 0.5
    normed_classifier: bool = False
    normed_mask: bool = False
    temperature: float = 20.0
    score_threshold: float = 1e-4
    nms_iou: float = 0.5
    weights: str | None = None
    recipe: Literal["backend", "mmdet", "d2"] = "backend"
    roi_align: Literal["backend", "aligned", "legacy"] = "backend"
    box_loss_beta: float | None = None
    rpn_loss_beta: float | None = None

    def __post_init__(self) -> None:
        for field in ("num_train_proposals", "num_test_proposals", "num_rois"):
            if getattr(self, field) < 1:
                raise InputError(f"detector.{field} is {getattr(self, field)}; use at least 1.")
        for field in ("positive_fraction", "positive_iou", "nms_iou"):
            if not 0 < getattr(self, field) <= 1:
                raise InputError(f"detector.{field} is {getattr(self, field)}; use a value in (0, 1].")
        if not self.temperature > 0:
            raise InputError(f"detector.temperature is {self.temperature}; use a value above 0, for example 20.")
        if not 0 <= self.score_threshold < 1:
            raise InputError(f"detector.score_threshold is {self.score_threshold}; use a value in [0, 1).")
        for field in ("box_loss_beta", "rpn_loss_beta"):
            beta = getattr(self, field)
            if not (beta is None or 0 <= beta < math.inf):
                raise InputError(f"detector.{field} is {beta}; use 0 for plain L1, or a value above it, for example 1.")
        if self.is_cascade and not self.class_agnostic_box:
            raise InputError(
                f"detector.class_agnostic_box is {self.class_agnostic_box}, but the stages of {self.name} hand on one "
                "box per proposal, whatever its category; set it to true."
            )

    @property
    def is_cascade(self) -> bool:
        """Whether the named architecture has several classification stages."""
        return self.name.startswith("cascade_")

    @property
    def has_masks(self) -> bool:
        """Whether the named architecture has a mask head."""
        return "mask_" in self.name

    @property
    def has_class_agnostic_heads(self) -> bool:
        """Whether boxes and masks do not depend on the category, so that a frozen trunk fixes them once for all."""
        return self.class_agnostic_box and (self.class_agnostic_mask or not self.has_masks)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainRois:
    """All proposals of one training image, its ground-truth boxes added at the end, matched but not sampled.

    In a cascade these are the first stage's, and the same proposals as the later stages meet them are `later`: moved by
    the regressor before, matched anew, in the same order.
    """

    boxes: Tensor  # (P, 4) float32
    features: Tensor  # (P, D) box-head output
    labels: Tensor  # (P,) int64 in [0, C], C background; NO_AREA where a later stage does not train on it
    instance_ids: Tensor  # (P,) int64 matched ground truth of the image, -1 background
    later: tuple["TrainRois", ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class TestRois:
    """All proposals of one test image after box regression, before scores are known."""

    __test__ = False  # not a test case, whatever pytest thinks of its name

    features: Tensor  # (P, D) box-head output
    proposals: Tensor  # (P, 4) as the box regressor meets them, the last one of a cascade
    boxes: Tensor  # (P, 4) refined boxes where the regressor is class-agnostic, else (P, C, 4)
    masks: Tensor | None  # (P, m, m) float32 in [0, 1] where the mask head is class-agnostic, else None
    later: tuple[Tensor, ...] = ()  # (P, D) box-head output of each later stage of a cascade


class ClassificationStage(nn.Module):
    """A classifier and its loss: one in a plain RoI head, three in a cascade."""

    def __init__(self, classifier: nn.Module, loss: ClassificationLoss) -> None:
        super().__init__()
        self.classifier = classifier
        self.loss = loss


class Detector(nn.Module, ABC):
    """A two-stage detector whose classification losses are ours.

    Parts that `freeze_except` leaves out neither get gradients nor update their normalisation statistics, whatever
    `train()` says.
    """

    config: DetectorConfig
    num_classes: int
    _frozen: frozenset[PartName] = frozenset()
    # Parameters that the recipe never trains, such as the first layers of a backbone with given weights.
    _fixed: tuple[nn.Parameter, ...] = ()
    # Normalisations whose statistics the recipe never moves, while their scale and shift may train.
    _steady: tuple[nn.Module, ...] = ()
    # What each stage's losses count.
    stage_weights: tuple[float, ...] = (1.0,)

    @property
    @abstractmethod
    def stages(self) -> Sequence[ClassificationStage]:
        """The classification stages, first to last."""

    @property
    @abstractmethod
    def parts(self) -> Mapping[PartName, nn.Module]:
        """The modules by part name; together they hold every parameter. A detector without masks has no mask_head; in a
        cascade box_head, classifier and box_regressor hold one module per stage."""

    @property
    def has_masks(self) -> bool:
        return "mask_head" in self.parts

    @abstractmethod
    def losses(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        *,
        generator: torch.Generator,
        image_seeds: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """Named scalar losses of a training batch: `loss_rpn_cls`, `loss_rpn_box`, `loss_box`, `loss_mask`, and the
        terms of each stage's classification loss. A term that reaches no part in training is left out. In a cascade
        `loss_box` and the classification terms are named and weighted by `of_stage`.

        Args:
            images: B tensors.
            targets: B targets; an image without instances is allowed.
            generator: the source of every random draw of the step; the global generator is left as it was.
            image_seeds: B seeds of what is drawn for one image alone (anchors, RoIs, jitter), so that an image's draws
                do not depend on the others of its batch.
        """

    @abstractmethod
    def detect(self, images: Sequence[Tensor], *, max_dets: int, has_like_masks: bool = False) -> list[Detections]:
        """The `max_dets` best detections of each image after per-category NMS.

        Args:
            images: B tensors.
            max_dets: of an image.
            has_like_masks: whether masks are those of `masks`, to the bit.
        """

    @abstractmethod
    def train_rois(self, images: Sequence[Tensor], targets: Sequence[Target]) -> list[TrainRois]:
        """Every proposal of each image as the classifier meets it in training, without sampling.

        The trunk must be frozen: features are those of evaluation mode.
        """

    @abstractmethod
    def test_rois(self, images: Sequence[Tensor]) -> list[TestRois]:
        """Every proposal of each image as it reaches the classifier at test time."""

    @abstractmethod
    def refine(self, features: Tensor, proposals: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes (P, 4), or (P, C, 4) where each category has its own, as the box regressor moves an image's proposals,
        clipped to the image.

        Args:
            features: (P, D) of the last stage.
            proposals: (P, 4) as in `TestRois`.
            size: (H, W) of the image.
        """

    @abstractmethod
    def maps(self, images: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """Feature maps (B, c, h, w) by name, of evaluation mode; padding is seen in them."""

    @abstractmethod
    def masks(self, maps: Mapping[str, Tensor], image: int, boxes: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities (K, m, m) of boxes (K, 4) and labels (K,) in one image of a batch of `maps`; each is the
        same to the bit whichever others are asked for with it."""

    @abstractmethod
    def box_features(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Box-head output (K, D) of given boxes (K, 4) of each image.

        The trunk must be frozen: features are those of evaluation mode.
        """

    def of_stage(self, stage: int, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Terms of one stage as they are trained: in a cascade times the stage's weight and named `NAME_stage0`."""
        if len(self.stages) == 1:
            return dict(terms)
        return {f"{name}_stage{stage}": term * self.stage_weights[stage] for name, term in terms.items()}

    def scores(self, features: Sequence[Tensor]) -> Tensor:
        """(P, C) scores of proposals, from their box features (P, D) at each stage.

        A cascade averages the raw logits and lets the last stage's loss activate the mean, as all published codes do;
        detectron2 averages probabilities.
        """
        logits = [stage.classifier(own) for stage, own in zip(self.stages, features, strict=True)]
        mean = logits[0] if len(logits) == 1 else torch.stack(logits).mean(dim=0)
        return self.stages[-1].loss.scores(mean)

    @abstractmethod
    def encode_boxes(self, goals: Tensor, boxes: Tensor) -> Tensor:
        """Regression targets (K, 4) that lead from boxes (K, 4), each with an area, to goals (K, 4)."""

    @abstractmethod
    def box_loss(self, features: Tensor, labels: Tensor, box_targets: Tensor) -> Tensor:
        """The box regressor's loss: a sum over positives, divided by all rows, so that each positive weighs the same
        in every batch.

        Args:
            features: (N, D) box-head output.
            labels: (N,) int64 in [0, C], C background.
            box_targets: (n, 4) regression targets of the positives alone, in their order.
        """

    def freeze_except(self, parts: Iterable[PartName]) -> None:
        """Train only the named parts; all parts named means nothing is frozen but what the recipe itself fixes.

        Raises:
            InputError: a name is not a part of this detector.
        """
        wanted = set(parts)
        for name in wanted:
            if name not in self.parts:
                raise InputError(f"'{name}' is not a part of {self.config.name}.{did_you_mean(name, list(self.parts))}")
        self._frozen = frozenset(name for name in self.parts if name not in wanted)
        for name, module in self.parts.items():
            module.requires_grad_(name in wanted)
        for parameter in self._fixed:
            parameter.requires_grad_(False)
        self.train(self.training)

    def trains(self, *parts: PartName) -> bool:
        """Whether any of these parts is there and not frozen."""
        return any(name in self.parts and name not in self._frozen for name in parts)

    def train(self, mode: bool = True) -> "Detector":
        super().train(mode)
        for name in self._frozen:
            self.parts[name].train(False)
        for norm in self._steady:
            norm.train(False)
        return self
