from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lttune.engine.assets import Assets
from lttune.engine.cache import folder_bytes
from lttune.engine.config import TrainConfig
from lttune.engine.forecast import (
    DataSize,
    checkpoint_bytes,
    feature_bytes,
    glyph_bytes,
    memory_bytes,
    refuse_full_disk,
    refuse_long_stage1,
    stage1_bytes,
    stage1_gpu_hours,
)
from lttune.engine.prepare import check_costs
from lttune.engine.run import TrainingRun
from lttune.errors import InputError
from lttune.spec.load import load_spec

LVIS = DataSize(num_train=100_170, num_val=19_809, num_categories=1203)


def lvis(**overrides: str) -> TrainConfig:
    changed = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_spec("acsl", on="lvis_v1_r50_mmdet_1x", needs_files=False, overrides=changed).resolve({})


def test_stage_1_of_lvis_is_long_and_of_glyphs_short() -> None:
    # 12 epochs of 100,170 images: detectron2 took 8 V100 x 0.261 s for 16 of them.
    published = 12 * 100_170 * 8 * 0.261 / 16 / 3600
    assert stage1_gpu_hours(lvis(), LVIS) == pytest.approx(published, rel=0.1)
    glyphs = load_spec("acsl").resolve({})
    assert glyphs.data.glyphs is not None
    assert 0 < stage1_gpu_hours(glyphs, DataSize.of_glyphs(glyphs.data.glyphs)) < 0.2


def test_larger_backbones_take_longer() -> None:
    names = ("mask_rcnn_r50_fpn", "mask_rcnn_r101_fpn", "mask_rcnn_x101_64x4d_fpn")
    config = lvis()
    hours = [stage1_gpu_hours(replace(config, detector=replace(config.detector, name=name)), LVIS) for name in names]
    assert hours == sorted(hours)
    assert len(set(hours)) == 3


def test_a_long_stage_1_has_to_be_asked_for() -> None:
    with pytest.raises(InputError, match=r"projected to take 4\d GPU hours, 1 is free; .* or say --build-stage1"):
        refuse_long_stage1(lvis(), LVIS)
    refuse_long_stage1(lvis(stage1__build="true"), LVIS)


def test_projected_sizes_are_close_to_what_is_made(
    assets: Assets, train_config: TrainConfig, tmp_path: Path, loce_config: TrainConfig
) -> None:
    assert assets.features
    assert assets.stage1_weights
    assert assets.memory
    glyphs = train_config.data.glyphs
    assert glyphs is not None
    size = DataSize.of_glyphs(glyphs)
    made = {
        feature_bytes(train_config, size): folder_bytes(Path(assets.features)),
        # Beside the model itself lies, while it is trained, the same with two states of the optimiser.
        stage1_bytes(train_config, size) // 4: Path(assets.stage1_weights).stat().st_size,
    }
    for projected, actual in made.items():
        assert 0.9 * actual < projected < 2 * actual
    assert folder_bytes(Path(assets.memory)) < 2 * memory_bytes(loce_config, size)
    run = TrainingRun(train_config, assets)
    run.advance(max_iters=2)
    run.save(tmp_path / "run.pt")
    projected = checkpoint_bytes(train_config, size)
    assert projected < (tmp_path / "run.pt").stat().st_size < projected + 50_000


def test_a_checkpoint_of_everything_is_that_of_the_model() -> None:
    everything = replace(lvis(), fidelity="full")
    everything = replace(everything, recipe=replace(everything.recipe, parts="all"))
    assert 300e6 < checkpoint_bytes(everything, LVIS) < 500e6
    assert checkpoint_bytes(lvis(), LVIS) < 20e6


def test_features_of_lvis() -> None:
    # 2000 rows of 1024 float16 numbers in each of 100,170 images.
    config = replace(lvis(), fidelity="cached")
    rows = LVIS.num_train * config.detector.num_train_proposals + LVIS.num_val * config.detector.num_test_proposals
    assert rows * 2048 < feature_bytes(config, LVIS) < 1.3 * rows * 2048


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lttune.engine.forecast.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**9}))
    new = tmp_path / "not" / "there"
    refuse_full_disk([(new, 4 * 10**8), (tmp_path, 5 * 10**8)])
    with pytest.raises(InputError, match=r"projected to write 1\.1 GB, and the disk of .* has 1\.0 GB free; make room"):
        refuse_full_disk([(new, 6 * 10**8), (tmp_path, 5 * 10**8)])


def check(config: TrainConfig, cache: Path, num_trials: int = 2) -> None:
    check_costs([config], cache, out=cache.parent / "out", num_trials=num_trials, progress=lambda *_: None)


def test_costs_are_checked_before_anything_is_made(
    train_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Any = type("Usage", (), {"free": 0})
    monkeypatch.setattr("lttune.engine.forecast.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"projected to write \d+\.\d MB, and the disk of .* has 0 B free"):
        check(train_config, tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []
    usage.free = 10**9
    check(train_config, tmp_path / "cache")


def test_what_is_there_costs_nothing_more(
    assets: Assets, train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert assets.annotation_cache
    cache = Path(assets.annotation_cache)
    size = DataSize.of_glyphs(train_config.data.glyphs)  # type: ignore[arg-type]
    usage: Any = type("Usage", (), {"free": 2 * checkpoint_bytes(train_config, size)})
    monkeypatch.setattr("lttune.engine.forecast.shutil.disk_usage", lambda _: usage)
    check(train_config, cache)
    with pytest.raises(InputError, match="projected to write"):
        check(train_config, cache, num_trials=3)
    # Another seed of stage 1 is another model, with other features.
    other = replace(train_config, stage1=replace(train_config.stage1, seed=9))
    with pytest.raises(InputError, match="projected to write"):
        check(other, cache)


def test_glyph_files(assets: Assets, train_config: TrainConfig) -> None:
    glyphs = train_config.data.glyphs
    assert glyphs is not None
    actual = folder_bytes(Path(assets.train_annotations).parent)
    assert 0.3 * actual < glyph_bytes(glyphs) < 3 * actual
