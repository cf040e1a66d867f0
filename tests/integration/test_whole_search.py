"""An undisturbed search from the command line, and what can be asked of it afterwards."""

import json
import shutil
import time
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

pytestmark = pytest.mark.slow

NUM_TRIALS, EPOCHS = 4, 24
# The fixture's parts: a workplace, what the search printed, a copy of the cache.
Whole: TypeAlias = tuple[Any, str, Path]


def test_json_is_one_object_with_every_trial(whole: Whole) -> None:
    document = json.loads(whole[1])

    assert list(document) == ["study", "best", "objective", "trials"]
    assert document["study"] == "whole"
    assert document["objective"] == {"metric": "AP", "mode": "max"}
    assert [trial["number"] for trial in document["trials"]] == list(range(NUM_TRIALS))
    for trial in document["trials"]:
        assert trial["state"] == "COMPLETE"
        assert set(trial["params"]) == {"loss.score_threshold", "optim.lr"}
        assert {"AP", "AP_r", "AP_c", "AP_f"} <= set(trial["metrics"])
        assert 0 <= trial["metrics"]["AP"] <= 100
        assert trial["metrics"]["AP_f"] is None  # no category of 60 images is in more than 100
        assert trial["seconds"] > 0
        assert trial["fidelity"] == "cached"
    values = [trial["metrics"]["AP"] for trial in document["trials"]]
    assert document["best"] == values.index(max(values))
    assert document["trials"][0]["params"] == {"loss.score_threshold": 0.7, "optim.lr": 0.01}


def test_the_folder_tells_the_same(whole: Whole) -> None:
    place, printed, _ = whole
    trials = {trial["number"]: trial for trial in json.loads(printed)["trials"]}
    folder = place.study("whole")

    spec = yaml.safe_load((folder / "spec.yaml").read_text())
    assert spec["on"]["schedule"]["epochs"] == EPOCHS
    for trial in place.optuna_trials("whole"):
        assert trial.state.name == "COMPLETE"
        assert dict(trial.params) == trials[trial.number]["params"]
        assert trial.value == trials[trial.number]["metrics"]["AP"]
        assert list(trial.intermediate_values) == list(range(1, EPOCHS + 1))
        assert len(place.history("whole", trial.number)) == EPOCHS
    lines = place.lines("whole", "trials.jsonl")
    assert sorted(line["number"] for line in lines) == list(range(NUM_TRIALS))
    for line in lines:
        assert line["params"] == trials[line["number"]]["params"]
        assert line["metrics"]["AP"] == trials[line["number"]]["metrics"]["AP"]
    assert not (folder / "ray").exists()


def test_the_confirmation_has_every_arm_with_the_same_new_seeds(whole: Whole) -> None:
    place, printed, _ = whole
    folder = place.study("whole")
    confirmation = json.loads((folder / "confirmation.json").read_text())

    assert json.loads(printed)["best"] != 0
    assert confirmation["seeds"] == [6, 7, 8, 9, 10]
    assert confirmation["limits"] == [20, 300]
    assert list(confirmation["runs"]) == ["trial_0", "best", "optimiser_only"]
    assert confirmation["failures"] == {}
    for runs in [*confirmation["runs"].values(), {"6": confirmation["stage1"]} | {str(s): {} for s in range(7, 11)}]:
        assert sorted(map(int, runs)) == confirmation["seeds"]
        assert all(set(found) in ({"20", "300"}, set()) for found in runs.values())
    # Each look at the report half is written down, in the order of the arms.
    looks = place.lines("whole", "report_looks.jsonl")
    assert [look["by"] for look in looks] == ["search"] * 3
    assert not (folder / "confirmation").exists()
    assert sorted(path.name for path in (folder / "checkpoints").glob("*")) == [
        f"{n:04d}.pt" for n in range(NUM_TRIALS)
    ]


def test_an_older_study_that_lacks_an_arm_gets_it(whole: Whole, prepared: Any) -> None:
    shutil.copytree(whole[0].study("whole"), prepared.study("whole"))
    path = prepared.study("whole") / "confirmation.json"
    complete = json.loads(path.read_text())
    older = {**complete, "runs": {arm: complete["runs"][arm] for arm in ("trial_0", "best")}}
    del older["failures"]
    path.write_text(json.dumps(older))

    document = json.loads(prepared.start("resume", "whole", "--json").finish())

    assert document == json.loads(whole[1])
    assert json.loads(path.read_text()) == complete
    assert len(prepared.lines("whole", "report_looks.jsonl")) == 4


def test_mlflow_has_a_parent_and_one_run_per_trial(whole: Whole) -> None:
    place, printed, _ = whole
    runs = place.mlflow_runs("whole")
    parent = runs.pop(None)

    assert parent.info.status == "FINISHED"
    assert sorted(runs) == list(range(NUM_TRIALS))
    assert _artifacts(parent) >= {"spec.yaml", "best_config.yaml", "history.svg"}
    for trial in json.loads(printed)["trials"]:
        run = runs[trial["number"]]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        short = {key.rpartition(".")[2]: value for key, value in trial["params"].items()}
        assert {key: float(value) for key, value in run.data.params.items()} == short
        for metric in ("AP", "AP_r", "AP_c", "segm/AP", "bbox/AP", "loss"):
            assert place.mlflow_steps(run, metric) == list(range(1, EPOCHS + 1))
        assert run.data.metrics["AP"] == trial["metrics"]["AP"]
        assert run.data.tags["lttune.state"] == trial["state"]
        assert {"lttune.data", "lttune.stage1", "lttune.backend", "lttune.version"} <= set(run.data.tags)
        assert _artifacts(run) == {"config.yaml", "per_category.csv"}
        config = yaml.safe_load(Path(run.info.artifact_uri.removeprefix("file://"), "config.yaml").read_text())
        assert config["optim"]["lr"] == trial["params"]["optim.lr"]


def _artifacts(run: Any) -> set[str]:
    return {path.name for path in Path(run.info.artifact_uri.removeprefix("file://")).iterdir()}


def test_status_tells_what_the_search_told(whole: Whole) -> None:
    stdout, _ = whole[0].run("status", "whole", "--json")

    assert json.loads(stdout) == json.loads(whole[1])


def test_a_second_search_of_that_name_is_refused(whole: Whole) -> None:
    before = (whole[0].study("whole") / "optuna.journal").read_bytes()

    stdout, stderr = whole[0].run("search", str(Path(__file__).with_name("small.yaml")), "--study", "whole", code=2)

    assert stdout == ""
    assert "lttune resume whole" in stderr
    assert (whole[0].study("whole") / "optuna.journal").read_bytes() == before


def test_resume_of_an_ended_study_prints_it_and_starts_nothing(whole: Whole) -> None:
    place = whole[0]
    database = (place.out / "mlflow.db").stat().st_mtime_ns

    driver = place.start("resume", "whole", "--json")
    started: set[str] = set()
    while driver.process.poll() is None:
        started |= driver.ray_processes()
        time.sleep(0.1)

    assert json.loads(driver.finish()) == json.loads(whole[1])
    assert not started
    assert (place.out / "mlflow.db").stat().st_mtime_ns == database


def test_another_study_reuses_data_stage_1_and_features(whole: Whole) -> None:
    place = whole[0]
    before = sorted(path.name for path in (place.out / "cache").iterdir())

    driver = place.search("other", "--trials", "1", "--json")
    document = json.loads(driver.finish())

    assert [trial["state"] for trial in document["trials"]] == ["COMPLETE"]
    assert document["trials"][0]["metrics"] == json.loads(whole[1])["trials"][0]["metrics"]
    assert not any(work in driver.stderr for work in ("data: ", "stage 1: ", "features: "))
    assert sorted(path.name for path in (place.out / "cache").iterdir()) == before


def test_nothing_is_written_to_the_home_folder(whole: Whole) -> None:
    assert [path for path in whole[0].home.rglob("*") if path.is_file()] == []
