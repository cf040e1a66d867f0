"""A step on cached rows is a step of the whole detector with a frozen trunk."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lttune.engine.assets import Assets
from lttune.engine.config import OptimConfig, TrainConfig
from lttune.engine.prepare import prepare
from lttune.engine.run import TrainingRun
from lttune.losses import LOSSES
from lttune.losses.feature_memory import FeatureMemory


@pytest.fixture(scope="module", params=[True, False], ids=["one box", "boxes by category"])
def everything(request: pytest.FixtureRequest, loce_config: TrainConfig, assets: Assets) -> TrainConfig:
    """Trains by plain gradient descent on all rows of an image, so that both paths have the same ones, and calls boxes
    positive that hardly touch, so that there are some to move.
    """
    return replace(
        loce_config,
        detector=replace(
            loce_config.detector,
            num_rois=64,
            positive_fraction=1.0,
            positive_iou=0.1,
            class_agnostic_box=request.param,
        ),
        stage1=replace(loce_config.stage1, checkpoint=assets.stage1_weights if request.param else None),
        optim=OptimConfig(name="sgd", lr=2.0, momentum=0.0),
        loss=LOSSES["loce"].Hyperparameters(has_memory=False),
    )


@pytest.fixture(scope="module")
def loose_assets(everything: TrainConfig, assets: Assets) -> Assets:
    """The same with the features of such rows."""
    assert assets.features is not None
    return prepare(everything, Path(assets.features).parent, lambda *_: None, num_threads=1)


@pytest.mark.parametrize("method", ["cross_entropy", "loce"])
def test_a_cached_step_of_the_heads_equals_one_of_the_detector(
    method: str, everything: TrainConfig, loose_assets: Assets
) -> None:
    config = everything
    if method != "loce":
        config = replace(config, method=method, loss=LOSSES[method].Hyperparameters())
    cached = TrainingRun(config, loose_assets, judged_on=None)
    live = TrainingRun(replace(config, fidelity="full"), loose_assets, judged_on=None)
    before = cached.detector.parts["box_regressor"].state_dict()["weight"].clone()
    for run in (cached, live):
        run.advance(max_iters=1)
    for part in ("classifier", "box_regressor"):
        first, second = (run.detector.parts[part].state_dict() for run in (cached, live))
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-6)
    assert float((cached.detector.parts["box_regressor"].state_dict()["weight"] - before).abs().max()) > 1e-3


def test_memory_rows_train_both_heads(everything: TrainConfig, loose_assets: Assets) -> None:
    with_memory = replace(everything, loss=LOSSES["loce"].Hyperparameters(num_drawn_classes=32))
    runs = [TrainingRun(config, loose_assets, judged_on=None) for config in (everything, with_memory)]
    for run in runs:
        run.advance(max_iters=1)
    for part in ("classifier", "box_regressor"):
        plain, augmented = (run.detector.parts[part].state_dict()["weight"] for run in runs)
        assert float((plain - augmented).abs().max()) > 1e-6


def test_the_memory_holds_cached_rows_of_the_categories_seen(loce_config: TrainConfig, assets: Assets) -> None:
    run = TrainingRun(loce_config, assets, judged_on=None)
    run.advance(max_iters=0)  # the pass before training
    memory = run.detector.stages[0].loss.augmenter
    assert isinstance(memory, FeatureMemory)
    # A queue of 32 is filled by two images of each category.
    assert memory.num_stored == dict.fromkeys(set(assets.train.annotation_category.tolist()), 32)
