"""What every trial of a search shares: data, the stage-1 model and the feature caches, by path.

Paths travel to a worker cheaply; each process opens and indexes a file once. Annotations are parsed once per machine
and mapped by all of its processes.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from lttune.data.annotation_cache import cached_annotations
from lttune.data.frequency import MAX_COMMON, MAX_RARE, category_frequencies, groups_of
from lttune.data.lvis import load_annotations
from lttune.data.split import Halves, split_halves
from lttune.data.validate import bad_images
from lttune.engine.checkpoint import file_digest, value_digest, write_json
from lttune.evaluation.ground_truth import GroundTruth
from lttune.types import Annotations, CategoryFrequencies

logger = logging.getLogger(__name__)

# A search selects on the one half and reports on the other; `all` is both, for exports.
Half = Literal["tune", "report", "all"]
# What is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Assets:
    """The files of one setting; stage-1 weights and feature caches are absent until they are made.

    Attributes:
        annotation_cache: where parsed annotations are kept; without one every process parses them itself.
        max_rare: most training images of a rare category.
        max_common: most training images of a common one.
        train_skipped: ids of training images that are left out, because they cannot be used.
        val_skipped: the same of validation images.
    """

    train_annotations: str
    train_images: str
    val_annotations: str
    val_images: str
    annotation_cache: str | None = None
    max_rare: int = MAX_RARE
    max_common: int = MAX_COMMON
    train_skipped: tuple[int, ...] = ()
    val_skipped: tuple[int, ...] = ()
    stage1_weights: str | None = None
    features: str | None = None
    memory: str | None = None

    @property
    def train(self) -> Annotations:
        return _annotations(self.train_annotations, self.annotation_cache, self.train_skipped)

    @property
    def val(self) -> Annotations:
        return _annotations(self.val_annotations, self.annotation_cache, self.val_skipped)

    @property
    def train_digest(self) -> str:
        """What identifies the training annotations: the file's SHA-256, and the images left out where there are any."""
        return _digest(self.train_annotations, self.train_skipped)

    @property
    def val_digest(self) -> str:
        """The same of the validation annotations."""
        return _digest(self.val_annotations, self.val_skipped)

    @property
    def frequencies(self) -> CategoryFrequencies:
        return _frequencies(self._data)

    @property
    def halves(self) -> Halves:
        return _halves(self._data)

    def half(self, half: Half) -> Annotations:
        """The validation annotations of one half, with the groups of the full training annotations."""
        return _half(self._data, half)

    def ground_truth(self, half: Half) -> GroundTruth:
        return _ground_truth(self._data, half)

    def feature_folder(self, split: Literal["train"] | Half) -> Path:
        assert self.features is not None
        return Path(self.features) / split

    @property
    def _data(self) -> "Assets":
        """What annotations depend on, so that their indices are shared whatever is made from them."""
        return replace(self, stage1_weights=None, features=None, memory=None)


def parse_annotations(assets: Assets, progress: Progress) -> None:
    """Fill the annotation cache where a file is not in it or its columns are damaged."""
    assert assets.annotation_cache is not None
    paths = list(dict.fromkeys([assets.train_annotations, assets.val_annotations]))
    is_parsing = False
    for done, path in enumerate(paths):

        def parsing(done: int = done) -> None:
            nonlocal is_parsing
            is_parsing = True
            progress("annotations", done, len(paths))

        cached_annotations(Path(path), Path(assets.annotation_cache), parsing=parsing)
    if is_parsing:
        progress("annotations", len(paths), len(paths))


def skip_bad_images(assets: Assets, progress: Progress) -> Assets:
    """Leave out the images that are missing, unreadable or of another size than stated, and warn of each once.

    What was found lies in the annotation cache, so that a resumed search leaves out the same images.
    """
    return replace(
        assets,
        train_skipped=_bad_ids(assets.train, assets.train_digest, assets.train_images, assets, progress),
        val_skipped=_bad_ids(assets.val, assets.val_digest, assets.val_images, assets, progress),
    )


def _bad_ids(annotations: Annotations, digest: str, images: str, assets: Assets, progress: Progress) -> tuple[int, ...]:
    assert assets.annotation_cache is not None
    found = Path(assets.annotation_cache) / f"bad-images-{value_digest([digest, images])[:12]}.json"
    if not found.exists():
        bad = bad_images(annotations, Path(images), progress)
        reasons = {str(annotations.image_ids[i]): f"{annotations.file_names[i]}: {why}" for i, why in bad.items()}
        write_json(reasons, found)
        for reason in reasons.values():
            logger.warning("Image skipped: %s.", reason)
    ids = tuple(int(image_id) for image_id in json.loads(found.read_text()))
    if ids:
        logger.warning("%d images of %s are skipped; delete %s to look again.", len(ids), images, found)
    return ids


@lru_cache(maxsize=8)
def _annotations(path: str, cache: str | None, skipped: tuple[int, ...]) -> Annotations:
    # `parse_annotations` has compared the checksums for all processes.
    annotations = load_annotations(Path(path)) if cache is None else _cached(path, cache)
    return annotations.subset(np.flatnonzero(~np.isin(annotations.image_ids, skipped))) if skipped else annotations


def _cached(path: str, cache: str) -> Annotations:
    return cached_annotations(Path(path), Path(cache), is_checked=False)


def _digest(path: str, skipped: tuple[int, ...]) -> str:
    digest = file_digest_once(path)
    return value_digest([digest, skipped]) if skipped else digest


@lru_cache(maxsize=4)
def _frequencies(assets: Assets) -> CategoryFrequencies:
    return category_frequencies(assets.train, max_rare=assets.max_rare, max_common=assets.max_common)


@lru_cache(maxsize=4)
def _halves(assets: Assets) -> Halves:
    return split_halves(assets.val)


@lru_cache(maxsize=8)
def _half(assets: Assets, half: Half) -> Annotations:
    annotations = assets.val
    groups = groups_of(annotations, assets.train, max_rare=assets.max_rare, max_common=assets.max_common)
    if half != "all":
        annotations = annotations.subset(getattr(assets.halves, half))
    return replace(annotations, frequency_group=groups)


@lru_cache(maxsize=8)
def _ground_truth(assets: Assets, half: Half) -> GroundTruth:
    return GroundTruth(assets.half(half))


@lru_cache(maxsize=8)
def file_digest_once(path: str) -> str:
    """SHA-256 of an annotation file, read once per process."""
    return file_digest(Path(path))
