"""The three classifiers of a frozen cascade train on cached features as they do on images."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from lttune.engine.assets import Assets
from lttune.engine.columns import read_columns
from lttune.engine.config import TrainConfig
from lttune.engine.features import BUILD_BATCH, TestFeatures
from lttune.engine.images import ImageSource
from lttune.engine.prepare import prepare
from lttune.engine.run import TrainingRun
from lttune.engine.stage1 import frozen_detector

pytestmark = [
    pytest.mark.slow,  # a ResNet-50, with a stage 1 of its own
    pytest.mark.detectron2,
    pytest.mark.skipif(find_spec("detectron2") is None, reason="detectron2 is not installed; see its own guide"),
]


@pytest.fixture(scope="module", params=["cascade_rcnn_r50_fpn", "cascade_mask_rcnn_r50_fpn"])
def config(request: pytest.FixtureRequest, train_config: TrainConfig) -> TrainConfig:
    detector = replace(train_config.detector, name=request.param, recipe="mmdet", num_rois=16)
    return replace(train_config, detector=detector)


@pytest.fixture(scope="module")
def cascade_assets(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Assets:
    return prepare(config, tmp_path_factory.mktemp("cascade"), lambda *_: None, num_threads=1)


def test_every_stage_is_cached_row_by_row(config: TrainConfig, cascade_assets: Assets) -> None:
    columns = read_columns(cascade_assets.feature_folder("train"))
    rows = len(columns["features"])
    assert columns["num_rows"].sum() == rows
    for stage in ("stage1", "stage2"):
        assert columns[f"features_{stage}"].shape == (rows, 1024)
        assert len(columns[f"labels_{stage}"]) == len(columns[f"instance_ids_{stage}"]) == rows
        assert not (columns[f"features_{stage}"] == columns["features"]).all()


def test_cached_test_rows_are_those_of_the_detector(config: TrainConfig, cascade_assets: Assets) -> None:
    detector = frozen_detector(config, cascade_assets)
    rows = TestFeatures.open(cascade_assets.feature_folder("tune"))
    tune = cascade_assets.half("tune")
    source = ImageSource(tune, Path(cascade_assets.val_images), config.input, seed=None, with_masks=False)
    start = 0
    for part in source.uniform_batches(np.arange(len(source)), BUILD_BATCH):
        for rois in detector.test_rois([source.load(int(image))[0] for image in part]):
            stop = start + len(rois.boxes)
            assert torch.equal(rows.boxes[start:stop], rois.boxes)
            for stored, own in zip(rows.features, (rois.features, *rois.later), strict=True):
                assert torch.equal(stored[start:stop], own)
            start = stop
    assert start == len(rows.boxes) > 0


def test_a_trial_on_cached_features_is_the_trial_on_images(
    config: TrainConfig, cascade_assets: Assets, tmp_path: Path
) -> None:
    cached = TrainingRun(config, cascade_assets)
    live = TrainingRun(replace(config, fidelity="full"), cascade_assets)
    start = [value.clone() for value in cached.detector.parts["classifier"].parameters()]
    for run in (cached, live):
        run.advance()
        assert set(run.history[-1].losses) == {"loss_cls_stage0", "loss_cls_stage1", "loss_cls_stage2"}
    trained = [list(run.detector.parts["classifier"].parameters()) for run in (cached, live)]
    assert len(start) == 6
    for before, own, other in zip(start, *trained, strict=True):
        assert not torch.equal(before, own)
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)
    cached.save(tmp_path / "run.pt")
    again = TrainingRun(config, cascade_assets)
    again.restore(tmp_path / "run.pt")
    assert again.evaluate().metrics == pytest.approx(cached.evaluate().metrics, nan_ok=True)
    # The same image by image, whichever way it is judged; after nine steps that is little.
    assert live.evaluate().metrics == pytest.approx(again.evaluate().metrics, abs=0.05, nan_ok=True)
