import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lttune.errors import ClusterError, InputError
from lttune.spec.load import load_spec
from lttune.tuning.cluster.bundle import SPEC_NAME
from lttune.tuning.cluster.client import JobsClient, JobState
from lttune.tuning.cluster.submission import Submission, exit_code, submit, submitted_out

TOKEN = "planted-token-4711"


def submission(out: Path, **changes: Any) -> Submission:
    return Submission(**{"spec": load_spec("acsl"), "study": "mine", "out": out, **changes})


def test_a_search_is_sent_after_a_preflight(
    job_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    said: list[str] = []
    job_server.in_place_of_searches = "echo searching; exit 2"
    client = JobsClient(job_server.address)
    job = submit(submission(tmp_path / "out", options=("--max-gpus", "4")), client, said.append)
    state = client.follow(job, said.append)
    assert job.startswith("lttune-mine-")
    assert said[0].startswith("Bundle: 0.")
    assert said[1].startswith("Preflight: ")
    assert (state.status, exit_code(state)) == ("FAILED", 2)
    assert "".join(said[2:]) == "searching\n"
    body = job_server.jobs[job]
    assert body["entrypoint"] == (
        f"python -m lttune search spec.yaml --study mine --address auto --out {tmp_path / 'out'} --max-gpus 4"
    )
    assert set(body["runtime_env"]) <= {"working_dir", "_ray_commit"}
    sent = yaml.safe_load((job_server.folder / job / SPEC_NAME).read_text())
    assert sent["on"]["data"]["glyphs"]["num_categories"] == 60
    assert (job_server.folder / f"{job}-preflight" / "lttune" / "__init__.py").is_file()

    assert set(job_server.tokens) == {f"Bearer {TOKEN}"}
    assert TOKEN.encode() not in job_server.everything_sent
    assert TOKEN not in "".join(said) + caplog.text


def test_a_cluster_that_lacks_something(job_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lttune.tuning.cluster.preflight.platform.python_version_tuple", lambda: ("3", "10", "1"))
    with pytest.raises(ClusterError) as raised:
        submit(submission(tmp_path / "out"), JobsClient(job_server.address), lambda _: None)
    there = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert str(raised.value).splitlines()[1:] == [f"  Python is {there} there, 3.10 here"]
    assert len(job_server.jobs) == 1


def test_a_preflight_that_cannot_run(job_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lttune.tuning.cluster.submission._PYTHON", "no-python-here")
    with pytest.raises(ClusterError, match=r"ended FAILED without an answer: .*no-python-here.* must be on the path"):
        submit(submission(tmp_path / "out"), JobsClient(job_server.address), lambda _: None)


def test_data_that_the_cluster_does_not_have(job_server: Any, tmp_path: Path) -> None:
    spec = load_spec("ecm", on="lvis_v1_r50_mmdet_1x", data_root="/not/there", needs_files=False)
    with pytest.raises(ClusterError, match=r"/not/there/lvis/lvis_v1_train.json is not there"):
        submit(submission(tmp_path / "out", spec=spec), JobsClient(job_server.address), lambda _: None)


def test_a_token_among_the_options_is_not_sent(
    job_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with pytest.raises(ClusterError, match="holds the token") as raised:
        submit(submission(tmp_path, options=("--mlflow", TOKEN)), JobsClient(job_server.address), lambda _: None)
    assert TOKEN not in str(raised.value)
    assert job_server.jobs == {}


def test_the_study_of_a_resumed_search_has_its_own_spec(tmp_path: Path) -> None:
    assert submission(tmp_path, spec=None).command == f"python -m lttune resume mine --address auto --out {tmp_path}"


@pytest.mark.parametrize(
    ("out", "address", "message"),
    [
        (None, "http://head:8265", "--out is not given; name the folder in full"),
        ("runs", "http://head:8265", "--out is runs; name the folder in full"),
        ("s3://bucket/runs", "http://head:8265", "--out s3://bucket/runs is an object store"),
    ],
)
def test_output_folders_that_mean_nothing_there(out: str | None, address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        submitted_out(out, address)


def test_output_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert submitted_out("/shared/runs", "http://head:8265") == Path("/shared/runs")
    assert submitted_out("runs", "http://127.0.0.1:8265") == tmp_path / "runs"
    assert submitted_out(None, "http://localhost:8265") == tmp_path / "lttune_runs"


@pytest.mark.parametrize(
    ("status", "code", "wanted"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 1, 1), ("FAILED", 130, 1), ("STOPPED", None, 1)],
)
def test_exit_codes(status: str, code: int | None, wanted: int) -> None:
    state = JobState(job="job", status=status, study="mine", out=None, exit_code=code, message="", seconds=1.0)
    assert exit_code(state) == wanted
