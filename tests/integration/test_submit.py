"""A search submitted to a Ray head of this machine, on ports of its own and behind a token."""

import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("aiohttp_cors", "opencensus", "prometheus_client")),
        reason="a head that takes jobs needs the packages of ray[default]: pip install 'lttune[cluster]'",
    ),
]

Whole: TypeAlias = tuple[Any, str, Path]
NUM_TRIALS = 4
_PORTS = (
    "--port",
    "--dashboard-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
    "--metrics-export-port",
    "--node-manager-port",
    "--object-manager-port",
    "--ray-client-server-port",
)


def free_ports(number: int) -> list[int]:
    """Ports of this machine that nobody uses at present, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Head:
    """`ray start --head` with a dashboard on the loopback interface, and the token that it asks for."""

    def __init__(self, folder: Path, temporary: str) -> None:
        self.token = secrets.token_hex(32)
        self.token_path = folder / "token"
        self.token_path.write_text(self.token)
        ports = dict(zip(_PORTS, map(str, free_ports(len(_PORTS))), strict=True))
        self.address = f"http://127.0.0.1:{ports['--dashboard-port']}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LTTUNE_"))}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
        }
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--include-dashboard=true"]
        command += ["--num-cpus=2", "--num-gpus=0", f"--temp-dir={temporary}"]
        with (folder / "head.txt").open("w") as log:
            self.process = subprocess.Popen(
                [*command, *(f"{name}={port}" for name, port in ports.items())],
                stdout=log,
                stderr=log,
                env=environment,
                process_group=0,
            )

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the head ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(self.address.rsplit(":", 1)[1]))) == 0:
                    return
            time.sleep(0.2)
        raise AssertionError("the head's dashboard did not answer within 120 s")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self) -> None:
        family = self.family() if self.process.poll() is None else []
        self.process.terminate()
        self.process.wait(60)
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    # Paths of sockets are short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temporary:
        started = Head(tmp_path_factory.mktemp("head"), temporary)
        try:
            started.wait_until_it_answers()
            yield started
        finally:
            started.close()


@pytest.fixture
def client(head: Head, prepared: Any) -> Any:
    """A workplace whose commands find the token."""
    prepared.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(head.token_path)}
    return prepared


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


def submitted(client: Any, head: Head, study: str, *options: str, code: int = 0) -> tuple[str, str]:
    spec = Path(__file__).with_name("small.yaml")
    printed: tuple[str, str] = client.run(
        "submit", str(spec), "--study", study, "--address", head.address, *options, code=code
    )
    return printed


def test_submit_and_follow(whole: Whole, client: Any, head: Head) -> None:
    out, err = submitted(client, head, "remote", "--follow")
    job = out.splitlines()[0]
    assert job.startswith("lttune-remote-")
    assert "Preflight: the cluster has the same Python, Ray, lttune, torch and detectron2." in err
    # What the search itself prints, streamed.
    assert "Report half, which no decision saw" in out

    found = json.loads(client.run("status", "remote", "--json")[0])
    wanted = json.loads(whole[1])
    for trial, same in zip(found["trials"], wanted["trials"], strict=True):
        assert (trial["state"], trial["params"], trial["metrics"]) == (same["state"], same["params"], same["metrics"])

    state = json.loads(client.run("jobs", "status", job, "--address", head.address, "--json")[0])
    assert (state["status"], state["exit_code"], state["study"]) == ("SUCCEEDED", 0, "remote")
    listed = json.loads(client.run("jobs", "list", "--address", head.address, "--json")[0])["jobs"]
    assert job in [each["job"] for each in listed]
    logs = client.run("jobs", "logs", job, "--address", head.address)[0]

    for text in (out, err, logs, json.dumps(state)):
        assert head.token not in text
    for path in client.out.rglob("*"):
        assert not path.is_file() or head.token.encode() not in path.read_bytes(), path

    # The study exists now, which the job says as any search does, with its exit code.
    out, err = submitted(client, head, "remote", "--follow", code=2)
    assert "study 'remote' exists" in out + err


def test_stop_and_go_on(whole: Whole, client: Any, head: Head) -> None:
    out, _ = submitted(client, head, "halted", "--", "--trials", str(NUM_TRIALS))
    job = out.strip()
    journal = client.study("halted") / "optuna.journal"
    deadline = time.monotonic() + 120
    while not (journal.is_file() and client.trial_in_its_middle("halted", epochs=2)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "is asked to stop" in client.run("jobs", "stop", job, "--address", head.address)[1]
    client.run("jobs", "logs", job, "--follow", "--address", head.address, code=1)
    state = json.loads(client.run("jobs", "status", job, "--address", head.address, "--json")[0])
    assert state["status"] == "STOPPED"
    deadline = time.monotonic() + 30
    while left := [line for line in map(command_line, head.family()) if "-m lttune" in line or "Trainable" in line]:
        assert time.monotonic() < deadline, f"the stopped search still runs: {left}"
        time.sleep(0.2)

    client.run("submit", "halted", "--resume", "--follow", "--address", head.address)
    trials = client.optuna_trials("halted")
    assert [(trial.number, trial.state.name) for trial in trials] == [(i, "COMPLETE") for i in range(NUM_TRIALS)]


def test_a_wrong_token_is_one_sentence(client: Any, head: Head, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("0" * 64)
    client.environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "wrong")
    _, err = submitted(client, head, "refused", code=2)
    assert (
        err == f"Error: {head.address} refuses the token (403); set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or "
        "RAY_AUTH_TOKEN_PATH, to the cluster's.\n"
    )
    assert not client.study("refused").exists()
