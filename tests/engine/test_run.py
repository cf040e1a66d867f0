"""A run goes on bit for bit, carries what it was asked to carry, and stops when its loss breaks."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lttune.engine.assets import Assets
from lttune.engine.checkpoint import load_state, save_state
from lttune.engine.config import Recipe, TrainConfig
from lttune.engine.judge import CachedJudge, LiveJudge
from lttune.engine.memory_file import memory_file
from lttune.engine.run import TrainingRun
from lttune.errors import AppliedConfigError, CacheError, InputError, NonFiniteLossError
from lttune.losses import LOSSES


def state_of(run: TrainingRun) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in run.detector.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def without_times(run: TrainingRun) -> list[dict[str, Any]]:
    return [{**asdict(record), "seconds": 0.0, "peak_memory_gb": 0.0} for record in run.history]


def config_of(method: str, config: TrainConfig) -> TrainConfig:
    return replace(config, method=method, loss=LOSSES[method].Hyperparameters())


# What trains where a method does not train the classifier alone.
FULL: dict[str, Recipe] = {
    **dict.fromkeys(("cross_entropy", "ecm", "rog", "seesaw"), Recipe(parts="all", fidelity="full")),
    "loce": Recipe(parts=("classifier", "box_regressor", "rpn", "mask_head"), fidelity="full"),
}


def full_config(method: str, config: TrainConfig) -> TrainConfig:
    schedule = replace(config.schedule, epochs=1)
    return replace(config_of(method, config), recipe=FULL[method], fidelity="full", schedule=schedule)


def memory_of(run: TrainingRun) -> dict[str, Tensor]:
    augmenter = run.detector.stages[0].loss.augmenter
    return {} if augmenter is None else {name: tensor.clone() for name, tensor in augmenter.state_dict().items()}


@pytest.mark.parametrize("method", sorted(LOSSES))
def test_stopped_in_an_epoch_equals_unbroken(
    method: str, train_config: TrainConfig, assets: Assets, tmp_path: Path
) -> None:
    config = config_of(method, train_config)
    unbroken = TrainingRun(config, assets)
    unbroken.advance()
    broken = TrainingRun(config, assets)
    broken.advance(max_iters=4)  # one epoch is 3 iterations
    broken.save(tmp_path / "run.pt")
    resumed = TrainingRun(config, assets)
    resumed.restore(tmp_path / "run.pt")
    assert (resumed.step, resumed.epoch) == (4, 1)
    resumed.advance()
    assert_same(state_of(unbroken), state_of(resumed))
    assert repr(without_times(unbroken)) == repr(without_times(resumed))


def test_cached_heads_and_memory_stopped_in_an_epoch_equal_unbroken(
    loce_config: TrainConfig, assets: Assets, tmp_path: Path
) -> None:
    unbroken = TrainingRun(loce_config, assets)
    unbroken.advance()
    broken = TrainingRun(loce_config, assets)
    broken.advance(max_iters=4)
    broken.save(tmp_path / "run.pt")
    resumed = TrainingRun(loce_config, assets)
    resumed.restore(tmp_path / "run.pt")
    resumed.advance()
    assert_same(state_of(unbroken), state_of(resumed))
    assert_same(memory_of(unbroken), memory_of(resumed))
    assert repr(without_times(unbroken)) == repr(without_times(resumed))


@pytest.mark.parametrize("method", sorted(FULL))
def test_on_images_stopped_in_an_epoch_equals_unbroken(
    method: str, train_config: TrainConfig, assets: Assets, tmp_path: Path
) -> None:
    config = full_config(method, train_config)
    unbroken = TrainingRun(config, assets, judged_on=None)
    unbroken.advance()
    broken = TrainingRun(config, assets, judged_on=None)
    for _ in range(2):
        broken.advance(max_iters=1)
        broken.save(tmp_path / "run.pt")
    resumed = TrainingRun(config, assets, judged_on=None)
    resumed.restore(tmp_path / "run.pt")
    assert resumed.step == 2
    resumed.advance()
    assert_same(state_of(unbroken), state_of(resumed))
    assert_same(memory_of(unbroken), memory_of(resumed))
    assert bool(memory_of(resumed)) == (method == "loce")
    # The checkpoint, and of a memory the newest file alone.
    assert len(list(tmp_path.iterdir())) == 1 + (method == "loce")


def test_an_epoch_tells_its_terms_and_its_memory(train_config: TrainConfig, assets: Assets) -> None:
    run = TrainingRun(full_config("rog", train_config), assets, judged_on=None)
    (record,) = run.advance()
    assert {"loss_cls", "loss_rank"} < set(record.losses)
    assert sum(record.losses.values()) == pytest.approx(record.loss, rel=1e-6)
    assert 0.05 < record.peak_memory_gb < 100
    assert run.last_report is None


def test_the_last_report_is_that_of_the_last_evaluated_epoch(train_config: TrainConfig, assets: Assets) -> None:
    run = TrainingRun(train_config, assets)
    run.advance()
    assert run.last_report is not None
    assert run.last_report.metrics.items() <= run.history[-1].metrics.items()
    assert set(run.last_report.per_category["segm"]) == set(assets.train.category_ids.tolist())


def test_a_checkpoint_from_before_terms_were_kept(train_config: TrainConfig, assets: Assets, tmp_path: Path) -> None:
    run = TrainingRun(train_config, assets)
    run.advance(max_iters=4)
    run.save(tmp_path / "run.pt")
    state = load_state(tmp_path / "run.pt")
    del state["term_sums"], state["history"][0]["losses"], state["history"][0]["peak_memory_gb"]
    save_state(state, tmp_path / "run.pt")
    resumed = TrainingRun(train_config, assets)
    resumed.restore(tmp_path / "run.pt")
    resumed.advance()
    assert resumed.epoch == train_config.schedule.epochs
    assert resumed.history[0].losses == {}
    assert resumed.history[-1].peak_memory_gb > 0


def test_checkpoint_without_its_memory_is_refused(train_config: TrainConfig, assets: Assets, tmp_path: Path) -> None:
    config = full_config("loce", train_config)
    run = TrainingRun(config, assets, judged_on=None)
    run.advance(max_iters=0)
    run.save(tmp_path / "run.pt")
    memory_file(tmp_path / "run.pt", 0).unlink()
    other = TrainingRun(config, assets, judged_on=None)
    with pytest.raises(CacheError, match=r"run\.memory-0\.pt: not a readable checkpoint"):
        other.restore(tmp_path / "run.pt")


def test_warm_start_happens_once_and_moves_no_parameter(
    train_config: TrainConfig, assets: Assets, tmp_path: Path
) -> None:
    config = full_config("loce", train_config)
    run = TrainingRun(config, assets, judged_on=None)
    before = state_of(run)
    run.advance(max_iters=0)
    assert run.step == 0
    assert run.seconds > 0
    moved = {name for name, tensor in state_of(run).items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.endswith("loss.mean_score")}
    trained = {name for name, part in run.detector.parts.items() if any(p.requires_grad for p in part.parameters())}
    assert trained == set(run.trained_parts)
    run.save(tmp_path / "run.pt")
    resumed = TrainingRun(config, assets, judged_on=None)
    resumed.restore(tmp_path / "run.pt")
    warm, memory = state_of(resumed), memory_of(resumed)
    resumed.advance(max_iters=0)
    assert_same(warm, state_of(resumed))
    assert_same(memory, memory_of(resumed))


def test_memory_of_a_moving_box_head_is_refused(train_config: TrainConfig, assets: Assets) -> None:
    config = replace(full_config("loce", train_config), recipe=Recipe(parts="all", fidelity="full"))
    with pytest.raises(InputError, match="loce keeps a memory of box-head outputs, but trains backbone"):
        TrainingRun(config, assets)
    TrainingRun(replace(config, loss=LOSSES["loce"].Hyperparameters(has_memory=False)), assets, judged_on=None)


def test_only_the_classifier_moves(train_config: TrainConfig, assets: Assets) -> None:
    run = TrainingRun(train_config, assets)
    before = state_of(run)
    run.advance()
    moved = {name for name, tensor in state_of(run).items() if not torch.equal(tensor, before[name])}
    own = {id(p) for p in run.detector.parts["classifier"].parameters()}
    classifier = {name for name, p in run.detector.named_parameters() if id(p) in own}
    assert moved == classifier


def test_cached_and_live_trunks_draw_the_same_rows(train_config: TrainConfig, assets: Assets) -> None:
    cached = TrainingRun(train_config, assets)
    live = TrainingRun(replace(train_config, fidelity="full"), assets)
    for run in (cached, live):
        run.advance()
    first, second = (run.detector.parts["classifier"].state_dict() for run in (cached, live))
    for name in first:
        # Images were grouped into other batches, which rounds sums otherwise.
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-4)
    assert cached.history[-1].metrics["AP"] == pytest.approx(live.history[-1].metrics["AP"], abs=0.05)


@pytest.mark.parametrize("method", ["ecm", "rog", "seesaw"])
def test_proxies_with_a_fresh_cosine_classifier_train_the_same_cached_and_live(
    method: str, train_config: TrainConfig, assets: Assets
) -> None:
    config = replace(
        config_of(method, train_config),
        recipe=Recipe(parts=("classifier",), classifier_start="fresh"),
        detector=replace(train_config.detector, normed_classifier=True),
    )
    cached = TrainingRun(config, assets)
    live = TrainingRun(replace(config, fidelity="full"), assets, judged_on=None)
    before = cached.detector.parts["classifier"].state_dict()["weight"].clone()
    for run in (cached, live):
        run.advance()
    first, second = (run.detector.parts["classifier"].state_dict() for run in (cached, live))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-4)
    assert not torch.equal(first["weight"], before)
    assert len(before) == assets.train.num_categories + (2 if method == "seesaw" else 1)
    assert 0 <= cached.history[-1].metrics["AP"] <= 100


def test_heads_alone_move_on_cached_features(loce_config: TrainConfig, assets: Assets) -> None:
    run = TrainingRun(loce_config, assets, judged_on=None)
    before = state_of(run)
    run.advance(max_iters=1)
    moved = {name for name, tensor in state_of(run).items() if not torch.equal(tensor, before[name])}
    own = {id(p) for part in ("classifier", "box_regressor") for p in run.detector.parts[part].parameters()}
    heads = {name for name, p in run.detector.named_parameters() if id(p) in own}
    assert moved == heads | {name for name in before if name.endswith("loss.mean_score")}


def test_boxes_that_move_are_judged_on_images_and_only_at_the_end(
    train_config: TrainConfig, loce_config: TrainConfig, assets: Assets
) -> None:
    run = TrainingRun(loce_config, assets)
    cached = CachedJudge(assets.feature_folder("tune"), assets.ground_truth("tune"))
    first = run.evaluate().metrics
    # Nothing has moved yet; images went through the trunk in the same batches.
    assert first == pytest.approx(run.evaluate(cached).metrics, abs=1e-6, nan_ok=True)
    run.advance()
    assert [bool(record.metrics) for record in run.history] == [False, False, True]
    live = TrainingRun(replace(loce_config, fidelity="full"), assets)
    for name in run.trained_parts:
        live.detector.parts[name].load_state_dict(run.detector.parts[name].state_dict())
    expected = live.evaluate().metrics
    assert {key: run.history[-1].metrics[key] for key in expected} == pytest.approx(expected, abs=0, nan_ok=True)
    assert isinstance(run.judge("tune"), LiveJudge)
    assert isinstance(TrainingRun(train_config, assets).judge("tune"), CachedJudge)


def test_a_scheduler_that_stops_at_evaluations_gets_them(loce_config: TrainConfig, assets: Assets) -> None:
    run = TrainingRun(loce_config, assets)
    assert [bool(record.metrics) for record in run.advance(stop_at_evaluation=True)] == [True]


def test_cached_memory_refuses_another_jitter(loce_config: TrainConfig, assets: Assets) -> None:
    with pytest.raises(InputError, match=r"loss\.jitter_amplitude is 0\.1; .* use `fidelity: full`"):
        replace(loce_config, loss=replace(loce_config.loss, jitter_amplitude=0.1))
    with pytest.raises(InputError, match="rows of its own, and their boxes are not cached"):
        TrainingRun(loce_config, replace(assets, memory=None))


def test_the_size_of_the_memory_is_told_once(
    loce_config: TrainConfig, assets: Assets, caplog: pytest.LogCaptureFixture
) -> None:
    run = TrainingRun(loce_config, assets, judged_on=None)
    with caplog.at_level("INFO", logger="lttune.engine"):
        run.advance(max_iters=1)
        run.advance(max_iters=1)
    held = run.detector.stages[0].loss.state_bytes
    assert held > 6 * 32 * 256 * 4  # the features of six full queues, and their box targets
    assert caplog.messages == [f"Mean scores and feature memory hold {held / 1e6:.1f} MB."]


def test_slices_end_at_evaluations_when_asked(train_config: TrainConfig, assets: Assets) -> None:
    config = replace(train_config, evaluation=replace(train_config.evaluation, every_epochs=2))
    run = TrainingRun(config, assets)
    assert [record.epoch for record in run.advance(stop_at_evaluation=True)] == [1, 2]
    assert [record.epoch for record in run.advance(stop_at_evaluation=True)] == [3]
    assert [bool(record.metrics) for record in run.history] == [False, True, True]
    assert run.is_finished
    assert run.advance() == []


def test_applied_values_are_read_from_the_live_objects(train_config: TrainConfig, assets: Assets) -> None:
    run = TrainingRun(train_config, assets)
    asked = {"optim.lr": 1e-2, "loss.score_threshold": 0.7, "schedule.epochs": 3}
    digest = run.prove_applied(asked)
    assert digest == TrainingRun(train_config, assets).prove_applied(asked)
    run.advance(max_iters=1)  # the schedule moves the rate, not the base rate
    assert run.prove_applied(asked) == digest
    run.optimizer.defaults["lr"] = 0.5
    with pytest.raises(AppliedConfigError, match=r"optim\.lr was set to 0\.01.*carries 0\.5"):
        run.prove_applied(asked)


def test_nan_loss_ends_the_run_with_its_reason(train_config: TrainConfig, assets: Assets) -> None:
    run = TrainingRun(train_config, assets)
    with torch.no_grad():
        next(run.detector.parts["classifier"].parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="the loss became nan in epoch 1"):
        run.advance()


def test_checkpoint_of_another_configuration_is_refused(
    train_config: TrainConfig, assets: Assets, tmp_path: Path
) -> None:
    run = TrainingRun(train_config, assets)
    run.save(tmp_path / "run.pt")
    other = TrainingRun(replace(train_config, seed=4), assets)
    with pytest.raises(CacheError, match="another configuration"):
        other.restore(tmp_path / "run.pt")
    (tmp_path / "run.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CacheError, match="not a readable checkpoint"):
        run.restore(tmp_path / "run.pt")


def test_cached_fidelity_needs_a_frozen_trunk(train_config: TrainConfig, assets: Assets) -> None:
    with pytest.raises(InputError, match="fidelity is cached, but acsl trains"):
        TrainingRun(replace(train_config, recipe=Recipe(parts="all")), assets)


def test_fresh_classifier_ignores_stage_1(train_config: TrainConfig, assets: Assets) -> None:
    fresh = replace(train_config, recipe=Recipe(parts=("classifier",), classifier_start="fresh"))
    first = TrainingRun(train_config, assets).detector.parts["classifier"].state_dict()
    second = TrainingRun(fresh, assets).detector.parts["classifier"].state_dict()
    assert not torch.equal(first["weight"], second["weight"])
    assert float(second["weight"].std()) == pytest.approx(0.01, rel=0.2)
