"""`lttune submit` and `lttune jobs` against a server that speaks Ray's Jobs API."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lttune.cli import main
from lttune.tuning.cluster.bundle import LIMIT_BYTES

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(job_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a command against the server; gives its exit code and both outputs."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        command, *rest = arguments
        name = [command, rest.pop(0)] if command == "jobs" else [command]
        at = rest.index("--") if "--" in rest else len(rest)
        rest[at:at] = ["--address", job_server.address]
        monkeypatch.setattr("sys.argv", ["lttune", *name, *rest])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return run


def test_submit_and_follow(run: Run, job_server: Any, tmp_path: Path) -> None:
    job_server.in_place_of_searches = "echo first; echo last; exit 2"
    code, out, err = run("submit", "acsl", "--follow", "--study", "mine", "--out", "runs", "--", "--trials", "3")
    job, *lines = out.splitlines()
    assert (code, lines) == (2, ["first", "last"])
    assert "Bundle: 0." in err
    assert f"{job}: FAILED. the job is failed" in err
    assert job_server.jobs[job]["entrypoint"].endswith(f"--address auto --out {tmp_path / 'runs'} --trials 3")


def test_submit_and_leave(run: Run, job_server: Any) -> None:
    job_server.in_place_of_searches = "exec sleep 60"
    code, out, err = run("submit", "acsl")
    job = out.strip()
    assert code == 0
    assert err.splitlines()[-1] == f"Follow it with: lttune jobs logs {job} --follow --address {job_server.address}"

    code, out, _ = run("jobs", "list", "--json")
    assert [(found["job"], found["status"]) for found in json.loads(out)["jobs"]] == [(job, "RUNNING")]
    assert run("jobs", "list")[1].split()[:2] == [job, "RUNNING"]
    assert "its study: lttune status acsl --out " in run("jobs", "status", job)[1]
    assert f"{job} is asked to stop; go on with: lttune submit STUDY --resume" in run("jobs", "stop", job)[2]
    assert run("jobs", "logs", job, "--follow")[0] == 1
    assert run("jobs", "stop", job)[2] == f"{job} was not running: STOPPED.\n"


def test_ctrl_c_leaves_the_job_and_says_how_to_stop_it(
    run: Run, job_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lttune.tuning.cluster.client import JobsClient

    job_server.in_place_of_searches = "exec sleep 60"
    job = run("submit", "acsl")[1].strip()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(JobsClient, "follow", interrupted)
    code, _, err = run("jobs", "logs", job, "--follow")
    assert code == 130
    assert f"The job runs on; stop it with: lttune jobs stop {job} --address" in err
    assert JobsClient(job_server.address).state(job).status == "RUNNING"

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda *_, **__: True)
    assert f"{job} is asked to stop." in run("jobs", "logs", job, "--follow")[2]
    monkeypatch.undo()
    assert JobsClient(job_server.address).follow(job, lambda _: None).status == "STOPPED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("submit", "acsl", "--", "--trails", "3"), "No such option '--trails'"),
        (("submit", "acls"), "'acls' is not a search space that comes with lttune. Did you mean 'acsl'?"),
        (("submit", "acsl", "--module", "weights.py"), "the bundle has"),
        (("jobs", "logs", "nothing", "--follow"), "knows no job 'nothing'"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: tuple[str, ...], message: str, run: Run, job_server: Any, tmp_path: Path
) -> None:
    import random

    (tmp_path / "weights.py").write_bytes(random.Random(0).randbytes(LIMIT_BYTES))
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert job_server.jobs == {}


def test_list_without_jobs(run: Run, job_server: Any) -> None:
    assert run("jobs", "list")[1] == f"lttune has no jobs at {job_server.address}.\n"
