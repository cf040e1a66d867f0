"""Makes or finds what every trial of a search shares, each thing once.

Each lies in a folder of the cache directory named by a digest of everything that shaped it, is built under a lease
and renamed when whole. A second search, or a second process, finds it there.
"""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from lttune.data.glyphs import GlyphConfig, make_glyphs
from lttune.detectors import resolve_backend
from lttune.engine.assets import Assets, Progress, parse_annotations, skip_bad_images
from lttune.engine.cache import PARTIAL_SUFFIX, building, prune_to_quota, quota_bytes
from lttune.engine.checkpoint import file_digest, replacing_folder, value_digest, write_json
from lttune.engine.columns import are_intact
from lttune.engine.config import DataConfig, TrainConfig, plain
from lttune.engine.forecast import (
    DataSize,
    checkpoint_bytes,
    feature_bytes,
    glyph_bytes,
    memory_bytes,
    refuse_full_disk,
    refuse_long_stage1,
    stage1_bytes,
)
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

    Raises:
        InputError: the quota of the cache is not a size, stage 1 is long and nobody asked for it, or what is to be made
            does not fit on the disk.
    """
    quota_bytes()
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
            if may_keep_memory(config.loss):
                assets = replace(assets, memory=str(_memory(config, assets, cache, progress)))
        prune_to_quota(cache)
        return assets
    finally:
        torch.set_num_threads(threads)


def check_costs(configs: Sequence[TrainConfig], cache: Path, *, out: Path, num_trials: int, progress: Progress) -> None:
    """Refuse a search that nobody meant to start: a long stage 1 that was not asked for, more than the disk holds.

    Nothing is made but the columns of given annotations.

    Args:
        configs: one of each method.
        cache: folder shared by all searches.
        out: where checkpoints are written.
        num_trials: of all methods together.
        progress: told of annotations that are parsed.

    Raises:
        InputError: with what is projected and what there is.
    """
    needed: dict[Path, int] = {}
    for config in configs:
        data, glyphs = config.data, config.data.glyphs
        is_there = glyphs is None or _glyph_folder(glyphs, cache).exists()
        assets = prepare_data(data, cache, progress) if is_there else None
        size = DataSize.of_glyphs(glyphs) if glyphs else _size_of(assets)
        if glyphs and not is_there:
            needed[_glyph_folder(glyphs, cache)] = glyph_bytes(glyphs)
        if config.recipe.start != "weights":
            needed |= _made_of_stage1(config, assets, cache, size)
        needed[out] = max(needed.get(out, 0), num_trials * checkpoint_bytes(config, size))
    refuse_full_disk(list(needed.items()))


def _made_of_stage1(config: TrainConfig, assets: Assets | None, cache: Path, size: DataSize) -> dict[Path, int]:
    """What a method makes of the stage-1 model and the model itself, where they are not there, with their bytes."""
    checkpoint, needed = config.stage1.checkpoint, {}
    weights = Path(checkpoint) if checkpoint else None
    if weights is None and assets is not None:
        weights = _stage1_folder(config, assets, cache) / "weights.safetensors"
    if weights is None or not weights.exists():
        refuse_long_stage1(config, size)
        needed[cache / "stage1"] = stage1_bytes(config, size)
        weights = None
    if config.fidelity != "cached":
        return needed
    made = replace(assets, stage1_weights=str(weights)) if assets and weights else None
    if made is None or not _features_folder(config, made, cache).exists():
        needed[cache / "features"] = feature_bytes(config, size)
    if may_keep_memory(config.loss) and (made is None or not _memory_folder(config, made, cache).exists()):
        needed[cache / "memory"] = memory_bytes(config, size)
    return needed


def _size_of(assets: Assets | None) -> DataSize:
    assert assets is not None
    return DataSize(
        num_train=assets.train.num_images,
        num_val=assets.val.num_images,
        num_categories=len(assets.train.category_ids),
    )


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
    folder = _glyph_folder(glyphs, cache)
    with building(folder, "data") as is_missing:
        if is_missing:
            workers = torch.get_num_threads()
            make_glyphs(glyphs, folder, num_workers=workers, progress=lambda done, of: progress("data", done, of))
    return Assets(
        train_annotations=str(folder / "train.json"),
        train_images=str(folder / "train"),
        val_annotations=str(folder / "val.json"),
        val_images=str(folder / "val"),
    )


def _glyph_folder(glyphs: GlyphConfig, cache: Path) -> Path:
    return cache / f"glyphs-{value_digest({'format': _FORMAT, **glyphs.identity()})[:12]}"


def stage1_identity(config: TrainConfig, assets: Assets) -> dict[str, Any]:
    """Everything that shapes the stage-1 model, as plain values."""
    stage1 = asdict(config.stage1)
    for name in ("checkpoint", "build"):
        stage1.pop(name)
    return {
        "format": _FORMAT,
        "train_annotations": assets.train_digest,
        "detector": {**asdict(config.detector), "backend": resolve_backend(config.detector)},
        "input": config.input.identity(),
        "stage1": stage1,
        **({} if config.precision == "float32" else {"precision": config.precision}),
    }


def _stage1_folder(config: TrainConfig, assets: Assets, cache: Path) -> Path:
    return cache / f"stage1-{value_digest(stage1_identity(config, assets))[:12]}"


def _stage1_weights(config: TrainConfig, assets: Assets, cache: Path, progress: Progress) -> Path:
    if config.stage1.checkpoint is not None:
        return Path(config.stage1.checkpoint)
    folder = _stage1_folder(config, assets, cache)
    with building(folder, "stage 1") as is_missing:
        if is_missing:
            refuse_long_stage1(config, _size_of(assets))
            # Importing a detector takes longer than finding a finished model.
            from lttune.engine.stage1 import train_stage1

            partial = cache / f"{folder.name}{PARTIAL_SUFFIX}"
            began = time.monotonic()
            with replacing_folder(folder) as temporary:
                train_stage1(config, assets, temporary / "weights.safetensors", partial, progress)
                write_json(
                    {
                        **plain(stage1_identity(config, assets)),
                        "torch": torch.__version__,
                        "seconds": time.monotonic() - began,
                    },
                    temporary / "stage1.json",
                )
            partial.unlink(missing_ok=True)
    return folder / "weights.safetensors"


def _features_identity(config: TrainConfig, assets: Assets) -> dict[str, Any]:
    return {
        **_trunk_identity(config, assets),
        "format": 3,
        "val_annotations": assets.val_digest,
        "split": [assets.half(half).image_ids.tolist() for half in ("tune", "report")],
    }


def _features_folder(config: TrainConfig, assets: Assets, cache: Path) -> Path:
    return cache / f"features-{value_digest(_features_identity(config, assets))[:12]}"


def _features(config: TrainConfig, assets: Assets, cache: Path, progress: Progress) -> Path:
    def build(folder: Path) -> None:
        from lttune.engine.stage1 import build_features

        build_features(config, assets, folder, progress)
        identity = _features_identity(config, assets)
        write_json(plain({**identity, "split": value_digest(identity["split"])}), folder / "features.json")

    return _columns(_features_folder(config, assets, cache), "features", ("train", "tune", "report"), build)


def _memory_identity(config: TrainConfig, assets: Assets) -> dict[str, Any]:
    from lttune.engine.jittered import AMPLITUDE, NUM_INSTANCES

    return {
        **_trunk_identity(config, assets),
        "format": 1,
        "num_instances": NUM_INSTANCES,
        "amplitude": AMPLITUDE,
    }


def _memory_folder(config: TrainConfig, assets: Assets, cache: Path) -> Path:
    return cache / f"memory-{value_digest(_memory_identity(config, assets))[:12]}"


def _memory(config: TrainConfig, assets: Assets, cache: Path, progress: Progress) -> Path:
    def build(folder: Path) -> None:
        from lttune.engine.stage1 import build_memory

        build_memory(config, assets, folder, progress)
        write_json(plain(_memory_identity(config, assets)), folder / "memory.json")

    return _columns(_memory_folder(config, assets, cache), "memory", ("",), build)


def _trunk_identity(config: TrainConfig, assets: Assets) -> dict[str, Any]:
    """Everything that shapes the box features of training images."""
    assert assets.stage1_weights is not None
    return {
        "weights": file_digest(Path(assets.stage1_weights)),
        "train_annotations": assets.train_digest,
        "detector": asdict(config.detector),
        "input": config.input.identity(),
    }


def may_keep_memory(loss: LossHyperparameters) -> bool:
    """Whether some trial of the method may: a search may try `has_memory` both ways."""
    used = getattr(loss, loss.object_loss) if isinstance(loss, RogHyperparameters) else loss
    return isinstance(used, LoceHyperparameters)


def _columns(folder: Path, what: str, parts: tuple[str, ...], build: Callable[[Path], None]) -> Path:
    """A folder whose parts, folders of columns, are whole: found, or built."""
    with building(folder, what) as is_missing:
        if not is_missing and not all(are_intact(folder / part) for part in parts):
            logger.warning("%s is damaged; it is built again.", folder)
            shutil.rmtree(folder)
            is_missing = True
        if is_missing:
            with replacing_folder(folder) as temporary:
                build(temporary)
    return folder
