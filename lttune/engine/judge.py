"""Judges a detector on one half of the validation images, from cached features or from the images themselves.

Shape letters: N detections of all images, D of one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
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
from lttune.masks import Rle, encode_pasted, rle_areas
from lttune.types import FloatArray, IntArray


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
    """What a detector finds in one image of the cache, as `Detector.detect` does: rows of the image (D,), labels (D,),
    scores (D,) and boxes (D, 4) in the detector's pixels."""
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
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    pairs = box_pairs(ground_truth, found.image, found.category, xywh)
    return evaluate(ground_truth, found.columns(xywh[:, 2] * xywh[:, 3]), pairs, max_dets=max_dets)


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
        for image in range(ground_truth.num_images):
            row, label, score, _ = find_in(rows, image, detector, max_dets=max_dets)
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


class LiveJudge:
    """Runs the whole detector on the images."""

    def __init__(self, source: ImageSource, ground_truth: GroundTruth) -> None:
        self._source = source
        self._ground_truth = ground_truth

    def assist(self, detector: Detector, *, max_dets: int, ranks: Ranks) -> None:
        self._detections(detector, max_dets, ranks)

    def report(self, detector: Detector, *, max_dets: int, ranks: Ranks = ALONE) -> EvaluationReport:
        ground_truth = self._ground_truth
        found, corners, rles = self._detections(detector, max_dets, ranks)
        results: dict[IouType, Metrics] = {"bbox": judged_boxes(ground_truth, found, corners, max_dets=max_dets)}
        if detector.has_masks:
            pairs = mask_pairs(ground_truth, found.image, found.category, rles)
            columns = found.columns(rle_areas(rles).astype(np.float64))
            results["segm"] = evaluate(ground_truth, columns, pairs, max_dets=max_dets)
        return EvaluationReport.from_metrics(results, category_ids=ground_truth.annotations.category_ids)

    @torch.no_grad()
    def _detections(
        self, detector: Detector, max_dets: int, ranks: Ranks
    ) -> tuple[Found, npt.NDArray[np.float64], list[Rle]]:
        """Of all images, those of one after the other: the detections, their boxes xyxy in the pixels of the files, and
        their masks where there are any. On later ranks nothing: they hand over what they found."""
        source = self._source
        device = next(detector.parameters()).device
        # Such masks are remembered from trial to trial, elsewhere.
        has_like_masks = not detector.has_class_agnostic_heads
        numbers: list[int] = []
        boxes: list[Tensor] = []
        labels: list[Tensor] = []
        scores: list[Tensor] = []
        rles: list[Rle] = []
        for part in ranks.own_part(source.uniform_batches(np.arange(len(source)), BUILD_BATCH)):
            images = [source.load(int(i))[0].to(device) for i in part]
            all_found = detector.detect(images, max_dets=max_dets, has_like_masks=has_like_masks)
            for image, pixels, detections in zip(part, images, all_found, strict=True):
                height = int(source.annotations.image_heights[image])
                width = int(source.annotations.image_widths[image])
                in_file = to_file_pixels(detections.boxes.cpu(), pixels.shape[-2:], height, width)
                numbers.append(int(image))
                boxes.append(in_file)
                labels.append(detections.labels)
                scores.append(detections.scores)
                if detections.masks is not None:
                    rles += encode_pasted(detections.masks.cpu(), in_file, height, width)
        # A rank without images adds nothing, but of the right type.
        found = Found.join(
            [-1, *numbers],
            [torch.zeros(0, dtype=torch.int64, device=device), *labels],
            [torch.zeros(0, device=device), *scores],
        )
        corners = torch.cat([torch.zeros(0, 4), *boxes]).double()
        if ranks.size == 1:
            return found, corners.numpy(), rles
        joined = Found(
            *(ranks.join_rows(torch.from_numpy(own)).numpy() for own in (found.image, found.category, found.score))
        )
        return joined, ranks.join_rows(corners).numpy(), _join_masks(rles, ranks)


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
