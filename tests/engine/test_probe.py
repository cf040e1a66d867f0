from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lttune.engine.assets import Assets
from lttune.engine.config import TrainConfig
from lttune.engine.probe import Advice, _small, worst_images
from lttune.engine.run import TrainingRun


def test_the_worst_images_have_most_instances_or_most_pixels(assets: Assets) -> None:
    train = assets.train
    instances = np.bincount(train.annotation_image, minlength=train.num_images)
    pixels = train.image_heights.astype(np.int64) * train.image_widths
    found = [train.image_ids.tolist().index(i) for i in worst_images(assets, 4)]
    assert instances[found[0]] == instances.max()
    assert pixels[found].max() == pixels.max()
    assert len(set(found)) == 4
    assert len(worst_images(assets, 10**6)) == train.num_images


@pytest.mark.parametrize("method", ["acsl", "loce"])
def test_a_trial_on_the_worst_images_needs_no_stage_1(
    method: str, assets: Assets, train_config: TrainConfig, loce_config: TrainConfig, tmp_path: Path
) -> None:
    config = {"acsl": train_config, "loce": loce_config}[method]
    config = replace(config, schedule=replace(config.schedule, batch_size=2))
    data = replace(assets, stage1_weights=None, features=None, memory=None)
    small_config, small = _small(config, data, tmp_path / method)
    assert small.train.num_images == 4
    assert (small.memory is not None) == (method == "loce")
    run = TrainingRun(small_config, small, judged_on=None)
    run.advance(max_iters=3)
    assert run.step == 3
    assert run.evaluate(run.judge("tune")).metrics


@pytest.mark.parametrize(("number", "gpus"), [(1, 1), (2, 0.5), (4, 0.25)])
def test_the_share_of_a_gpu(number: int, gpus: float) -> None:
    advice = Advice(on_gpu=True, num_trials=number, memory_gb=20, total_gb=80)
    assert advice.resources == {"gpus": gpus}


def test_without_a_gpu_trials_are_counted() -> None:
    advice = Advice(on_gpu=False, num_trials=2, memory_gb=1, total_gb=16)
    assert advice.resources == {"cpus": 1, "gpus": 0, "max_concurrent": 2}
