"""Half precision and batches in parts train as float32 and whole batches do."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from lttune.detectors.base import Detector, PartName
from lttune.engine.assets import Assets
from lttune.engine.config import Precision, Recipe, TrainConfig
from lttune.engine.parallel import Ranks
from lttune.engine.run import TrainingRun
from lttune.errors import InputError
from lttune.losses import LOSSES

HEADS: tuple[PartName, ...] = ("box_head", "classifier", "box_regressor")


def on_images(
    config: TrainConfig, parts: tuple[PartName, ...] | str = "all", method: str = "cross_entropy"
) -> TrainConfig:
    """Two steps on images, by plain SGD."""
    return replace(
        config,
        method=method,
        loss=LOSSES[method].Hyperparameters(),
        optim=replace(config.optim, name="sgd", lr=1e-3, clip_norm=None),
        schedule=replace(config.schedule, policy="steps", epochs=1, epoch_images=8),
        recipe=Recipe(parts=parts, fidelity="full"),  # type: ignore[arg-type]
        fidelity="full",
    )


def weights_of(detector: Detector, parts: tuple[PartName, ...]) -> dict[str, Tensor]:
    return {f"{part}.{n}": p.detach().clone() for part in parts for n, p in detector.parts[part].named_parameters()}


def test_a_batch_in_parts_is_the_whole_batch(train_config: TrainConfig, assets: Assets) -> None:
    # Every image has as many RoIs, so that parts weigh what their rows weigh; backbone and RPN stand still, which know
    # of the others in a batch.
    config = on_images(train_config, HEADS)
    whole = TrainingRun(config, assets, judged_on=None, ranks=Ranks())
    before = weights_of(whole.detector, HEADS)
    whole.advance()
    parts = TrainingRun(replace(config, schedule=replace(config.schedule, accumulate=4)), assets, judged_on=None)
    parts.advance()

    assert parts.step == whole.step == 2
    assert parts.history[0].loss == pytest.approx(whole.history[0].loss, rel=1e-5)
    for name, tensor in weights_of(parts.detector, HEADS).items():
        moved = weights_of(whole.detector, HEADS)[name]
        torch.testing.assert_close(tensor - before[name], moved - before[name], rtol=1e-3, atol=1e-7)
        assert name.endswith("bias") or not torch.equal(moved, before[name])


def test_parts_of_a_batch_are_equal(train_config: TrainConfig) -> None:
    with pytest.raises(InputError, match=r"schedule.accumulate is 3; its parts of a batch are to be equal, use a div"):
        replace(train_config.schedule, accumulate=3)
    with pytest.raises(InputError, match=r"schedule.accumulate is 0; use at least 1"):
        replace(train_config.schedule, accumulate=0)
    with pytest.raises(InputError, match=r"precision is half; use float32, bf16, fp16"):
        replace(train_config, precision="half")  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_float32(precision: Precision, train_config: TrainConfig, assets: Assets) -> None:
    config = on_images(train_config, method="rog")
    exact = TrainingRun(config, assets, judged_on=None)
    (record,) = exact.advance()
    half = TrainingRun(replace(config, precision=precision), assets, judged_on=None)
    (rounded,) = half.advance()

    assert rounded.losses.keys() == record.losses.keys()
    for name, value in rounded.losses.items():
        assert value == pytest.approx(record.losses[name], rel=0.1, abs=0.02), name
    assert rounded.loss != record.loss
    for name, tensor in half.detector.state_dict().items():
        assert tensor.dtype == exact.detector.state_dict()[name].dtype, name
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_memory_and_statistics_stay_as_exact(precision: Precision, loce_config: TrainConfig, assets: Assets) -> None:
    parts: tuple[PartName, ...] = ("classifier", "box_regressor", "rpn", "mask_head")
    config = replace(on_images(loce_config, parts, "loce"), loss=loce_config.loss, precision=precision)
    run = TrainingRun(config, assets, judged_on=None)
    run.advance()
    loss = run.detector.stages[0].loss
    assert loss.augmenter is not None
    state = loss.augmenter.state_dict()
    assert {t.dtype for n, t in state.items() if not n.endswith("num_written")} == {torch.float32}
    assert loss.state_dict()["mean_score"].dtype == torch.float64


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_an_overflow_is_left_out_and_counted(
    name: Literal["adamw", "sgd"], train_config: TrainConfig, assets: Assets, tmp_path: Path
) -> None:
    config = replace(train_config, precision="fp16", optim=replace(train_config.optim, name=name))
    unbroken, broken = (TrainingRun(config, assets, judged_on=None) for _ in range(2))
    for run in (unbroken, broken):
        run._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, growth_interval=2)
    unbroken.advance()
    broken.advance(max_iters=2)
    broken.save(tmp_path / "run.pt")
    resumed = TrainingRun(config, assets, judged_on=None)
    resumed.restore(tmp_path / "run.pt")
    resumed.advance()

    # The first steps overflow, and each halves the scale; the schedule counts batches and goes on.
    assert sum(record.skipped_steps for record in unbroken.history) > 2
    assert unbroken.step == 9
    assert unbroken.history[-1].lr == last_lr(train_config, assets)
    assert [record.skipped_steps for record in resumed.history] == [r.skipped_steps for r in unbroken.history]
    for key, tensor in unbroken.detector.state_dict().items():
        assert torch.equal(tensor, resumed.detector.state_dict()[key]), key
        assert tensor.isfinite().all(), key
        assert tensor.abs().max() < 1e3, key


def last_lr(config: TrainConfig, assets: Assets) -> float:
    run = TrainingRun(config, assets, judged_on=None)
    run.advance()
    return run.history[-1].lr
