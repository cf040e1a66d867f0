"""Ray on this machine: quiet, one thread per trial process, gone when the search is."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

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
def local_ray(*, num_cpus: int | None = None) -> Iterator[None]:
    """A Ray of our own for the length of the block, behind a token, whatever RAY_ADDRESS says."""
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        logging_level=logging.CRITICAL,
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )
    try:
        yield
    finally:
        ray.shutdown()
