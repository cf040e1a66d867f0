import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import pytest
import yaml

from lttune.errors import InputError, StudyError
from lttune.tracking.mlflow import MAX_ARTIFACT_BYTES, MlflowTracker, SyncResult, _connect, sync
from lttune.tracking.store import ENVIRONMENT

# Libraries that MLflow imports in its thread warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

STATES = ("COMPLETE", "PRUNED", "FAIL")
STATUSES = ("FINISHED", "KILLED", "FAILED")


def play(tracker: MlflowTracker, *, num_trials: int = 3, steps: range = range(1, 4), pause_s: float = 0.0) -> None:
    """A small search: trial n reaches AP 10 n + step at each step, and ends in the n-th state."""
    tracker.start_study("study", tags={"method": "acsl"}, artifacts={"spec.yaml": "method: acsl\n"})
    for n in range(num_trials):
        tracker.start_trial(n, params={"lr": 0.1 * n}, config={"optim": {"lr": 0.1 * n}}, tags={"fidelity": "cached"})
        for step in steps:
            tracker.report(n, step=step, metrics={"AP": 10.0 * n + step, "AP_r": float("nan")})
            time.sleep(pause_s)
        tracker.end_trial(
            n,
            state=STATES[n % 3],
            metrics={"AP": 10.0 * n + steps[-1]},
            tags={"applied_hash": "ab"},
            artifacts={"per_category.csv": f"id\n{n}\n"},
        )
    figures = {"history.svg": "<svg/>"}
    tracker.end_study(state="COMPLETE", metrics={"AP": 10.0 * num_trials}, tags={"best": "1"}, artifacts=figures)


NUM_EVENTS = 2 + 3 * (2 + 3 + 2) + 2  # of play() as it is


def spooled(folder: Path, port: int) -> Path:
    """A study's folder whose events all wait in the spool, because nobody listened on the port."""
    tracker = MlflowTracker(f"http://127.0.0.1:{port}", "experiment", folder)
    play(tracker)
    assert tracker.close(20.0) == NUM_EVENTS
    return folder


def test_a_search_reads_back_as_a_parent_and_its_children(
    tmp_path: Path, database: Path, study_runs: Callable, history: Callable
) -> None:
    tracker = MlflowTracker(str(database), "experiment", tmp_path / "study")
    play(tracker)
    assert tracker.close(60.0) == 0
    assert (tmp_path / "study/mlflow_spool.jsonl").stat().st_size == 0

    runs = study_runs(database)
    assert {number: len(found) for number, found in runs.items()} == {None: 1, "0": 1, "1": 1, "2": 1}
    (parent,) = runs.pop(None)
    assert (parent.info.run_name, parent.info.status) == ("study", "FINISHED")
    assert parent.data.metrics == {"AP": 30.0}
    assert parent.data.tags["lttune.method"] == "acsl"
    assert parent.data.tags["lttune.best"] == "1"
    assert "lttune.trial" not in parent.data.tags
    artifacts = database.parent / "mlflow_artifacts"
    assert (artifacts / parent.info.run_id / "artifacts/spec.yaml").read_text() == "method: acsl\n"
    assert (artifacts / parent.info.run_id / "artifacts/history.svg").read_text() == "<svg/>"

    for number, (child,) in runs.items():
        n = int(number)
        assert (child.info.run_name, child.info.status) == (f"trial {n}", STATUSES[n])
        assert child.info.start_time <= child.info.end_time
        assert child.data.params == {"lr": str(0.1 * n)}
        assert child.data.metrics == {"AP": 10.0 * n + 3}
        assert history(database, child, "AP") == [(step, 10.0 * n + step) for step in (1, 2, 3)]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["lttune.fidelity"] == "cached"
        assert child.data.tags["lttune.applied_hash"] == "ab"
        assert child.data.tags["lttune.state"] == STATES[n]
        assert (artifacts / child.info.run_id / "artifacts/per_category.csv").read_text() == f"id\n{n}\n"
        config = yaml.safe_load((artifacts / child.info.run_id / "artifacts/config.yaml").read_text())
        assert config == {"optim": {"lr": 0.1 * n}}


def test_sending_everything_twice_changes_nothing(
    tmp_path: Path, database: Path, free_port: int, study_runs: Callable, history: Callable
) -> None:
    folder = spooled(tmp_path / "study", free_port)
    shutil.copytree(folder, tmp_path / "copy")
    shutil.copytree(folder, tmp_path / "half")

    def everything() -> dict:
        return {
            number: [
                (run.to_dictionary(), {name: history(database, run, name) for name in run.data.metrics}) for run in runs
            ]
            for number, runs in study_runs(database).items()
        }

    assert sync(folder, str(database)) == SyncResult(sent=NUM_EVENTS, remaining=0)
    once = everything()
    assert len(once) == 4
    assert sync(tmp_path / "copy", str(database)) == SyncResult(sent=NUM_EVENTS, remaining=0)
    assert everything() == once

    # A crash after an event was sent and before that was noted: the offset is one event behind.
    spool = (tmp_path / "half/mlflow_spool.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "half/mlflow_spool.offset").write_text(str(len(b"".join(spool[:-1]))))
    assert sync(tmp_path / "half", str(database)) == SyncResult(sent=1, remaining=0)
    assert everything() == once


def test_a_driver_that_died_leaves_one_run_per_trial_with_every_step(
    tmp_path: Path, database: Path, study_runs: Callable, history: Callable
) -> None:
    died = f"""
        import os, time
        from pathlib import Path
        from lttune.tracking import MlflowTracker
        tracker = MlflowTracker({str(database)!r}, "experiment", Path({str(tmp_path / "study")!r}))
        tracker.start_study("study", tags={{}})
        tracker.start_trial(0, params={{"lr": 0.1}}, config={{}}, tags={{}})
        tracker.start_trial(1, params={{"lr": 0.2}}, config={{}}, tags={{}})
        for step in range(1, 6):
            tracker.report(0, step=step, metrics={{"AP": step}})
            if step == 3:
                while tracker._spool.num_pending():
                    time.sleep(0.01)
        os._exit(9)
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(died)], check=False)
    assert process.returncode == 9
    with (tmp_path / "study/mlflow_spool.jsonl").open("ab") as stream:
        stream.write(b'{"experiment":"exper')

    tracker = MlflowTracker(str(database), "experiment", tmp_path / "study")
    tracker.start_study("study", tags={})
    tracker.start_trial(0, params={"lr": 0.1}, config={}, tags={})
    for step in range(4, 8):  # from the checkpoint of step 3 on; the values of a repeated step may differ
        tracker.report(0, step=step, metrics={"AP": step + 0.5})
    tracker.end_trial(0, state="COMPLETE", metrics={"AP": 7.5}, tags={})
    tracker.end_trial(1, state="FAIL", metrics={}, tags={"reason": "The search was killed."})
    tracker.end_study(state="COMPLETE", metrics={"AP": 7.5}, tags={})
    assert tracker.close(60.0) == 0

    runs = study_runs(database)
    assert {number: [run.info.status for run in found] for number, found in runs.items()} == {
        None: ["FINISHED"],
        "0": ["FINISHED"],
        "1": ["FAILED"],
    }
    assert history(database, runs["0"][0], "AP") == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6.5), (7, 7.5)]
    assert runs["1"][0].data.params == {"lr": "0.2"}
    assert runs["1"][0].data.tags["lttune.reason"] == "The search was killed."


def test_a_server_that_is_down_holds_nobody_up_and_loses_nothing(
    tmp_path: Path, database: Path, free_port: int, caplog: pytest.LogCaptureFixture, study_runs: Callable
) -> None:
    with caplog.at_level(logging.INFO):
        start = time.perf_counter()
        tracker = MlflowTracker(f"http://ann:pass@127.0.0.1:{free_port}", "experiment", tmp_path / "study")
        for step in range(100):
            tracker.report(0, step=step, metrics={"AP": float(step)})
        tracker.end_trial(0, state="COMPLETE", metrics={}, tags={})
        took = time.perf_counter() - start
        assert tracker.close(20.0) == 101
    assert took < 5, "as long as nobody waits for an answer"
    assert "does not take events" in caplog.text
    assert f"lttune sync {tmp_path / 'study'}" in caplog.text
    assert "***@127.0.0.1" in caplog.text
    assert "ann:pass" not in caplog.text

    still_down = sync(tmp_path / "study", f"http://ann:pass@127.0.0.1:{free_port}")
    assert (still_down.sent, still_down.remaining) == (0, 101)
    assert still_down.reason is not None
    assert "ann:pass" not in still_down.reason

    assert sync(tmp_path / "study", str(database)) == SyncResult(sent=101, remaining=0)
    assert sync(tmp_path / "study", str(database)) == SyncResult(sent=0, remaining=0)
    (run,) = study_runs(database)["0"]
    assert run.data.metrics == {"AP": 99.0}


def test_close_keeps_its_time_when_a_server_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = MlflowTracker(f"http://127.0.0.1:{silent.getsockname()[1]}", "experiment", tmp_path)
        tracker.report(0, step=0, metrics={"AP": 1.0})
        start = time.perf_counter()
        assert tracker.close(0.2) == 1
        assert time.perf_counter() - start < 1.5
        tracker._thread.join(20)
    assert not tracker._thread.is_alive()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1", "the user's own setting stays"


def test_a_store_that_comes_back_gets_everything_without_being_asked(
    tmp_path: Path, database: Path, caplog: pytest.LogCaptureFixture, study_runs: Callable
) -> None:
    caplog.set_level(logging.INFO)
    away = database.rename(database.with_suffix(".away"))
    database.mkdir()  # where a database should be: it cannot be opened
    tracker = MlflowTracker(str(database), "experiment", tmp_path / "study")
    play(tracker, num_trials=1)
    deadline = time.monotonic() + 120
    while "does not take events" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tracker._spool.num_pending() == 11
    database.rmdir()
    away.rename(database)
    while "is back" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tracker._spool.num_pending() == 0
    assert tracker.close(30.0) == 0
    assert sorted(study_runs(database), key=str) == ["0", None]


def test_params_go_by_their_other_names_and_large_artifacts_are_cut(
    tmp_path: Path, database: Path, study_runs: Callable
) -> None:
    for number in (0, 1):  # the second driver resumes the first one's study
        names = {"loss.score_threshold": "score_threshold"}
        tracker = MlflowTracker(str(database), "experiment", tmp_path / "study")
        tracker.start_study("study", tags={}, param_names=names)
        params = {"loss.score_threshold": 0.5, "optim.momentum": 0.9}
        tracker.start_trial(number, params=params, config={}, tags={})
        tracker.end_trial(number, state="FAIL", metrics={}, tags={}, artifacts={"table.csv": "1234567\n" * 200_000})
        assert tracker.close(60.0) == 0
    runs = study_runs(database)
    for number in ("0", "1"):
        (run,) = runs[number]
        assert run.data.params == {"score_threshold": "0.5", "optim.momentum": "0.9"}
        table = database.parent / "mlflow_artifacts" / run.info.run_id / "artifacts/table.csv"
        assert table.stat().st_size <= MAX_ARTIFACT_BYTES
        assert table.read_text().endswith("1234567\n# cut: 1600000 bytes are more than 1048576\n")


def test_params_of_every_kind_fit_in(tmp_path: Path, database: Path, study_runs: Callable) -> None:
    many = {f"p{i}": i for i in range(250)}
    odd = {"loss": {"gamma": 2.0, "deep": {"on": True}}, "a.b": None, "x=§;y": [1, "b"], "./../up": 1, "k" * 300: 1}
    tracker = MlflowTracker(str(database), "experiment", tmp_path / "study")
    tracker.start_study("study", tags={"study": "not the name", "note": "n" * 9000})
    tracker.start_trial(0, params={**many, **odd, "text": "t" * 7000}, config={}, tags={})
    tracker.start_trial(0, params={"p0": "another value", "late": 1}, config={}, tags={})
    assert tracker.close(60.0) == 0

    runs = study_runs(database)
    params = runs["0"][0].data.params
    assert {name: params.pop(name) for name in many} == {name: str(value) for name, value in many.items()}
    assert params == {
        "loss/gamma": "2.0",
        "loss/deep/on": "True",
        "a.b": "None",
        "x___y": '[1,"b"]',
        "up": "1",
        "k" * 250: "1",
        "text": "t" * 6000,
        "late": "1",
    }
    assert runs[None][0].data.tags["lttune.note"] == "n" * 8000


def test_metrics_of_every_kind_fit_in(tmp_path: Path, database: Path, study_runs: Callable, history: Callable) -> None:
    tracker = MlflowTracker(str(database), "experiment", tmp_path / "study")
    tracker.start_study("study", tags={})
    tracker.report(0, step=0, metrics={f"AP/{i}": float(i) for i in range(1100)})
    tracker.report(0, step=4, metrics={"AP/1": float("inf"), "AP/2": float("nan"), "AP/3": 0.5, "segm/AP@50": 1e300})
    tracker.end_trial(0, state="COMPLETE", metrics={"AP/3": 0.5, "AP/4": 0.25, "best": 2.0}, tags={})
    assert tracker.close(60.0) == 0

    (run,) = study_runs(database)["0"]
    assert len(run.data.metrics) == 1102
    assert history(database, run, "AP/1") == [(0, 1.0)]
    assert history(database, run, "AP/2") == [(0, 2.0)]
    assert history(database, run, "AP/3") == [(0, 3.0), (4, 0.5)]
    assert history(database, run, "AP/4") == [(0, 4.0), (4, 0.25)], "the last value stands at the last step"
    assert history(database, run, "best") == [(4, 2.0)]
    assert run.data.metrics["segm/AP_50"] == 1e300


def test_a_resumed_study_runs_again_and_shows_its_latest_end(
    tmp_path: Path, database: Path, study_runs: Callable
) -> None:
    for ap, state, status in ((20.0, "STOPPED", "KILLED"), (15.0, "COMPLETE", "FINISHED")):
        tracker = MlflowTracker(str(database), "experiment", tmp_path / "study")
        tracker.start_study("study", tags={})
        while tracker._spool.num_pending():
            time.sleep(0.01)
        (parent,) = study_runs(database)[None]
        assert parent.info.status == "RUNNING"
        tracker.end_study(state=state, metrics={"AP": ap}, tags={})
        assert tracker.close(60.0) == 0
        (parent,) = study_runs(database)[None]
        assert (parent.info.status, parent.data.metrics) == (status, {"AP": ap})


def test_what_mlflow_refuses_is_named_and_does_not_block_the_rest(
    tmp_path: Path, database: Path, caplog: pytest.LogCaptureFixture, study_runs: Callable, free_port: int
) -> None:
    tracker = MlflowTracker(f"http://127.0.0.1:{free_port}", "experiment", tmp_path / "study")
    tracker.start_study("study", tags={}, artifacts={"../outside.txt": "x"})
    tracker.report(0, step="one", metrics={"AP": 1.0})
    tracker.report(0, step=1, metrics={"AP": 1.25})
    tracker.report(0, step=2, metrics={"AP": 2.0})
    tracker.close(20.0)
    spool = tmp_path / "study/mlflow_spool.jsonl"
    spool.write_bytes(spool.read_bytes().replace(b"1.25", b'"high"'))
    caplog.clear()

    assert sync(tmp_path / "study", str(database)) == SyncResult(sent=2, remaining=0, refused=3)
    assert "Study study, trial None: MLflow refuses 'artifact'" in caplog.text
    assert caplog.text.count("Study study, trial 0: MLflow refuses 'report'") == 2
    (run,) = study_runs(database)["0"]
    assert run.data.metrics == {"AP": 2.0}


def test_a_run_that_someone_deleted_is_made_anew(
    tmp_path: Path, database: Path, study_runs: Callable, history: Callable
) -> None:
    tracker = MlflowTracker(str(database), "experiment", tmp_path / "study")
    tracker.report(0, step=1, metrics={"AP": 1.0})
    while tracker._spool.num_pending():
        time.sleep(0.01)
    (run,) = study_runs(database)["0"]
    _connect(f"sqlite:///{database}").delete_run(run.info.run_id)
    tracker.report(0, step=2, metrics={"AP": 2.0})
    assert tracker.close(60.0) == 0
    (run,) = study_runs(database)["0"]
    assert history(database, run, "AP") == [(2, 2.0)]


def test_a_deleted_experiment_keeps_the_events_and_says_what_to_do(
    tmp_path: Path, database: Path, free_port: int
) -> None:
    client = _connect(f"sqlite:///{database}")
    number = client.create_experiment("experiment")
    client.delete_experiment(number)
    result = sync(spooled(tmp_path / "study", free_port), str(database))
    assert (result.sent, result.remaining) == (0, NUM_EVENTS)
    assert result.reason is not None
    assert f"--experiment-id {number}" in result.reason


def test_sync_needs_a_study_that_nobody_else_sends(tmp_path: Path, database: Path, free_port: int) -> None:
    with pytest.raises(StudyError, match="no such folder"):
        sync(tmp_path / "absent", str(database))
    tracker = MlflowTracker(f"http://127.0.0.1:{free_port}", "experiment", tmp_path / "study")
    with pytest.raises(StudyError, match="another process"):
        sync(tmp_path / "study", str(database))
    tracker.close(20.0)
    with pytest.raises(InputError, match="s3://bucket"):
        sync(tmp_path / "study", "s3://bucket")


def test_a_disk_that_refuses_the_spool_does_not_stop_the_search(
    tmp_path: Path, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker(str(database), "experiment", tmp_path / "study")
    (tmp_path / "study/mlflow_spool.jsonl").mkdir()
    tracker.report(0, step=1, metrics={"AP": 1.0})
    (tmp_path / "study/mlflow_spool.jsonl").rmdir()
    assert "trial 0: 'report' is lost for MLflow" in caplog.text
    assert tracker.close(60.0) == 1


def test_importing_the_package_imports_neither_mlflow_nor_torch() -> None:
    check = "import sys, lttune.tracking; assert not {'mlflow', 'torch', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


@contextmanager
def server(database: Path, port: int) -> Iterator[subprocess.Popen]:
    """A real MLflow server on a loopback port, ready to answer; gone at the end, however it was ended."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    command += ["--artifacts-destination", (database.parent / "proxied").as_uri()]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except URLError:
                time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_a_search_gets_every_step_once(
    tmp_path: Path, database: Path, free_port: int, study_runs: Callable, history: Callable
) -> None:
    uri = f"http://127.0.0.1:{free_port}"
    tracker = MlflowTracker(uri, "experiment", tmp_path / "study")
    tracker.start_study("study", tags={}, artifacts={"spec.yaml": "a: 1\n"})
    slowest = 0.0

    def third(steps: range) -> None:
        nonlocal slowest
        for step in steps:
            for n in range(4):
                before = time.perf_counter()
                tracker.report(n, step=step, metrics={"AP": float(step), "loss": 1.0 / step})
                slowest = max(slowest, time.perf_counter() - before)
            time.sleep(0.02)

    def sent() -> None:
        deadline = time.monotonic() + 90
        while tracker._spool.num_pending():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with server(database, free_port):
        for n in range(4):
            tracker.start_trial(n, params={"lr": n}, config={"lr": n}, tags={})
        third(range(1, 41))
        sent()
        third(range(41, 61))
    third(range(61, 81))
    assert tracker._spool.num_pending() >= 80, "what came while the server was down waits"
    with server(database, free_port):
        third(range(81, 121))
        for n in range(4):
            tracker.end_trial(n, state="COMPLETE", metrics={"AP": 120.0}, tags={})
        tracker.end_study(state="COMPLETE", metrics={"AP": 120.0}, tags={})
        sent()
        assert tracker.close(60.0) == 0
        runs = study_runs(uri)
        client = _connect(uri)
        assert [file.path for file in client.list_artifacts(runs[None][0].info.run_id)] == ["spec.yaml"]
        assert [file.path for file in client.list_artifacts(runs["0"][0].info.run_id)] == ["config.yaml"]
        assert {number: [run.info.status for run in found] for number, found in runs.items()} == {
            number: ["FINISHED"] for number in (None, "0", "1", "2", "3")
        }
        for n in range(4):
            assert history(uri, runs[str(n)][0], "AP") == [(step, float(step)) for step in range(1, 121)]
    assert slowest < 1


@pytest.mark.slow
def test_a_driver_killed_again_and_again_leaves_no_gap_and_no_double(
    tmp_path: Path, database: Path, study_runs: Callable, history: Callable
) -> None:
    """Each life resumes every trial a few steps before the last one it reported, and is killed while it sends."""
    progress = tmp_path / "progress"
    progress.write_text("0")
    life = f"""
        import time
        from pathlib import Path
        from lttune.tracking import MlflowTracker
        progress = Path({str(progress)!r})
        tracker = MlflowTracker({str(database)!r}, "experiment", Path({str(tmp_path / "study")!r}))
        tracker.start_study("study", tags={{}})
        for n in range(3):
            tracker.start_trial(n, params={{"lr": n}}, config={{"lr": n}}, tags={{}})
        while not tracker._sender.num_sent:
            time.sleep(0.01)
        print("sending", flush=True)
        step = max(int(progress.read_text() or 0) - 3, 0)  # the checkpoint is older than what was reported
        while True:
            step += 1
            for n in range(3):
                tracker.report(n, step=step, metrics={{"AP": float(step)}})
            progress.write_text(str(step))
            time.sleep(0.01)
    """
    for life_s in (0.0, 0.05, 0.11, 0.23, 0.41):
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(life)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"sending\n"
            time.sleep(life_s)
            process.kill()
        assert process.returncode == -signal.SIGKILL

    tracker = MlflowTracker(str(database), "experiment", tmp_path / "study")
    for n in range(3):
        tracker.end_trial(n, state="COMPLETE", metrics={}, tags={})
    assert tracker.close(60.0) == 0
    runs = study_runs(database)
    assert {number: len(found) for number, found in runs.items()} == {None: 1, "0": 1, "1": 1, "2": 1}
    last = int(progress.read_text() or 0)
    assert last > 20
    for n in range(3):
        steps = [step for step, _ in history(database, runs[str(n)][0], "AP")]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= last
