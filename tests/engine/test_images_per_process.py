"""The published runs' images per process reach the loss, and every learner says which image a row belongs to."""

from dataclasses import replace

import pytest

from lttune.engine.assets import Assets
from lttune.engine.config import Recipe, ScheduleConfig, TrainConfig
from lttune.engine.run import TrainingRun
from lttune.errors import InputError
from lttune.losses import LOSSES

EVERYTHING = Recipe(parts="all", fidelity="full")


@pytest.mark.parametrize(("method", "recipe"), [("acsl", Recipe(parts=("classifier",))), ("rog", EVERYTHING)])
def test_a_step_takes_processes_apart(method: str, recipe: Recipe, train_config: TrainConfig, assets: Assets) -> None:
    config = replace(
        train_config,
        method=method,
        loss=LOSSES[method].Hyperparameters(),
        recipe=recipe,
        fidelity=recipe.fidelity,
        schedule=replace(train_config.schedule, images_per_process=2),
    )
    run = TrainingRun(config, assets, judged_on=None)
    loss = run.detector.stages[0].loss
    rows: list[int] = []
    terms = loss.terms
    loss.terms = lambda logits, labels: rows.append(len(labels)) or terms(logits, labels)  # type: ignore[assignment]
    run.advance(max_iters=1)
    # Batches of 4 images, at most 8 RoIs of each.
    assert len(rows) == 2
    assert all(0 < number <= 16 for number in rows)
    assert run.applied()["schedule.images_per_process"] == 2


def test_less_than_one_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"^schedule\.images_per_process is 0; use at least 1\.$"):
        ScheduleConfig(epochs=1, batch_size=4, images_per_process=0)
