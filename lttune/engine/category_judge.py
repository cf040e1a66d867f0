"""Judges classifiers on frozen heads that depend on the category: boxes are regressed from cached features, masks are
remembered from trial to trial.

Shape letters: D detections of one image.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lttune.detectors.base import Detector
from lttune.engine.features import BUILD_BATCH, TestFeatures
from lttune.engine.images import ImageSource, to_file_pixels
from lttune.engine.judge import Found, find_in, judged_boxes
from lttune.engine.parallel import ALONE, Ranks
from lttune.engine.remembered import MaskFacts, RememberedMasks, mask_keys
from lttune.evaluation.ground_truth import GroundTruth
from lttune.evaluation.lvis_ap import Metrics, evaluate
from lttune.evaluation.report import EvaluationReport, IouType
from lttune.masks import Rle, encode_pasted


@dataclass(frozen=True, kw_only=True, eq=False)
class _InImage:
    """What is found in one image."""

    image: int
    rows: Tensor  # (D,)
    labels: Tensor  # (D,)
    scores: Tensor  # (D,)
    boxes: Tensor  # (D, 4) in the detector's pixels
    in_file: Tensor  # (D, 4) in the file's pixels, on the CPU


class CategoryJudge:
    """The report of `LiveJudge`, to the bit; the trunk runs on an image only for masks that no trial has met before.

    Args:
        folder: the half's features.
        source: its images.
        ground_truth: its annotations.
    """

    def __init__(self, folder: Path, source: ImageSource, ground_truth: GroundTruth) -> None:
        self._rows = TestFeatures.open(folder)
        self._masks = RememberedMasks(folder)
        self._source = source
        self._ground_truth = ground_truth

    def assist(self, detector: Detector, *, max_dets: int, ranks: Ranks) -> None:
        pass  # most masks are known but to the first trials

    @torch.no_grad()
    def report(self, detector: Detector, *, max_dets: int, ranks: Ranks = ALONE) -> EvaluationReport:
        ground_truth = self._ground_truth
        self._masks.refresh()
        all_found: list[_InImage] = []
        facts: list[MaskFacts] = []
        # Batches of a live evaluation: a map of another batch may round differently.
        for part in self._source.uniform_batches(np.arange(len(self._source)), BUILD_BATCH):
            own = [self._find(detector, int(image), max_dets) for image in part]
            all_found += own
            if detector.has_masks:
                facts.append(self._facts(detector, own))
        found = Found.join(
            [own.image for own in all_found], [own.labels for own in all_found], [own.scores for own in all_found]
        )
        corners = torch.cat([own.in_file for own in all_found]).double().numpy()
        results: dict[IouType, Metrics] = {"bbox": judged_boxes(ground_truth, found, corners, max_dets=max_dets)}
        if detector.has_masks:
            masks = MaskFacts.join(facts)
            columns = found.columns(masks.area.astype(np.float64))
            results["segm"] = evaluate(ground_truth, columns, masks.pairs(), max_dets=max_dets)
        return EvaluationReport.from_metrics(results, category_ids=ground_truth.annotations.category_ids)

    def _find(self, detector: Detector, image: int, max_dets: int) -> _InImage:
        assert self._rows.sizes is not None
        rows, labels, scores, boxes = find_in(self._rows, image, detector, max_dets=max_dets)
        in_file = to_file_pixels(boxes.cpu(), self._rows.sizes[image].tolist(), *self._file_size(image))
        return _InImage(image=image, rows=rows, labels=labels, scores=scores, boxes=boxes, in_file=in_file)

    def _file_size(self, image: int) -> tuple[int, int]:
        annotations = self._source.annotations
        return int(annotations.image_heights[image]), int(annotations.image_widths[image])

    def _facts(self, detector: Detector, batch: list[_InImage]) -> MaskFacts:
        """Of the masks found in a batch of images, one after the other; unknown ones are computed and remembered."""
        image = np.repeat([own.image for own in batch], [len(own.rows) for own in batch])
        row, category = (
            torch.cat(columns).cpu().numpy() for columns in ([own.rows for own in batch], [own.labels for own in batch])
        )
        keys = mask_keys(image, row, category)
        known = self._masks.of(batch[0].image)
        place = known.find(keys)
        missing = np.flatnonzero(place < 0)
        if len(missing) == 0:
            return known.take(place)
        rles = self._compute(detector, batch, place < 0)
        fresh = MaskFacts.measure(keys[missing], image[missing], category[missing], rles, self._ground_truth)
        self._masks.add(batch[0].image, fresh)
        place[missing] = len(known.key) + np.arange(len(missing))
        return MaskFacts.join([known, fresh]).take(place)

    def _compute(self, detector: Detector, batch: list[_InImage], is_missing: npt.NDArray[np.bool_]) -> list[Rle]:
        device = next(detector.parameters()).device
        maps = detector.maps([self._source.load(own.image)[0].to(device) for own in batch])
        rles: list[Rle] = []
        ends = np.cumsum([len(own.rows) for own in batch])
        for i, (own, wanted) in enumerate(zip(batch, np.split(is_missing, ends[:-1]), strict=True)):
            chosen = torch.from_numpy(np.flatnonzero(wanted))
            if len(chosen):
                here = chosen.to(device)
                masks = detector.masks(maps, i, own.boxes[here], own.labels[here])
                rles += encode_pasted(masks.cpu(), own.in_file[chosen], *self._file_size(own.image))
        return rles
