"""Makes or finds what every trial of a search shares, each thing once.

Each lies in a folder of the cache directory named by a digest of everything that shaped it, is built under a lock and
renamed when whole. A second search, or a second process, finds it there.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from lttune.data.glyphs import GlyphConfig, make_glyphs
from lttune.detectors import resolve_backend
from lttune.engine.assets import Assets, Progress, parse_annotations, skip_bad_images
from lttune.engine.checkpoint import file_digest, replacing_folder, value_digest, write_json
from lttune.engine.columns import are_intact
from lttune.engine.config import DataConfig, TrainConfig, plain
from lttune.losses.base import LossHyperparameters
from lttune.losses.loce import LoceHyperparameters
from lttune.losses.rog import RogHyperparameters

logger = logging.getLogger(__name__)

_FORMAT = 1


def prepare(config: TrainConfig, cache: Path, progress: Progress, *, num_threads: int | None = None) -> Assets:
    """Make or find everything that the trials of a method in a setting share.

    Args:
        config: any trial of the method; only what belongs to the setting and to the method is read.
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
        if config.recipe.start == "weights":
            return assets  # one stage, from `detector.weights`
        weights = _stage1_weights(config, assets, cache, progress)
        assets = replace(assets, stage1_weights=str(weights))
        if config.fidelity == "cached":
            assets = replace(assets, features=str(_features(config, assets, cache, progress)))
            if _may_keep_memory(config.loss):
                assets = replace(assets, memory=str(_memory(config, assets, cache, progress)))
        return assets
    finally:
        torch.set_num_threads(threads)


def prepare_data(data: DataConfig, cache: Path, progress: Progress) -> Assets:
    """Generate the glyphs where the setting asks for them, and parse annotations that are not in the cache."""
    assets = replace(
        _named_files(data) if data.glyphs is None else _glyph_files(data.glyphs, cache, progress),
        annotation_cache=str(cache),
        max_rare=data.max_rare,
        max_common=data.max_common,
    )
    parse_annotations(assets, progress)
    return skip_bad_images(assets, progress) if data.skip_bad_images else assets


def _named_files(data: DataConfig) -> Assets:
    assert data.train is not None
    assert data.val is not None
    return Assets(
        train_annotations=data.train.annotations,
        train_images=data.train.images,
        val_annotations=data.val.annotations,
        val_images=data.val.images,
    )


def _glyph_files(glyphs: GlyphConfig, cache: Path, progress: Progress) -> Assets:
    digest = value_digest({"format": _FORMAT, **glyphs.identity()})[:12]
    folder = cache / f"glyphs-{digest}"
    with _building(folder, "data") as is_missing:
        if is_missing:
            workers = torch.get_num_threads()
            make_glyphs(glyphs, folder, num_workers=workers, progress=lambda done, of: progress("data", done, of))
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
        "train_annotations": assets.train_digest,
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
    identity = {
        **_trunk_identity(config, assets),
        "format": 3,
        "val_annotations": assets.val_digest,
        "split": [assets.half(half).image_ids.tolist() for half in ("tune", "report")],
    }

    def build(folder: Path) -> None:
        from lttune.engine.stage1 import build_features

        build_features(config, assets, folder, progress)
        write_json(plain({**identity, "split": value_digest(identity["split"])}), folder / "features.json")

    folder = cache / f"features-{value_digest(identity)[:12]}"
    return _columns(folder, "features", ("train", "tune", "report"), build)


def _memory(config: TrainConfig, assets: Assets, cache: Path, progress: Progress) -> Path:
    from lttune.engine.jittered import AMPLITUDE, NUM_INSTANCES

    identity = {
        **_trunk_identity(config, assets),
        "format": 1,
        "num_instances": NUM_INSTANCES,
        "amplitude": AMPLITUDE,
    }

    def build(folder: Path) -> None:
        from lttune.engine.stage1 import build_memory

        build_memory(config, assets, folder, progress)
        write_json(plain(identity), folder / "memory.json")

    return _columns(cache / f"memory-{value_digest(identity)[:12]}", "memory", ("",), build)


def _trunk_identity(config: TrainConfig, assets: Assets) -> dict[str, Any]:
    """Everything that shapes the box features of training images."""
    assert assets.stage1_weights is not None
    return {
        "weights": file_digest(Path(assets.stage1_weights)),
        "train_annotations": assets.train_digest,
        "detector": asdict(config.detector),
        "input": asdict(config.input),
    }


def _may_keep_memory(loss: LossHyperparameters) -> bool:
    """Whether some trial of the method may: a search may try `has_memory` both ways."""
    used = getattr(loss, loss.object_loss) if isinstance(loss, RogHyperparameters) else loss
    return isinstance(used, LoceHyperparameters)


def _columns(folder: Path, what: str, parts: tuple[str, ...], build: Callable[[Path], None]) -> Path:
    """A folder whose parts, folders of columns, are whole: found, or built."""
    with _building(folder, what) as is_missing:
        if not is_missing and not all(are_intact(folder / part) for part in parts):
            logger.warning("%s is damaged; it is built again.", folder)
            shutil.rmtree(folder)
            is_missing = True
        if is_missing:
            with replacing_folder(folder) as temporary:
                build(temporary)
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
