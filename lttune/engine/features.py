"""RoI features of a frozen trunk: computed once per stage-1 checkpoint, memory-mapped, shared by every trial.

Shape letters: B images, R rows (proposals) of all images, P proposals of one image, N rows of one batch, n positives
among them, G annotations of one image, D box-head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lttune.detectors.base import NO_AREA, Detector, TrainRois
from lttune.engine.columns import Columns, ColumnWriter, read_columns
from lttune.engine.images import ImageSource, to_file_pixels
from lttune.engine.seeds import row_keys
from lttune.evaluation.ground_truth import GroundTruth
from lttune.evaluation.pairs import box_iou_table, mask_areas, mask_iou_table
from lttune.masks import decode, paste
from lttune.types import FloatArray, IntArray

Progress = Callable[[int, int], None]
# Images a cache is built from at a time; they share one size, so that nothing is padded.
BUILD_BATCH = 8
# Features of one split up to this size are kept unrounded. Rounding to float16 changes nothing that one can see in a
# feature, but sends 1500 iterations another way: it moved AP by up to 0.13, a third of the spread over seeds.
FLOAT32_BYTES = 1 << 30
# Images whose rows are drawn at a time: 8 million rows of LVIS, for which drawing takes half a gigabyte.
_DRAWN_TOGETHER = 1 << 12


@dataclass(frozen=True, eq=False)
class RoiBatch:
    """Sampled rows of a batch, image by image; those of a cascade's later stages, as far as they have an area, are
    `later`."""

    features: Tensor  # (N, D) float32
    labels: Tensor  # (N,) int64 in [0, C]
    instance_ids: Tensor  # (N,) int64 counted over the batch, -1 background, -2 memory row
    image_ids: Tensor  # (N,) int64 counted over the batch, -1 memory row
    box_targets: Tensor | None = None  # (n, 4) float32 regression targets of the positives; None if not asked for
    later: tuple["RoiBatch", ...] = ()


class RoiSource(Protocol):
    """Where classifier training finds its rows."""

    def batch(self, images: IntArray, epoch: int) -> RoiBatch:
        """The rows sampled from these images in this epoch."""


@dataclass(frozen=True, kw_only=True)
class RoiSampling:
    """How rows are drawn: at most `num_rois` per image, at most `positive_fraction` of them positive."""

    num_rois: int
    positive_fraction: float
    num_classes: int
    seed: int


class CachedRois:
    """Rows from a feature cache; one epoch is drawn at once.

    Args:
        folder: made by `build_train_features`.
        sampling: how rows are drawn.
        device: of the batches.
        with_box_targets: whether batches carry them.
    """

    def __init__(
        self, folder: Path, sampling: RoiSampling, device: torch.device, *, with_box_targets: bool = False
    ) -> None:
        columns = read_columns(folder)
        self._stages = [
            _StageColumns(
                features=torch.from_numpy(columns[f"features{ending}"]),
                labels=torch.from_numpy(columns[f"labels{ending}"]),
                instance_ids=torch.from_numpy(columns[f"instance_ids{ending}"]),
            )
            for ending in _endings(columns)
        ]
        self._labels = self._stages[0].labels
        self._box_targets: Tensor | None = None
        if with_box_targets:
            self._box_targets = torch.from_numpy(columns["box_targets"])
            # They are of positives alone; a positive's number is how many there are up to it, less one.
            self._positive = (self._labels < sampling.num_classes).cumsum(0) - 1
        self._num_instances = np.asarray(columns["num_instances"], np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(columns["num_rows"])]).astype(np.int64)
        self._sampling = sampling
        self._device = device
        self._epoch = -1
        self._rows: IntArray = np.empty(0, np.int64)
        self._starts: IntArray = np.empty(0, np.int64)

    def batch(self, images: IntArray, epoch: int) -> RoiBatch:
        if epoch != self._epoch:
            self._draw(epoch)
        rows = torch.from_numpy(np.concatenate([self._rows[self._starts[i] : self._starts[i + 1]] for i in images]))
        counts = self._starts[images + 1] - self._starts[images]
        stages = [
            _on_device(columns.take(rows), counts, self._num_instances[images], self._device)
            for columns in self._stages
        ]
        box_targets: Tensor | None = None
        if self._box_targets is not None:
            positives = self._positive[rows[self._labels[rows] < self._sampling.num_classes]]
            box_targets = self._box_targets.index_select(0, positives).to(self._device)
        return replace(stages[0], box_targets=box_targets, later=tuple(stages[1:]))

    def _draw(self, epoch: int) -> None:
        """Draw the rows of an epoch, a block of images at a time: drawing needs many times the memory of its result."""
        parts, counts = [], []
        num_images = len(self._offsets) - 1
        for first in range(0, num_images, _DRAWN_TOGETHER):
            images = np.arange(first, min(first + _DRAWN_TOGETHER, num_images))
            offsets = self._offsets[first : images[-1] + 2]
            labels = self._labels[offsets[0] : offsets[-1]].numpy()
            rows, own_counts = draw_rows(labels, offsets - offsets[0], images, self._sampling, epoch)
            parts.append(offsets[0] + rows)
            counts.append(own_counts)
        self._rows = np.concatenate(parts)
        self._starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
        self._epoch = epoch


class LiveRois:
    """The same rows from the images themselves through the frozen trunk: exact, slow, the check of the cache."""

    def __init__(self, detector: Detector, source: ImageSource, sampling: RoiSampling, device: torch.device) -> None:
        self._detector = detector
        self._source = source
        self._sampling = sampling
        self._device = device

    def batch(self, images: IntArray, epoch: int) -> RoiBatch:
        ascending = np.unique(images)
        found: dict[int, TrainRois] = {}
        for part in self._source.uniform_batches(ascending, BUILD_BATCH):
            loaded = [self._source.load(int(i), epoch) for i in part]
            pixels = [image.to(self._device) for image, _ in loaded]
            rois = self._detector.train_rois(pixels, [target for _, target in loaded])
            found.update(zip(part.tolist(), rois, strict=True))
        per_image = [found[int(i)] for i in images]
        labels = torch.cat([rois.labels for rois in per_image]).cpu()
        offsets = np.concatenate([[0], np.cumsum([len(rois.labels) for rois in per_image])])
        rows, counts = draw_rows(labels.numpy(), offsets, images, self._sampling, epoch)
        picked = torch.from_numpy(rows)
        num_instances = np.array([int(rois.instance_ids.max()) + 1 if len(rois.labels) else 0 for rois in per_image])
        first, *later = (
            _on_device(_StageColumns.join(of_stage).take(picked), counts, num_instances, self._device)
            for of_stage in zip(*((rois, *rois.later) for rois in per_image), strict=True)
        )
        return replace(first, later=tuple(later))


@dataclass(frozen=True, kw_only=True, eq=False)
class _StageColumns:
    """Rows as one classification stage meets them."""

    features: Tensor  # (R, D)
    labels: Tensor  # (R,) int64, or int32 in a cache
    instance_ids: Tensor  # (R,) the same, within the image

    @staticmethod
    def join(per_image: Sequence[TrainRois]) -> "_StageColumns":
        return _StageColumns(
            features=torch.cat([rois.features for rois in per_image]),
            labels=torch.cat([rois.labels for rois in per_image]),
            instance_ids=torch.cat([rois.instance_ids for rois in per_image]),
        )

    def take(self, rows: Tensor) -> "_StageColumns":
        rows = rows.to(self.labels.device)
        # Five times faster than indexing with brackets.
        features, labels, instance_ids = (
            column.index_select(0, rows) for column in (self.features, self.labels, self.instance_ids)
        )
        return _StageColumns(features=features, labels=labels.long(), instance_ids=instance_ids.long())


def _on_device(rows: _StageColumns, counts: IntArray, num_instances: IntArray, device: torch.device) -> RoiBatch:
    """Drawn rows of one stage as a batch, but those without an area; `counts` rows and instances are of each image."""
    features, labels, image_ids = rows.features, rows.labels, _image_ids(counts)
    instance_ids = _over_batch(rows.instance_ids.cpu(), counts, num_instances)
    dropped = labels == NO_AREA
    if bool(dropped.any()):
        kept = torch.nonzero(~dropped)[:, 0]
        features, labels = features.index_select(0, kept), labels[kept]
        instance_ids, image_ids = instance_ids[kept.cpu()], image_ids[kept.cpu()]
    return RoiBatch(
        features=features.to(device, torch.float32),
        labels=labels.to(device),
        instance_ids=instance_ids.to(device),
        image_ids=image_ids.to(device),
    )


def _ending(stage: int) -> str:
    """How the names of a stage's columns end; those of a detector with one stage do not tell it."""
    return f"_stage{stage}" if stage > 0 else ""


def _endings(columns: Columns) -> list[str]:
    return [_ending(stage) for stage in range(sum(name.startswith("features") for name in columns))]


def draw_rows(
    labels: IntArray, offsets: IntArray, images: IntArray, sampling: RoiSampling, epoch: int
) -> tuple[IntArray, IntArray]:
    """Sample rows uniformly without replacement, positives and background apart, image by image.

    Args:
        labels: (R,) of all rows of the images.
        offsets: (B + 1,) where each image's rows start.
        images: (B,) their numbers, which key the draw.

    Returns:
        rows (K,) in the order of the images, and how many there are of each image (B,).
    """
    counts = np.diff(offsets)
    group = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(labels)) - np.repeat(offsets[:-1], counts)
    keys = row_keys(sampling.seed, epoch, np.repeat(images, counts), within)
    is_background = labels == sampling.num_classes
    num_background = np.bincount(group[is_background], minlength=len(counts))
    num_positive = np.minimum(counts - num_background, int(sampling.num_rois * sampling.positive_fraction))
    wanted = np.stack([num_positive, np.minimum(num_background, sampling.num_rois - num_positive)], axis=1)
    half = group * 2 + is_background
    # One sort by half and, within it, by the key's upper bits; the sort of plain integers is the fastest there is.
    order = np.argsort((half.astype(np.uint64) << np.uint64(40)) | (keys >> np.uint64(24)))
    sizes = np.bincount(half, minlength=2 * len(counts))
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = order[rank < wanted.ravel()[half[order]]]
    return kept, wanted.sum(axis=1)


def _over_batch(instance_ids: Tensor, rows: IntArray, instances: IntArray) -> Tensor:
    """Instance numbers of each image, counted over the batch; background stays -1."""
    first = torch.from_numpy(np.repeat(np.cumsum(instances) - instances, rows))
    return torch.where(instance_ids < 0, instance_ids, instance_ids + first)


def _image_ids(rows: IntArray) -> Tensor:
    """The image of each row, counted over the batch."""
    return torch.from_numpy(np.repeat(np.arange(len(rows)), rows))


@torch.no_grad()
def build_train_features(detector: Detector, source: ImageSource, folder: Path, progress: Progress) -> None:
    """Write every proposal of every training image, ground-truth boxes included."""
    detector.eval()
    device = next(detector.parameters()).device
    everything = np.arange(len(source))
    with ColumnWriter(folder) as writer:
        for part in source.uniform_batches(everything, BUILD_BATCH):
            loaded = [source.load(int(i)) for i in part]
            images = [image.to(device) for image, _ in loaded]
            for rois, (_, target) in zip(
                detector.train_rois(images, [target for _, target in loaded]), loaded, strict=True
            ):
                most_rows = len(source) * detector.config.num_train_proposals * len(detector.stages)
                positive = torch.nonzero(rois.instance_ids >= 0)[:, 0]
                goals = target.boxes.to(device)[rois.instance_ids[positive]]
                writer.append(
                    box_targets=detector.encode_boxes(goals, rois.boxes[positive]).cpu().numpy(),
                    num_rows=np.array([len(rois.labels)], np.int32),
                    num_instances=np.array([len(target.labels)], np.int32),
                )
                for stage, own in enumerate((rois, *rois.later)):
                    writer.append(
                        **{
                            f"features{_ending(stage)}": stored(own.features, most_rows),
                            f"labels{_ending(stage)}": own.labels.cpu().numpy().astype(np.int32),
                            f"instance_ids{_ending(stage)}": own.instance_ids.cpu().numpy().astype(np.int32),
                        }
                    )
            progress(int(part[-1]) + 1, len(source))


@dataclass(frozen=True, eq=False)
class TestFeatures:
    """Rows of one half of the validation images."""

    __test__ = False

    features: tuple[Tensor, ...]  # of each stage (R, D) float32, or float16 where there are many
    # (R, 4) float32, in the detector's pixels: refined where the regressor is class-agnostic, else what it moves.
    boxes: Tensor
    offsets: IntArray  # (B + 1,) where each image's rows start
    sizes: IntArray | None  # (B, 2) height and width of each image as the detector sees it; not beside tables
    tables: "IouTables | None"  # where boxes and masks do not depend on the category

    @staticmethod
    def open(folder: Path) -> "TestFeatures":
        columns = read_columns(folder)
        return TestFeatures(
            features=tuple(torch.from_numpy(columns[f"features{ending}"]) for ending in _endings(columns)),
            boxes=torch.from_numpy(columns["boxes"]),
            offsets=np.concatenate([[0], np.cumsum(columns["num_rows"])]).astype(np.int64),
            sizes=columns.get("sizes"),
            tables=IouTables.of(columns) if "table_size" in columns else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class IouTables:
    """IoUs of every row with the annotations of its image."""

    offsets: IntArray  # (B + 1,) where each image's (P, G) tables start
    box_areas: FloatArray  # (R,) square pixels of the file
    box_iou: FloatArray  # tables one after the other, row by row
    mask_areas: FloatArray | None  # (R,)
    mask_iou: FloatArray | None

    @staticmethod
    def of(columns: Columns) -> "IouTables":
        return IouTables(
            offsets=np.concatenate([[0], np.cumsum(columns["table_size"])]).astype(np.int64),
            box_areas=columns["box_areas"],
            box_iou=columns["box_iou"],
            mask_areas=columns.get("mask_areas"),
            mask_iou=columns.get("mask_iou"),
        )


@torch.no_grad()
def build_test_features(
    detector: Detector, source: ImageSource, ground_truth: GroundTruth, folder: Path, progress: Progress
) -> None:
    """Write every proposal of every image of one half.

    Where boxes and masks do not depend on the category, they come with their IoU to every annotation of the image.
    """
    detector.eval()
    device = next(detector.parameters()).device
    with ColumnWriter(folder) as writer:
        for part in source.uniform_batches(np.arange(len(source)), BUILD_BATCH):
            images = [source.load(int(i))[0].to(device) for i in part]
            for image, pixels, rois in zip(part.tolist(), images, detector.test_rois(images), strict=True):
                most_rows = len(source) * detector.config.num_test_proposals * len(detector.stages)
                # Boxes that are regressed from features are to be those of the detector, so these are not rounded.
                num_rounded = most_rows if detector.config.class_agnostic_box else 0
                for stage, features in enumerate((rois.features, *rois.later)):
                    writer.append(**{f"features{_ending(stage)}": stored(features, num_rounded)})
                own = rois.boxes if detector.config.class_agnostic_box else rois.proposals
                writer.append(boxes=own.cpu().numpy(), num_rows=np.array([len(own)], np.int32))
                if not detector.config.has_class_agnostic_heads:
                    writer.append(sizes=np.array([pixels.shape[-2:]], np.int64))
                    continue
                height = int(source.annotations.image_heights[image])
                width = int(source.annotations.image_widths[image])
                boxes = to_file_pixels(rois.boxes.cpu(), pixels.shape[-2:], height, width)
                annotations = ground_truth.image_annotations(image)
                table = box_iou_table(boxes.numpy(), ground_truth.boxes_xywh[annotations])
                sides = (boxes[:, 2:] - boxes[:, :2]).double().numpy()
                writer.append(
                    table_size=np.array([table.size], np.int64),
                    box_areas=sides[:, 0] * sides[:, 1],
                    box_iou=table.ravel(),
                )
                if rois.masks is not None:
                    masks = paste(rois.masks.cpu(), boxes, height, width)
                    truth = np.zeros((len(annotations), height, width), np.bool_)
                    for i, annotation in enumerate(annotations):
                        truth[i] = decode(ground_truth.rles[annotation])
                    writer.append(mask_iou=mask_iou_table(masks, truth).ravel(), mask_areas=mask_areas(masks))
            progress(int(part[-1]) + 1, len(source))


def stored(features: Tensor, num_rows: int) -> npt.NDArray[np.float32 | np.float16]:
    """Features as they are kept: float32 while all rows of a cache fit the limit, float16 beyond it."""
    fits = num_rows * features.shape[1] * 4 <= FLOAT32_BYTES
    return features.to(torch.float32 if fits else torch.float16).cpu().numpy()
