"""A handful of glyph images and a tiny detector with random weights, made once for all engine tests."""

from dataclasses import replace
from pathlib import Path

import pytest

from lttune.data.glyphs import GlyphConfig
from lttune.detectors.base import DetectorConfig
from lttune.engine.assets import Assets
from lttune.engine.config import (
    DataConfig,
    EvaluationConfig,
    OptimConfig,
    Recipe,
    ScheduleConfig,
    Stage1Config,
    TrainConfig,
)
from lttune.engine.prepare import prepare
from lttune.losses.acsl import Acsl
from lttune.losses.loce import Loce


@pytest.fixture(scope="session")
def train_config() -> TrainConfig:
    """ACSL on cached features: 12 images, 6 categories, batches of 4."""
    short = ScheduleConfig(epochs=1, batch_size=4, policy="one_cycle")
    return TrainConfig(
        method="acsl",
        loss=Acsl.Hyperparameters(),
        data=DataConfig(
            glyphs=GlyphConfig(num_categories=6, num_train_images=12, num_val_images=8, size_px=64, seed=1)
        ),
        detector=DetectorConfig(
            name="tiny_mask_rcnn_fpn",
            class_agnostic_box=True,
            class_agnostic_mask=True,
            num_train_proposals=20,
            num_test_proposals=20,
            num_rois=8,
            positive_fraction=0.5,
            score_threshold=0.0,
        ),
        stage1=Stage1Config(optim=OptimConfig(name="adamw", lr=1e-3), schedule=short),
        optim=OptimConfig(name="adamw", lr=1e-2),
        schedule=replace(short, epochs=3),
        recipe=Recipe(parts=("classifier",)),
        fidelity="cached",
        evaluation=EvaluationConfig(max_dets=20),
        seed=3,
    )


@pytest.fixture(scope="session")
def loce_config(train_config: TrainConfig) -> TrainConfig:
    """LOCE on cached features: classifier and box regressor."""
    recipe = Recipe(parts=("classifier", "box_regressor"))
    return replace(train_config, method="loce", loss=Loce.Hyperparameters(queue_size=32), recipe=recipe)


@pytest.fixture(scope="session")
def assets(loce_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Assets:
    """Data, a stage-1 model of one epoch, its features, and the jittered boxes of LOCE's memory."""
    cache: Path = tmp_path_factory.mktemp("cache")
    return prepare(loce_config, cache, lambda *_: None, num_threads=1)
