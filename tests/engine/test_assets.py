"""Data of one setting: parsed once, opened by path, with open group limits and bad images left out on request."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lttune.data.glyphs import GlyphConfig, make_glyphs
from lttune.engine.assets import Assets, parse_annotations, skip_bad_images
from lttune.engine.config import DataConfig, Recipe, SplitPaths, TrainConfig
from lttune.engine.prepare import prepare, prepare_data
from lttune.engine.run import TrainingRun
from lttune.errors import DataError, InputError


def _quiet(*_: object) -> None:
    """Tell nobody."""


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    config = GlyphConfig(num_categories=6, num_train_images=12, num_val_images=8, size_px=64, seed=1)
    files = make_glyphs(config, tmp_path / "glyphs")
    return DataConfig(
        train=SplitPaths(annotations=str(files.train_annotations), images=str(files.train_images)),
        val=SplitPaths(annotations=str(files.val_annotations), images=str(files.val_images)),
    )


@pytest.fixture
def assets(data: DataConfig, tmp_path: Path) -> Assets:
    return prepare_data(data, tmp_path / "cache", _quiet)


def test_annotations_are_parsed_while_data_are_prepared(data: DataConfig, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    for _ in range(2):
        prepare_data(data, tmp_path / "cache", lambda *what: told.append(what))
    assert told == [("annotations", 0, 2), ("annotations", 1, 2), ("annotations", 2, 2)]
    assert len(list((tmp_path / "cache" / "annotations").glob("*/boxes_xywh.npy"))) == 2


def test_damaged_columns_are_mended_before_a_search(assets: Assets, tmp_path: Path) -> None:
    for column in (tmp_path / "cache" / "annotations").glob("*/areas.npy"):
        column.write_bytes(bytes(len(column.read_bytes())))
    parse_annotations(assets, _quiet)
    assert (assets.train.areas > 0).all()


def test_halves_share_the_images(assets: Assets) -> None:
    tune, report = (assets.half(half).image_ids.tolist() for half in ("tune", "report"))
    assert sorted(tune + report) == assets.half("all").image_ids.tolist() == list(range(1, 9))
    assert assets.half("tune").frequency_group.tolist() == assets.frequencies.group.tolist()


def test_group_limits_are_the_settings(data: DataConfig, tmp_path: Path) -> None:
    assets = prepare_data(replace(data, max_rare=1, max_common=2), tmp_path / "cache", _quiet)
    counts = assets.frequencies.image_count.tolist()
    assert assets.frequencies.group.tolist() == [0 if n <= 1 else 1 if n <= 2 else 2 for n in counts]
    assert assets.half("all").frequency_group.tolist() == assets.frequencies.group.tolist()
    with pytest.raises(InputError, match=r"data\.max_common is 2; use more than 3 images"):
        replace(data, max_rare=3, max_common=2)


def test_coco_files_need_no_fields_of_lvis(data: DataConfig, tmp_path: Path) -> None:
    for split in (data.train, data.val):
        assert split is not None
        document = json.loads(Path(split.annotations).read_text())
        for image in document["images"]:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]
        for category in document["categories"]:
            del category["frequency"]
        Path(split.annotations).write_text(json.dumps(document))
    assets = prepare_data(data, tmp_path / "cache", _quiet)
    assert assets.half("report").is_exhaustive
    assert (assets.frequencies.group >= 0).all()


def test_different_categories_are_refused(data: DataConfig, tmp_path: Path) -> None:
    assert data.val is not None
    document = json.loads(Path(data.val.annotations).read_text())
    document["categories"].append({"id": 99, "name": "more", "frequency": "r"})
    Path(data.val.annotations).write_text(json.dumps(document))
    assets = prepare_data(data, tmp_path / "cache", _quiet)
    with pytest.raises(DataError, match="both files must list the same category ids"):
        assets.half("tune")


def test_bad_images_are_reported_once_and_left_out(
    data: DataConfig, assets: Assets, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert data.train is not None
    Path(data.train.images, "00000003.jpg").write_bytes(b"none")
    Path(data.train.images, "00000005.jpg").unlink()
    assert assets.train.num_images == 12
    cache = tmp_path / "cache"
    skipping = prepare_data(replace(data, skip_bad_images=True), cache, _quiet)
    assert (skipping.train_skipped, skipping.val_skipped) == ((3, 5), ())
    assert skipping.train.image_ids.tolist() == [1, 2, 4, 6, 7, 8, 9, 10, 11, 12]
    assert skipping.frequencies.num_categories == 6
    assert (skipping.train_digest, skipping.val_digest) != (assets.train_digest, assets.val_digest)
    assert skipping.val_digest == assets.val_digest
    reported = [line for line in caplog.messages if line.startswith("Image skipped: ")]
    assert len(reported) == 2
    assert "00000005.jpg: there is no such file" in reported[1]
    # A resumed search leaves out the same images, whatever has become of them.
    Path(data.train.images, "00000001.jpg").unlink()
    caplog.clear()
    assert skip_bad_images(assets, _quiet).train_skipped == (3, 5)
    assert not any("Image skipped" in line for line in caplog.messages)
    assert any("2 images of" in line and "are skipped; delete" in line for line in caplog.messages)


def test_a_method_of_one_stage_needs_no_stage_1(train_config: TrainConfig, tmp_path: Path) -> None:
    recipe = Recipe(parts="all", fidelity="full", start="weights")
    one_stage = replace(train_config, recipe=recipe, fidelity="full")
    told: list[str] = []
    assets = prepare(one_stage, tmp_path / "cache", lambda what, *_: told.append(what), num_threads=1)
    assert assets.stage1_weights is None
    assert assets.features is None
    assert "stage 1" not in told
    assert TrainingRun(one_stage, assets, judged_on=None).weights_left == []
