"""A trial behind Ray's class API, without a cluster."""

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler

from lttune.engine.assets import Assets
from lttune.engine.run import TrainingRun
from lttune.errors import AppliedConfigError
from lttune.evaluation.report import HEADLINE
from lttune.losses import LOSSES
from lttune.losses.rog import RogHyperparameters
from lttune.losses.seesaw import SeesawHyperparameters
from lttune.spec.search import SearchSpec, searchable_keys
from lttune.tuning.categories import read_categories
from lttune.tuning.jobs import ConfirmationJob, TrialJob
from lttune.tuning.restarts import WorkerLeavesError
from lttune.tuning.trainable import MethodTrainable
from trainables import TRAINABLES

Start = Callable[..., MethodTrainable]
PARAMS = {"loss.score_threshold": 0.4, "schedule.epochs": 3, "optim.lr": 0.02}
# One iteration.
SHORT_S = 1e-9


@pytest.fixture
def job(make_job: Callable[..., TrialJob], assets: Assets) -> TrialJob:
    """Three epochs in one slice."""
    return make_job(5, PARAMS, assets=assets)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a worker on a job."""
    workers: list[MethodTrainable] = []

    def make(job: TrialJob) -> MethodTrainable:
        workers.append(TRAINABLES["acsl"]({"job": job}))
        return workers[-1]

    yield make
    for worker in workers:
        worker.stop()


def run_into_the_second_epoch(worker: MethodTrainable) -> None:
    while worker.step()["epoch"] < 1:
        pass
    assert worker.step()["epoch"] < 3


def metrics_of(report: dict[str, Any]) -> str:
    return repr(report["metrics"])


def test_every_trainable_names_the_recipe_of_its_methods() -> None:
    for method, trainable in TRAINABLES.items():
        assert trainable.recipe(method) is trainable.recipes[method]
        assert set(trainable.recipes) <= set(TRAINABLES)


def test_a_step_reports_its_epochs_and_leaves_a_checkpoint(start: Start, job: TrialJob) -> None:
    report = start(job).step()
    assert (report["number"], report["epoch"], report["done"], report["failure"]) == (5, 3, True, None)
    assert report["failure_kind"] is None
    assert [record["epoch"] for record in report["epochs"]] == [1, 2, 3]
    assert dict(report["metrics"]) == report["epochs"][-1]["metrics"]
    assert report["objective"] == dict(report["metrics"])["AP"]
    assert math.isfinite(report["objective"])
    assert len(report["applied_hash"]) == 64
    assert Path(job.checkpoint).is_file()


def test_a_step_leaves_a_table_of_its_categories(start: Start, job: TrialJob, assets: Assets) -> None:
    worker = start(job)
    report = worker.step()
    table = read_categories(Path(job.checkpoint))
    assert table is not None
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [int(row["id"]) for row in rows] == assets.train.category_ids.tolist()
    assert [int(row["training_images"]) for row in rows] == assets.frequencies.image_count.tolist()
    known = [float(row["segm_AP"]) for row in rows if row["segm_AP"]]
    assert sum(known) / len(known) == pytest.approx(dict(report["metrics"])["segm/AP"], abs=1e-3)


def test_slices_may_end_within_an_epoch(start: Start, job: TrialJob) -> None:
    worker = start(replace(job, slice_s=SHORT_S))
    reports = [worker.step()]
    while not reports[-1]["done"]:
        reports.append(worker.step())
    assert len(reports) >= 3
    assert [record["epoch"] for report in reports for record in report["epochs"]] == [1, 2, 3]
    for before, after in pairwise(reports):
        assert after["epochs"] or after["metrics"] == before["metrics"]


def test_slices_end_at_evaluations_for_a_scheduler(start: Start, job: TrialJob) -> None:
    worker = start(replace(job, stop_at_evaluation=True))
    assert [worker.step()["epoch"] for _ in range(3)] == [1, 2, 3]


def test_a_new_worker_goes_on_from_the_checkpoint(start: Start, job: TrialJob, tmp_path: Path) -> None:
    unbroken = start(job).step()
    broken = replace(job, slice_s=SHORT_S, checkpoint=str(tmp_path / "broken.pt"))
    run_into_the_second_epoch(start(broken))
    again = start(replace(broken, slice_s=600.0)).step()
    assert [record["epoch"] for record in again["epochs"]] == [1, 2, 3]  # the callback knows the first already
    assert metrics_of(again) == metrics_of(unbroken)
    assert again["applied_hash"] == unbroken["applied_hash"]


def test_a_damaged_checkpoint_is_set_aside_and_the_trial_runs_again(start: Start, job: TrialJob) -> None:
    expected = start(job).step()
    path = Path(job.checkpoint)
    path.write_bytes(b"damaged")
    assert metrics_of(start(job).step()) == metrics_of(expected)
    assert path.with_suffix(".damaged").read_bytes() == b"damaged"
    assert path.read_bytes() != b"damaged"


def test_rays_own_checkpoints(start: Start, job: TrialJob, tmp_path: Path) -> None:
    worker = start(replace(job, slice_s=SHORT_S))
    run_into_the_second_epoch(worker)
    folder = tmp_path / "of_ray"
    folder.mkdir()
    worker.save_checkpoint(str(folder))
    other = start(replace(job, checkpoint=str(tmp_path / "other.pt")))
    other.load_checkpoint(str(folder))
    assert metrics_of(other.step()) == metrics_of(start(replace(job, checkpoint=str(tmp_path / "third.pt"))).step())


def test_a_reused_worker_keeps_nothing_of_the_trial_before(
    start: Start, job: TrialJob, make_job: Callable[..., TrialJob], assets: Assets
) -> None:
    worker = start(job)
    first = worker.step()
    second = make_job(6, {**PARAMS, "schedule.epochs": 2, "optim.lr": 0.05}, assets=assets)
    assert worker.reset_config({"job": second})
    report = worker.step()
    assert (report["number"], report["epoch"], len(report["epochs"])) == (6, 2, 2)
    assert report["applied_hash"] != first["applied_hash"]
    alone = start(replace(second, checkpoint=f"{second.checkpoint}.alone")).step()
    assert metrics_of(report) == metrics_of(alone)


# ---- runs of the confirmation


@pytest.fixture
def run_job(make_run: Callable[..., ConfirmationJob], assets: Assets) -> ConfirmationJob:
    """Three epochs in one slice, with another seed."""
    return make_run("best", 9, PARAMS, assets=assets)


def test_a_run_is_measured_on_the_report_half_alone(start: Start, run_job: ConfirmationJob, assets: Assets) -> None:
    report = start(run_job).step()
    assert set(report) - {"done"} >= {"found", "failure"}
    assert not {"epoch", "objective", "epochs", "number"} & set(report)
    assert (report["done"], report["failure"]) == (True, None)
    run = TrainingRun(run_job.config, assets, judged_on=None)
    run.advance()
    judge = run.judge("report")
    expected = {
        str(limit): {name: run.evaluate(judge, max_dets=limit).metrics[f"segm/{name}"] for name in HEADLINE}
        for limit in (5, 300)
    }
    assert repr(dict(report["found"])) == repr(expected)
    assert run.history[-1].metrics == {}


def test_no_scheduler_can_stop_a_run_of_the_confirmation(start: Start, run_job: ConfirmationJob) -> None:
    asha = AsyncHyperBandScheduler(
        time_attr="epoch", metric="objective", mode="max", grace_period=1, reduction_factor=4, max_t=3
    )
    trial = SimpleNamespace(trial_id="a run")
    asha.on_trial_add(None, trial)
    worker = start(replace(run_job, slice_s=SHORT_S))
    reports = [worker.step()]
    while not reports[-1]["done"]:
        reports.append(worker.step())
    assert len(reports) >= 3
    assert {asha.on_trial_result(None, trial, report) for report in reports} == {"CONTINUE"}
    assert [report["found"] for report in reports[:-1]] == [None] * (len(reports) - 1)


def test_a_run_goes_on_from_its_checkpoint(start: Start, run_job: ConfirmationJob, tmp_path: Path) -> None:
    expected = start(run_job).step()
    broken = replace(run_job, slice_s=SHORT_S, checkpoint=str(tmp_path / "broken" / "run.pt"))
    worker = start(broken)
    for _ in range(2):
        assert not worker.step()["done"]
    again = start(replace(broken, slice_s=600.0))
    assert again._run is not None
    assert again._run.step > 0
    assert repr(again.step()["found"]) == repr(expected["found"])


def test_stage_1_is_measured_as_it_is(start: Start, run_job: ConfirmationJob, assets: Assets, spec: SearchSpec) -> None:
    # Whatever a method does to the classifier: the stage-1 model is the softmax one.
    recipe = replace(run_job.config.recipe, classifier_start="fresh")
    job = replace(run_job, arm="stage1", config=replace(run_job.config, recipe=recipe))
    report = start(job).step()
    assert (report["done"], report["failure"]) == (True, None)
    assert not Path(job.checkpoint).exists()
    softmax = TrainingRun(
        replace(run_job.config, method="cross_entropy", loss=LOSSES["cross_entropy"].Hyperparameters()), assets
    )
    expected = softmax.evaluate(softmax.judge("report"), max_dets=300).metrics
    assert dict(report["found"])["300"]["AP"] == expected["segm/AP"]


def test_a_worker_that_has_to_go_saves_its_slice_first(start: Start, job: TrialJob) -> None:
    worker = start(replace(job, slice_s=SHORT_S))
    worker._departure._is_told = True
    with pytest.raises(WorkerLeavesError, match="SIGTERM"):
        worker.step()
    again = start(replace(job, slice_s=600.0))
    assert again._run is not None
    assert again._run.step == 1
    # Whoever has come to its end has nothing to move.
    again._departure._is_told = True
    assert again.step()["done"]


def test_a_slice_says_how_long_it_was(start: Start, job: TrialJob) -> None:
    report = start(job).step()
    assert 0 < report["evaluation_seconds"] < report["slice_seconds"]
    assert (report["node"], report["gpu_ids"]) == ("", [])


def test_a_worker_turns_from_trials_to_the_confirmation(start: Start, job: TrialJob, run_job: ConfirmationJob) -> None:
    worker = start(job)
    worker.step()
    assert worker.reset_config({"job": run_job})
    assert repr(worker.step()["found"]) == repr(
        start(replace(run_job, checkpoint=f"{run_job.checkpoint}.2")).step()["found"]
    )


def test_a_run_of_the_confirmation_that_cannot_go_on(start: Start, run_job: ConfirmationJob) -> None:
    worker = start(run_job)
    worker._run.detector.parts["classifier"].weight.data.fill_(math.inf)  # type: ignore[union-attr, operator]
    report = worker.step()
    assert (report["done"], report["found"]) == (True, None)
    assert report["failure"].startswith("the loss became")
    wrong = start(replace(run_job, params={**PARAMS, "optim.lr": 0.5})).step()
    assert wrong["failure"].startswith("optim.lr was set to 0.5, but the built trial carries 0.02")


def test_cleanup_drops_the_run(start: Start, job: TrialJob) -> None:
    worker = start(job)
    worker.cleanup()
    report = worker.step()
    assert (report["done"], report["epoch"], report["metrics"]) == (True, 0, ())


def test_a_trial_that_cannot_go_on_ends_with_its_reason(start: Start, job: TrialJob) -> None:
    # A rate so large that the loss overflows.
    optim = replace(job.config.optim, lr=99.0, name="sgd", momentum=0.0)
    far = replace(job.config, optim=optim, loss=job.config.loss)
    worker = start(replace(job, config=far, params={"optim.lr": 99.0}))
    worker._run.detector.parts["classifier"].weight.data.fill_(math.inf)  # type: ignore[union-attr, operator]
    report = worker.step()
    assert report["done"]
    assert report["failure"].startswith("the loss became")
    assert report["failure_kind"] == "NonFiniteLossError"
    assert math.isnan(report["objective"])


def test_a_live_object_without_the_asked_value_fails_the_trial(start: Start, job: TrialJob) -> None:
    report = start(replace(job, params={**PARAMS, "optim.lr": 0.5})).step()
    assert report["done"]
    assert report["failure"].startswith("optim.lr was set to 0.5, but the built trial carries 0.02")
    assert report["epochs"] == []


def test_values_of_a_group_are_proved_too(job: TrialJob, assets: Assets) -> None:
    loss = RogHyperparameters(object_loss="seesaw", seesaw=SeesawHyperparameters(p=0.3))
    run = TrainingRun(replace(job.config, method="rog", loss=loss), assets)
    run.prove_applied({"loss.seesaw.p": 0.3, "loss.object_loss": "seesaw", "loss.gamma": 1.0})
    assert {key for key in run.applied() if key.startswith("loss.")} == {
        key for key in searchable_keys("rog") if key.startswith("loss.")
    }
    with pytest.raises(AppliedConfigError, match=r"loss\.seesaw\.p was set to 0\.4, but the built trial carries 0\.3"):
        run.prove_applied({"loss.seesaw.p": 0.4})
