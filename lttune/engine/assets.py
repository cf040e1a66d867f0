"""What every trial of a search shares: data, the stage-1 model and the feature caches, by path.

Paths travel to a worker cheaply; each process reads and indexes a file once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from lttune.data.frequency import category_frequencies
from lttune.data.lvis import load_annotations
from lttune.data.split import Halves, split_halves
from lttune.engine.checkpoint import file_digest
from lttune.errors import DataError
from lttune.evaluation.ground_truth import GroundTruth
from lttune.types import Annotations, CategoryFrequencies

# A search selects on the one half and reports on the other; `all` is both, for exports.
Half = Literal["tune", "report", "all"]
# What is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Assets:
    """The files of one setting; stage-1 weights and feature caches are absent until they are made."""

    train_annotations: str
    train_images: str
    val_annotations: str
    val_images: str
    stage1_weights: str | None = None
    features: str | None = None

    @property
    def train(self) -> Annotations:
        return _annotations(self.train_annotations)

    @property
    def frequencies(self) -> CategoryFrequencies:
        return _frequencies(self.train_annotations)

    @property
    def halves(self) -> Halves:
        return _halves(self.val_annotations)

    def half(self, half: Half) -> Annotations:
        """The validation annotations of one half, with the groups of the full training annotations."""
        return _half(self.train_annotations, self.val_annotations, half)

    def ground_truth(self, half: Half) -> GroundTruth:
        return _ground_truth(self.train_annotations, self.val_annotations, half)

    def feature_folder(self, split: Literal["train"] | Half) -> Path:
        assert self.features is not None
        return Path(self.features) / split


@lru_cache(maxsize=8)
def _annotations(path: str) -> Annotations:
    return load_annotations(Path(path))


@lru_cache(maxsize=4)
def _frequencies(path: str) -> CategoryFrequencies:
    return category_frequencies(_annotations(path))


@lru_cache(maxsize=4)
def _halves(path: str) -> Halves:
    return split_halves(_annotations(path))


@lru_cache(maxsize=8)
def _half(train: str, val: str, half: Half) -> Annotations:
    annotations = _annotations(val)
    if not np.array_equal(annotations.category_ids, _annotations(train).category_ids):
        raise DataError(f"{val}: its categories are not those of {train}; both files must list the same category ids.")
    groups = _frequencies(train).group.numpy().astype(np.int64)
    if half != "all":
        annotations = annotations.subset(getattr(_halves(val), half))
    return replace(annotations, frequency_group=groups)


@lru_cache(maxsize=8)
def _ground_truth(train: str, val: str, half: Half) -> GroundTruth:
    return GroundTruth(_half(train, val, half))


@lru_cache(maxsize=8)
def file_digest_once(path: str) -> str:
    """SHA-256 of an annotation file, read once per process."""
    return file_digest(Path(path))
