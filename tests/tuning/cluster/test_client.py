import socket
from typing import Any

import pytest

from lttune.errors import ClusterError
from lttune.tuning.cluster.bundle import bundle
from lttune.tuning.cluster.client import STUDY_KEY, JobsClient, is_loopback


def start(client: JobsClient, command: str, job: str = "job") -> None:
    with bundle("a: 1\n") as archive:
        client.submit(command, job=job, archive=archive, metadata={STUDY_KEY: "mine", "lttune.out": "/out"})


def test_a_job_from_start_to_end(job_server: Any) -> None:
    client = JobsClient(f"{job_server.address}/")
    start(client, "echo one; sleep 0.2; echo two >&2; exit 2")
    written: list[str] = []
    state = client.follow("job", written.append)
    assert "".join(written) == "one\ntwo\n" == client.logs("job")
    assert (state.status, state.exit_code, state.study, state.is_ended) == ("FAILED", 2, "mine", True)
    assert [state.job for state in client.jobs()] == ["job"]
    assert client.stop("job") is False


def test_stop(job_server: Any) -> None:
    client = JobsClient(job_server.address)
    start(client, "exec sleep 60")
    assert client.state("job").status == "RUNNING"
    assert client.stop("job") is True
    assert client.follow("job", lambda _: None).status == "STOPPED"


def test_jobs_of_others_are_not_listed(job_server: Any) -> None:
    client = JobsClient(job_server.address)
    with bundle("a: 1\n") as archive:
        client.submit("true", job="other", archive=archive, metadata={})
    assert client.jobs() == []


def test_a_head_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"^no Ray head answers at {address}; correct --address, or start it"):
            JobsClient(address)


@pytest.mark.parametrize(
    ("status", "message"), [(401, "asks for a token; set RAY_AUTH_MODE"), (403, r"refuses the token \(403\); set")]
)
def test_a_wrong_token(status: int, message: str, job_server: Any) -> None:
    job_server.fault = (status, "Unauthorized")
    with pytest.raises(ClusterError, match=message) as raised:
        JobsClient(job_server.address)
    assert "\n" not in str(raised.value)


def test_a_head_without_an_agent_is_asked_again_and_then_explained(job_server: Any) -> None:
    client = JobsClient(job_server.address, patience_s=0.5)
    job_server.fault = (500, "No available agent to submit job, please try again later.")
    with pytest.raises(ClusterError, match="--dashboard-agent-listen-port"):
        start(client, "true")
    assert job_server.num_faults >= 2


def test_a_job_that_is_not_there(job_server: Any) -> None:
    client = JobsClient(job_server.address)
    with pytest.raises(ClusterError, match=r"knows no job 'nothing'\. See: lttune jobs list"):
        client.state("nothing")


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "head:8265", "http://"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ClusterError, match="is not a dashboard's; write http://HEAD:8265"):
        JobsClient(address)


def test_a_password_in_the_address_is_not_repeated() -> None:
    with pytest.raises(ClusterError) as raised:
        JobsClient("http://me:planted@head:8265")
    assert "planted" not in str(raised.value)


def test_the_token_is_a_header_and_rays_own_address_does_not_count(
    job_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "planted-token-4711")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    start(JobsClient(job_server.address), "true")
    assert set(job_server.tokens) == {"Bearer planted-token-4711"}
    assert b"4711" not in job_server.everything_sent


def test_loopback(caplog: pytest.LogCaptureFixture) -> None:
    assert is_loopback("http://127.0.0.1:8265")
    assert is_loopback("http://[::1]:8265")
    assert is_loopback("http://localhost:8265")
    assert not is_loopback("http://head:8265")
    with pytest.raises(ClusterError, match="no Ray head answers"):
        JobsClient("http://0.0.0.0:9")
    assert "whoever reaches that port runs what he likes" in caplog.text
