"""`lttune train` and `lttune evaluate` on what it trained, on glyphs small enough for seconds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
SPACE = """\
schema: 1
method: acsl
search: {trials: 2, seed: 3}
space:
  loss.score_threshold: {float: [0.05, 0.95], default: 0.7}
on:
  description: two glyphs
  data: {glyphs: {num_categories: 2, num_train_images: 12, num_val_images: 8, size_px: 64, seed: 1}}
  detector:
    name: tiny_mask_rcnn_fpn
    class_agnostic_box: true
    class_agnostic_mask: true
    num_train_proposals: 10
    num_test_proposals: 10
    num_rois: 8
    score_threshold: 0.0
  stage1: {optim: {name: adamw, lr: 4e-3}, schedule: {epochs: 2, batch_size: 4, policy: one_cycle}}
  optim: {name: adamw, lr: 0.01}
  schedule: {epochs: 2, batch_size: 4, policy: one_cycle}
  evaluation: {max_dets: 20}
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(SPACE)
    return tmp_path / "mine.yaml"


def test_trained_evaluated_and_trained_again(space: Path, lttune: Run, tmp_path: Path) -> None:
    ran = lttune("train", "mine.yaml", "--json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    folder = tmp_path / "lttune_runs" / "trained" / "mine"
    assert (document["folder"], document["was_finished"]) == (str(folder), False)
    assert "training: 6 of 6" in ran.err
    assert set(document["metrics"]) == {"tune", "report"}
    assert json.loads((folder / "metrics.json").read_text())["report"] == document["metrics"]["report"]

    again = lttune("train", "mine.yaml")
    assert (again.code, again.out.splitlines()[0]) == (0, f"Finished before: {folder.relative_to(tmp_path)}")
    assert "training" not in again.err

    found = json.loads(lttune("evaluate", folder, "--json").out)
    assert found == document["metrics"]["report"]
    looks = [json.loads(line)["by"] for line in (folder / "report_looks.jsonl").read_text().splitlines()]
    assert looks == ["train", "evaluate"]

    other = lttune("train", "mine.yaml", "--seed", "4")
    assert other.code == 2
    assert "holds a run with seed = 3, not 4; name another folder with --to." in other.err
    assert lttune("train", folder, "--to", "copy", "--json").code == 0  # from an exported folder
    copied = json.loads((tmp_path / "copy" / "metrics.json").read_text())
    assert copied["report"] == document["metrics"]["report"]


def test_values_on_the_command_line_are_those_trained(space: Path, lttune: Run, tmp_path: Path) -> None:
    ran = lttune("train", "mine.yaml", "--set", "loss.score_threshold=0.25", "--set", "schedule.epochs=1", "--to", "x")
    assert ran.code == 0, ran.err
    known = json.loads((tmp_path / "x" / "run.json").read_text())
    assert (known["loss"]["score_threshold"], known["schedule"]["epochs"]) == (0.25, 1)
    assert ran.out.splitlines()[0] == "Trained: x"
    assert ran.out.splitlines()[-1] == "Next:  lttune evaluate x"


@pytest.mark.slow
def test_a_tracked_run_is_a_study_of_one_trial(space: Path, lttune: Run, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    assert lttune("train", "mine.yaml", "--track").code == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'lttune_runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lttune")
    assert experiment is not None
    runs = {run.data.tags.get("lttune.trial"): run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {None, "0"}
    metrics = json.loads((tmp_path / "lttune_runs" / "trained" / "mine" / "metrics.json").read_text())["report"]
    assert runs["0"].data.metrics["AP"] == pytest.approx(metrics["AP"])
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    steps = [point.step for point in client.get_metric_history(runs["0"].info.run_id, "loss")]
    assert steps == [1, 2]
    # The same as trials of a search have.
    assert {"loss/loss_cls", "gpu_hours", "peak_memory_gb", "seconds", "lr"} <= set(runs["0"].data.metrics)
    tags = {"method", "fidelity", "differs", "backend", "detector", "version", "data", "stage1", "seed", "setting"}
    assert tags <= {name.removeprefix("lttune.") for name in runs["0"].data.tags}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "none.yaml: there is no such search space file"),
        (["acls"], "'acls' is not a search space that comes with lttune. Did you mean 'acsl'?"),
        (["acsl", "--workers", "0"], "Invalid value for '--workers'"),
        (["acsl", "--seed", "-1"], "Invalid value for '--seed'"),
        (["acsl", "--set", "loss.score_threshold=2"], "--set loss.score_threshold"),
        ([], "Missing argument 'CONFIG'"),
    ],
)
def test_what_cannot_be_trained(arguments: list[str], message: str, lttune: Run, tmp_path: Path) -> None:
    ran = lttune("train", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert list(tmp_path.iterdir()) == []
