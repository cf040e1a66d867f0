"""Judges a detector on one half of the validation images, from cached features or from the images themselves.

Shape letters: N detections of all images, D of one.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lttune.detectors.base import Detector
from lttune.detectors.postprocess import select_detections
from lttune.engine.features import BUILD_BATCH, TestFeatures
from lttune.engine.images import ImageSource, to_file_pixels
from lttune.engine.parallel import ALONE, Ranks
from lttune.evaluation.ground_truth import GroundTruth
from lttune.evaluation.lvis_ap import DetectionColumns, Metrics, evaluate
from lttune.evaluation.pairs import box_pairs, mask_pairs, table_pairs
from lttune.evaluation.report import EvaluationReport, IouType
from lttune.evaluation.stream import DetectionStream
from lttune.masks import Rle, encode_pasted, rle_areas
from lttune.types import FloatArray, IntArray

# Images whose cached rows are scored at a time.
_SCORED_TOGETHER = 64
# Images whose detections may wait for the thread that matches them.
_IMAGES_BEHIND = 32


class Judge(Protocol):
    """Evaluates a detector as it stands; the detector is in evaluation mode."""

    def report(self, detector: Detector, *, max_dets: int, ranks: Ranks = ALONE) -> EvaluationReport:
        """Metrics with at most `max_dets` detections per image.

        Args:
            ranks: those who share the work, each of the others by `assist`.
        """

    def assist(self, detector: Detector, *, max_dets: int, ranks: Ranks) -> None:
        """Do a later rank's share of a report that the first one makes."""


@dataclass(frozen=True, eq=False)
class Found:
    """Detections of all images as columns."""

    image: IntArray  # (N,)
    category: IntArray  # (N,)
    score: FloatArray  # (N,)

    @staticmethod
    def join(image: Iterable[int], labels: list[Tensor], scores: list[Tensor]) -> "Found":
        counts = [len(part) for part in labels]
        return Found(
            image=np.repeat(np.fromiter(image, np.int64), counts),
            category=torch.cat(labels).cpu().numpy(),
            score=torch.cat(scores).double().cpu().numpy(),
        )

    def columns(self, area: FloatArray) -> DetectionColumns:
        return DetectionColumns(image=self.image, category=self.category, score=self.score, area=area)


def find_in(
    rows: TestFeatures, image: int, detector: Detector, *, max_dets: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a detector, whose boxes may depend on the category, finds in one image of the cache, as `Detector.detect`
    does: rows of the image (D,), labels (D,), scores (D,) and boxes (D, 4) in the detector's pixels."""
    start, stop = rows.offsets[image : image + 2]
    device = next(detector.stages[0].parameters()).device
    # Image by image: a product of another height may round differently.
    features = [own[start:stop].to(device, torch.float32) for own in rows.features]
    boxes = rows.boxes[start:stop].to(device)
    if not detector.config.class_agnostic_box:
        assert rows.sizes is not None
        boxes = detector.refine(features[-1], boxes, (int(rows.sizes[image, 0]), int(rows.sizes[image, 1])))
    row, label, score = select_detections(
        boxes,
        detector.scores(features),
        score_threshold=detector.config.score_threshold,
        nms_iou=detector.config.nms_iou,
        max_dets=max_dets,
    )
    return row, label, score, boxes[row] if detector.config.class_agnostic_box else boxes[row, label]


def judged_boxes(
    ground_truth: GroundTruth, found: Found, corners: npt.NDArray[np.float64], *, max_dets: int
) -> Metrics:
    """Metrics of boxes (N, 4) xyxy in the pixels of the files."""
    xywh = _xywh(corners)
    pairs = box_pairs(ground_truth, found.image, found.category, xywh)
    return evaluate(ground_truth, found.columns(xywh[:, 2] * xywh[:, 3]), pairs, max_dets=max_dets)


def _xywh(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


class CachedJudge:
    """Scores cached features; boxes, masks and their IoUs are those of the frozen trunk, computed once per search.

    Boxes and masks must not depend on the category.
    """

    def __init__(self, folder: Path, ground_truth: GroundTruth) -> None:
        self._rows = TestFeatures.open(folder)
        assert self._rows.tables is not None
        self._tables = self._rows.tables
        self._ground_truth = ground_truth

    def assist(self, detector: Detector, *, max_dets: int, ranks: Ranks) -> None:
        pass  # all of it takes as long as sending the shares

    @torch.no_grad()
    def report(self, detector: Detector, *, max_dets: int, ranks: Ranks = ALONE) -> EvaluationReport:
        rows, ground_truth, tables = self._rows, self._ground_truth, self._tables
        proposals: list[Tensor] = []
        labels: list[Tensor] = []
        scores: list[Tensor] = []
        for row, label, score in self._select(detector, max_dets):
            proposals.append(row)
            labels.append(label)
            scores.append(score)
        found = Found.join(range(ground_truth.num_images), labels, scores)
        proposal = torch.cat(proposals).cpu().numpy()
        row = rows.offsets[found.image] + proposal
        results: dict[IouType, Metrics] = {}
        kinds: tuple[tuple[IouType, FloatArray | None, FloatArray | None], ...] = (
            ("bbox", tables.box_areas, tables.box_iou),
            ("segm", tables.mask_areas, tables.mask_iou),
        )
        for kind, areas, ious in kinds:
            if areas is not None and ious is not None:
                pairs = table_pairs(
                    ground_truth, found.image, found.category, proposal, tables=ious, table_start=tables.offsets
                )
                results[kind] = evaluate(ground_truth, found.columns(areas[row]), pairs, max_dets=max_dets)
        return EvaluationReport.from_metrics(results, category_ids=ground_truth.annotations.category_ids)

    def _select(self, detector: Detector, max_dets: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows of the image, labels and scores of what is found in each image; images are scored many at a time."""
        rows, num_images = self._rows, self._ground_truth.num_images
        device = next(detector.stages[0].parameters()).device
        for first in range(0, num_images, _SCORED_TOGETHER):
            offsets = rows.offsets[first : min(first + _SCORED_TOGETHER, num_images) + 1]
            part = slice(offsets[0], offsets[-1])
            scores = detector.scores([own[part].to(device, torch.float32) for own in rows.features]).cpu()
            for start, stop in pairwise(offsets.tolist()):
                yield select_detections(
                    rows.boxes[start:stop],
                    scores[start - offsets[0] : stop - offsets[0]],
                    score_threshold=detector.config.score_threshold,
                    nms_iou=detector.config.nms_iou,
                    max_dets=max_dets,
                )


@dataclass(frozen=True, eq=False)
class ImageFound:
    """What was found in one image, where the detector left it."""

    image: int
    size: tuple[int, int]  # H, W of the file
    labels: Tensor  # (D,)
    scores: Tensor  # (D,)
    size_seen: tuple[int, int]  # H, W as the detector saw it
    boxes: Tensor  # (D, 4) xyxy in those pixels
    masks: Tensor | None  # (D, m, m)

    def corners(self) -> Tensor:
        """(D, 4) xyxy in the pixels of the file."""
        return to_file_pixels(self.boxes.cpu(), self.size_seen, *self.size)

    def rles(self) -> list[Rle]:
        return [] if self.masks is None else encode_pasted(self.masks.cpu(), self.corners(), *self.size)


class LiveJudge:
    """Runs the whole detector on the images.

    Detections are matched as they come and then forgotten. On an accelerator a second thread does that, masks and all,
    while the next images are looked at.
    """

    def __init__(self, source: ImageSource, ground_truth: GroundTruth) -> None:
        self._source = source
        self._ground_truth = ground_truth

    def assist(self, detector: Detector, *, max_dets: int, ranks: Ranks) -> None:
        self._joined(detector, max_dets, ranks)

    def report(self, detector: Detector, *, max_dets: int, ranks: Ranks = ALONE) -> EvaluationReport:
        report = self._streamed(detector, max_dets) if ranks.size == 1 else self._joined(detector, max_dets, ranks)
        return EvaluationReport.from_metrics(report, category_ids=self._ground_truth.annotations.category_ids)

    def _streamed(self, detector: Detector, max_dets: int) -> dict[IouType, Metrics]:
        kinds: tuple[IouType, ...] = ("bbox", "segm") if detector.has_masks else ("bbox",)
        streams = {kind: DetectionStream(self._ground_truth, iou_type=kind, max_dets=max_dets) for kind in kinds}

        def take(found: ImageFound) -> None:
            labels, scores = found.labels.cpu().numpy(), found.scores.double().cpu().numpy()
            xywh = _xywh(found.corners().double().numpy())
            streams["bbox"].add(found.image, category=labels, score=scores, boxes_xywh=xywh)
            if "segm" in streams:
                streams["segm"].add(found.image, category=labels, score=scores, rles=found.rles())

        is_accelerated = next(detector.parameters()).device.type != "cpu"
        with ImageQueue(take, is_apart=is_accelerated) as queue:
            for found in self._found(detector, max_dets, ALONE):
                queue.give(found)
        return {kind: stream.result() for kind, stream in streams.items()}

    def _joined(self, detector: Detector, max_dets: int, ranks: Ranks) -> dict[IouType, Metrics]:
        """Metrics of what all ranks found, on the first one; nothing on the others, which hand over theirs."""
        numbers: list[int] = []
        corners = [torch.zeros(0, 4)]
        # A rank without images adds nothing, but of the right type.
        labels, scores = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
        rles: list[Rle] = []
        for own in self._found(detector, max_dets, ranks):
            numbers.append(own.image)
            labels.append(own.labels.cpu())
            scores.append(own.scores.cpu())
            corners.append(own.corners())
            rles += own.rles()
        part = Found.join([-1, *numbers], labels, scores)
        found = Found(
            *(ranks.join_rows(torch.from_numpy(own)).numpy() for own in (part.image, part.category, part.score))
        )
        all_corners = ranks.join_rows(torch.cat(corners).double()).numpy()
        all_rles = _join_masks(rles, ranks) if detector.has_masks else []
        if ranks.rank > 0:
            return {}
        results: dict[IouType, Metrics] = {
            "bbox": judged_boxes(self._ground_truth, found, all_corners, max_dets=max_dets)
        }
        if detector.has_masks:
            pairs = mask_pairs(self._ground_truth, found.image, found.category, all_rles)
            columns = found.columns(rle_areas(all_rles).astype(np.float64))
            results["segm"] = evaluate(self._ground_truth, columns, pairs, max_dets=max_dets)
        return results

    @torch.no_grad()
    def _found(self, detector: Detector, max_dets: int, ranks: Ranks) -> Iterator[ImageFound]:
        """What this rank finds in its share of the images."""
        source = self._source
        device = next(detector.parameters()).device
        # Such masks are remembered from trial to trial, elsewhere.
        has_like_masks = not detector.config.has_class_agnostic_heads
        for part in ranks.own_part(source.uniform_batches(np.arange(len(source)), BUILD_BATCH)):
            images = [source.load(int(i))[0].to(device) for i in part]
            all_found = detector.detect(images, max_dets=max_dets, has_like_masks=has_like_masks)
            for image, pixels, found in zip(part.tolist(), images, all_found, strict=True):
                height = int(source.annotations.image_heights[image])
                width = int(source.annotations.image_widths[image])
                yield ImageFound(
                    image=image,
                    size=(height, width),
                    labels=found.labels,
                    scores=found.scores,
                    size_seen=(pixels.shape[-2], pixels.shape[-1]),
                    boxes=found.boxes,
                    masks=found.masks,
                )


class ImageQueue:
    """Hands images one after the other to a function, in a thread of its own where it is apart.

    At most `_IMAGES_BEHIND` wait, so that memory stays bounded; what the function raises is raised by the next call.
    """

    def __init__(self, take: Callable[[ImageFound], None], *, is_apart: bool) -> None:
        self._take = take
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lttune-judge") if is_apart else None
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> "ImageQueue":
        return self

    def __exit__(self, *raised: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=raised[0] is not None)
            if raised[0] is None:
                self._settle(0)

    def give(self, found: ImageFound) -> None:
        if self._pool is None:
            self._take(found)
        else:
            self._waiting.append(self._pool.submit(self._take, found))
            self._settle(_IMAGES_BEHIND)

    def _settle(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.popleft().result()


def _join_masks(rles: list[Rle], ranks: Ranks) -> list[Rle]:
    """The masks of all ranks, on the first one."""
    text = np.frombuffer(b"".join(rle["counts"] for rle in rles), np.uint8).copy()
    shapes = torch.tensor([[*rle["size"], len(rle["counts"])] for rle in rles], dtype=torch.int64).view(-1, 3)
    all_text, all_shapes = ranks.join_rows(torch.from_numpy(text)).numpy().tobytes(), ranks.join_rows(shapes)
    joined, start = [], 0
    for height, width, length in all_shapes.tolist():
        joined.append({"size": [height, width], "counts": all_text[start : start + length]})
        start += length
    return joined
