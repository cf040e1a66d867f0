"""Makes or finds what every trial of a search shares, each thing once.

Each lies in a folder of the cache directory named by a digest of everything that shaped it, is built under a lock and
renamed when whole. A second search, or a second process, finds it there.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from lttune.data.glyphs import make_glyphs
from lttune.detectors import resolve_backend
from lttune.engine.assets import Assets, Progress, file_digest_once
from lttune.engine.checkpoint import file_digest, replacing_folder, value_digest, write_json
from lttune.engine.columns import are_intact
from lttune.engine.config import DataConfig, TrainConfig, plain

logger = logging.getLogger(__name__)

_FORMAT = 1


def prepare(config: TrainConfig, cache: Path, progress: Progress, *, num_threads: int | None = None) -> Assets:
    """Make or find everything that the trials of a setting share.

    Args:
        config: any trial of the search; only what belongs to the setting is read.
        cache: folder shared by all searches.
        progress: told of every unit of work, often.
        num_threads: for stage 1 and the caches; all cores by default.
    """
    cache.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    if num_threads:
        torch.set_num_threads(num_threads)
    try:
        assets = prepare_data(config.data, cache, progress)
        weights = _stage1_weights(config, assets, cache, progress)
        assets = replace(assets, stage1_weights=str(weights))
        if config.fidelity == "cached":
            assets = replace(assets, features=str(_features(config, assets, cache, progress)))
        return assets
    finally:
        torch.set_num_threads(threads)


def prepare_data(data: DataConfig, cache: Path, progress: Progress) -> Assets:
    """Generate the glyphs where the setting asks for them; else just name the files."""
    if data.glyphs is None:
        assert data.train is not None
        assert data.val is not None
        return Assets(
            train_annotations=data.train.annotations,
            train_images=data.train.images,
            val_annotations=data.val.annotations,
            val_images=data.val.images,
        )
    digest = value_digest({"format": _FORMAT, **asdict(data.glyphs)})[:12]
    folder = cache / f"glyphs-{digest}"
    with _building(folder, "data") as is_missing:
        if is_missing:
            workers = torch.get_num_threads()
            make_glyphs(data.glyphs, folder, num_workers=workers, progress=lambda done, of: progress("data", done, of))
    return Assets(
        train_annotations=str(folder / "train.json"),
        train_images=str(folder / "train"),
        val_annotations=str(folder / "val.json"),
        val_images=str(folder / "val"),
    )


def stage1_identity(config: TrainConfig, assets: Assets) -> dict[str, Any]:
    """Everything that shapes the stage-1 model, as plain values."""
    stage1 = asdict(config.stage1)
    stage1.pop("checkpoint")
    return {
        "format": _FORMAT,
        "train_annotations": file_digest_once(assets.train_annotations),
        "detector": {**asdict(config.detector), "backend": resolve_backend(config.detector)},
        "input": asdict(config.input),
        "stage1": stage1,
    }


def _stage1_weights(config: TrainConfig, assets: Assets, cache: Path, progress: Progress) -> Path:
    if config.stage1.checkpoint is not None:
        return Path(config.stage1.checkpoint)
    identity = stage1_identity(config, assets)
    folder = cache / f"stage1-{value_digest(identity)[:12]}"
    with _building(folder, "stage 1") as is_missing:
        if is_missing:
            # Importing a detector takes longer than finding a finished model.
            from lttune.engine.stage1 import train_stage1

            partial = cache / f"{folder.name}.partial.pt"
            began = time.monotonic()
            with replacing_folder(folder) as temporary:
                train_stage1(config, assets, temporary / "weights.safetensors", partial, progress)
                write_json(
                    {**plain(identity), "torch": torch.__version__, "seconds": time.monotonic() - began},
                    temporary / "stage1.json",
                )
            partial.unlink(missing_ok=True)
    return folder / "weights.safetensors"


def _features(config: TrainConfig, assets: Assets, cache: Path, progress: Progress) -> Path:
    assert assets.stage1_weights is not None
    identity = {
        "format": 2,
        "weights": file_digest(Path(assets.stage1_weights)),
        "train_annotations": file_digest_once(assets.train_annotations),
        "val_annotations": file_digest_once(assets.val_annotations),
        "detector": asdict(config.detector),
        "input": asdict(config.input),
        "split": [assets.half(half).image_ids.tolist() for half in ("tune", "report")],
    }
    folder = cache / f"features-{value_digest(identity)[:12]}"
    with _building(folder, "features") as is_missing:
        if not is_missing and not all(are_intact(folder / split) for split in ("train", "tune", "report")):
            logger.warning("%s is damaged; it is built again.", folder)
            shutil.rmtree(folder)
            is_missing = True
        if is_missing:
            from lttune.engine.stage1 import build_features

            with replacing_folder(folder) as temporary:
                build_features(config, assets, temporary, progress)
                write_json(plain({**identity, "split": value_digest(identity["split"])}), temporary / "features.json")
    return folder


@contextmanager
def _building(folder: Path, what: str) -> Iterator[bool]:
    """Hold the folder's lock; says whether the folder has still to be built."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Waiting for another process that builds %s.", what)
        lock.acquire()
    try:
        # What a killed process left of its attempt; whoever holds the lock owns it.
        for leftover in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield not folder.exists()
    finally:
        lock.release()
