"""What every detector backend promises.

Shape letters: B images, P proposals of one image, M instances of one image, D box-head width, C foreground categories,
m mask side, H W pixels. Images are uint8 RGB tensors (3, H, W); the detector normalises and pads them itself, because
channel order and statistics belong to its recipe. Boxes are xyxy in pixels of the image as given.
"""

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


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainRois:
    """All proposals of one training image, its ground-truth boxes added at the end, matched but not sampled."""

    boxes: Tensor  # (P, 4) float32
    features: Tensor  # (P, D) box-head output
    labels: Tensor  # (P,) int64 in [0, C], C background
    instance_ids: Tensor  # (P,) int64 matched ground truth of the image, -1 background


@dataclass(frozen=True, kw_only=True, eq=False)
class TestRois:
    """All proposals of one test image after box regression, before scores are known."""

    __test__ = False  # not a test case, whatever pytest thinks of its name

    features: Tensor  # (P, D) box-head output
    boxes: Tensor  # (P, 4) refined boxes where the regressor is class-agnostic, else (P, C, 4)
    masks: Tensor | None  # (P, m, m) float32 in [0, 1] where the mask head is class-agnostic, else None


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

    @property
    @abstractmethod
    def stages(self) -> Sequence[ClassificationStage]:
        """The classification stages, first to last."""

    @property
    @abstractmethod
    def parts(self) -> Mapping[PartName, nn.Module]:
        """The modules by part name; together they hold every parameter. A detector without masks has no mask_head."""

    @property
    def has_masks(self) -> bool:
        return "mask_head" in self.parts

    @property
    def has_class_agnostic_heads(self) -> bool:
        """Whether boxes and masks do not depend on the category, so that a frozen trunk fixes them once for all."""
        return self.config.class_agnostic_box and (not self.has_masks or self.config.class_agnostic_mask)

    @abstractmethod
    def losses(
        self, images: Sequence[Tensor], targets: Sequence[Target], *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Named scalar losses of a training batch: `loss_rpn_cls`, `loss_rpn_box`, `loss_box`, `loss_mask`, and the
        terms of each stage's classification loss. A term that reaches no part in training is left out.

        Args:
            images: B tensors.
            targets: B targets; an image without instances is allowed.
            generator: the source of every random draw of the step; the global generator is left as it was.
        """

    @abstractmethod
    def detect(self, images: Sequence[Tensor], *, max_dets: int) -> list[Detections]:
        """The `max_dets` best detections of each image after per-category NMS."""

    @abstractmethod
    def train_rois(self, images: Sequence[Tensor], targets: Sequence[Target]) -> list[TrainRois]:
        """Every proposal of each image as the classifier meets it in training, without sampling.

        The trunk must be frozen: features are those of evaluation mode.
        """

    @abstractmethod
    def test_rois(self, images: Sequence[Tensor]) -> list[TestRois]:
        """Every proposal of each image as it reaches the classifier at test time."""

    @abstractmethod
    def box_features(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Box-head output (K, D) of given boxes (K, 4) of each image.

        The trunk must be frozen: features are those of evaluation mode.
        """

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
        return self
