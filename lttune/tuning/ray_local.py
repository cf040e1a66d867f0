"""Ray for the length of a search: one of our own on this machine, or a place on a cluster that exists.

Either is quiet, with one thread per trial process, and nothing of ours is left when the search is over.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ray
from ray._raylet import Config
from ray.exceptions import AuthenticationError

from lttune.errors import ClusterError
from lttune.tuning import HAS_OWN_TOKEN
from lttune.tuning.guard import guarded_children
from lttune.tuning.placement import reachable

WORKER_ENVIRONMENT = {
    # Two processes that each start a thread per core were ten times slower than with one thread each.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}

_KNOCK_S = 5.0


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the length of the block."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _import_path() -> dict[str, str]:
    """Where this process imports from beyond its installation: a caller's own loss comes from there. Ray would give its
    workers the script's folder and the current one alone."""
    installed = (sys.prefix, sys.base_prefix)
    own = [str(Path(path).absolute()) for path in sys.path if not path.startswith(installed) and Path(path).exists()]
    return {"PYTHONPATH": os.pathsep.join(filter(None, [*own, os.environ.get("PYTHONPATH")]))} if own else {}


@contextmanager
def local_ray(*, num_cpus: int | None = None) -> Iterator[None]:
    """A Ray of our own for the length of the block, behind a token, whatever RAY_ADDRESS says."""
    # Workers inherit these: a runtime environment would do the same, but Ray starts no worker ahead of time for one.
    with _environment({**WORKER_ENVIRONMENT, **_import_path()}):
        _init(address="local", num_cpus=num_cpus, include_dashboard=False)
    with guarded_children(), _until_shutdown():
        yield


@contextmanager
def shared_ray(address: str, *, namespace: str) -> Iterator[None]:
    """A place on a cluster that exists, for the length of the block; the cluster is left as it was.

    Args:
        address: `auto` on one of its nodes (RAY_ADDRESS is heard then), or HOST:PORT.
        namespace: of our own, since other people's actors may have the same names.

    Raises:
        ClusterError: there is no cluster, it refuses the token, or it runs another version.
    """
    if HAS_OWN_TOKEN:  # which is for a Ray of our own; here it is the account's, if it has one
        os.environ.pop("RAY_AUTH_TOKEN", None)
        has_token = Path("~/.ray/auth_token").expanduser().is_file()
        os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"
        Config.initialize("")  # Ray has read it when it was imported
    _knock(reachable(address))
    environment = {**WORKER_ENVIRONMENT, **({} if _is_in_job() else _import_path())}
    try:
        _init(address=address, namespace=namespace, runtime_env={"env_vars": environment})
    except (AuthenticationError, ConnectionError, RuntimeError, ValueError) as error:
        ray.shutdown()
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ClusterError(
            f"--address {address}: {reason}. Look at it with `ray status`; its token belongs into RAY_AUTH_TOKEN."
        ) from error
    with _until_shutdown():
        yield


def _knock(address: str) -> None:
    """Say at once that nobody answers; Ray would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--address {address}: no Ray cluster answers there ({error}); `ray status` on its head node names the "
            "address, whose port is 6379 by default."
        ) from error


def _init(**how: Any) -> None:
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    on_terminate = signal.getsignal(signal.SIGTERM)
    ray.init(log_to_driver=False, configure_logging=False, logging_level=logging.CRITICAL, **how)
    if threading.current_thread() is threading.main_thread() and callable(on_terminate):
        # Ray puts its own handler in the place of the caller's.
        signal.signal(signal.SIGTERM, on_terminate)


@contextmanager
def _until_shutdown() -> Iterator[None]:
    # Ray prints the death of a worker on standard output, the last ones as it shuts down; that belongs to the results.
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            ray.shutdown()


def _is_in_job() -> bool:
    """Whether this process is the entry point of a submitted job, whose workers have its bundle to import from."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
