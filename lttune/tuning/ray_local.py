"""Ray on this machine: quiet, one thread per trial process, gone when the search is."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import ray

from lttune.tuning.guard import guarded_children

WORKER_ENVIRONMENT = {
    # Two processes that each start a thread per core were ten times slower than with one thread each.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


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
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    is_main = threading.current_thread() is threading.main_thread()
    on_terminate = signal.getsignal(signal.SIGTERM)
    # Workers inherit these: a runtime environment would do the same, but Ray starts no worker ahead of time for one.
    with _environment({**WORKER_ENVIRONMENT, **_import_path()}):
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.CRITICAL,
        )
    if is_main and callable(on_terminate):
        # Ray puts its own handler in the place of the caller's.
        signal.signal(signal.SIGTERM, on_terminate)
    # Ray prints the death of a worker on standard output, the last ones as it shuts down; that belongs to the results.
    with redirect_stdout(sys.stderr):
        try:
            with guarded_children():
                yield
        finally:
            ray.shutdown()
