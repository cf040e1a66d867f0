"""Ray's Jobs API with errors that a person can act on."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from lttune.errors import ClusterError, MissingExtraError
from lttune.tuning.cluster.tokens import client_token

try:
    import aiohttp
    import requests
except ImportError as _error:
    raise MissingExtraError(
        f"a cluster's jobs are reached through {_error.name}, which is not installed: pip install 'lttune[cluster]'"
    ) from _error

# The key of our jobs' metadata that names the study; by it ours are told from other people's.
STUDY_KEY = "lttune.study"
_PATIENCE_S, _PAUSE_S = 60.0, 1.0
_ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
# Ray's address for the Jobs API wins over the argument, and then nobody knows which cluster was meant.
_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JobState:
    """One job as the cluster tells it.

    Attributes:
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        study: what it searches; None for a job that is not ours.
        exit_code: of its command, once that has ended by itself.
        message: the cluster's own words on the status.
        seconds: how long it has run, or ran.
    """

    job: str
    status: str
    study: str | None
    out: str | None
    exit_code: int | None
    message: str
    seconds: float | None

    @property
    def is_ended(self) -> bool:
        return self.status in _ENDED


class JobsClient:
    """The jobs of one cluster.

    Args:
        address: of the head's dashboard, `http://HEAD:8265`.
        patience_s: how long a cluster that has just started, or a lost connection, is waited for.

    Raises:
        ClusterError: no head answers there, or it refuses the token.
    """

    def __init__(self, address: str, *, patience_s: float = _PATIENCE_S) -> None:
        self.address = address.rstrip("/")
        self._patience_s = patience_s
        _check_address(self.address)
        for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)
        token = client_token()
        if token is None and not is_loopback(self.address):
            logger.warning(
                "%s is not this machine and no token is given: whoever reaches that port runs what he likes on the "
                "cluster. Start it with RAY_AUTH_MODE=token.",
                self.address,
            )
        # An empty header keeps Ray from sending the token of a search on this machine.
        headers = {"authorization": f"Bearer {token}" if token else ""}
        with self._explained(), _without(_ADDRESSES):
            self._ray = JobSubmissionClient(self.address, headers=headers)

    def submit(self, entrypoint: str, *, job: str, archive: Path, metadata: Mapping[str, str]) -> None:
        """Start a command in an unpacked archive.

        Raises:
            ClusterError: the cluster took no job within the patience.
        """
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                with self._explained(job):
                    self._ray.submit_job(
                        entrypoint=entrypoint,
                        submission_id=job,
                        runtime_env={"working_dir": str(archive)},
                        metadata=dict(metadata),
                    )
                return
            except _NoAgentError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)

    def state(self, job: str) -> JobState:
        with self._explained(job):
            return _state(self._ray.get_job_info(job))

    def jobs(self) -> list[JobState]:
        """lttune's own jobs, the oldest first."""
        with self._explained():
            found = sorted(self._ray.list_jobs(), key=lambda details: details.start_time or 0)
        return [state for state in map(_state, found) if state.study is not None]

    def logs(self, job: str) -> str:
        with self._explained(job):
            return str(self._ray.get_job_logs(job))

    def stop(self, job: str) -> bool:
        """Ask a job to end; says whether it was running."""
        with self._explained(job):
            return bool(self._ray.stop_job(job))

    def follow(self, job: str, write: Callable[[str], None]) -> JobState:
        """Pass on a job's output as it comes, until the job has ended.

        Raises:
            ClusterError: there is no such job, or the connection is lost for longer than the patience.
        """
        self.state(job)
        seen, lost_since = 0, None
        while True:
            try:
                seen = asyncio.run(self._tail(job, write, seen))
                state = self.state(job)
                lost_since = None
                if state.is_ended:
                    # What came between the end of the tail and the end of the job.
                    write(self.logs(job)[seen:])
                    return state
            except (ClusterError, aiohttp.ClientError, RuntimeError) as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > self._patience_s:
                    raise _as_cluster_error(error, self.address) from error
            time.sleep(_PAUSE_S)

    async def _tail(self, job: str, write: Callable[[str], None], seen: int) -> int:
        """Write what follows after `seen` characters of the output; gives how many there were."""
        position = 0
        async with aclosing(self._ray.tail_job_logs(job)) as chunks:
            async for chunk in chunks:
                position += len(chunk)
                if position > seen:
                    write(chunk[-(position - seen) :])
                    seen = position
        return seen

    @contextmanager
    def _explained(self, job: str | None = None) -> Iterator[None]:
        """One sentence for everything that a cluster may answer."""
        try:
            yield
        except (requests.RequestException, ConnectionError) as error:
            raise _as_cluster_error(error, self.address) from error
        except AuthenticationError as error:
            what = "asks for a token" if "required" in str(error) else "refuses the token (403)"
            raise ClusterError(
                f"{self.address} {what}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to the "
                "cluster's."
            ) from error
        except RuntimeError as error:
            text = str(error)
            if "No available agent" in text:
                raise _NoAgentError(
                    f"{self.address} has no agent that starts jobs. A second Ray on the head's machine takes its port; "
                    "start the head with --dashboard-agent-listen-port set to a free one."
                ) from error
            if "status code 404" in text or "does not exist" in text:
                raise _UnknownJobError(
                    f"{self.address} knows no job '{job}'. See: lttune jobs list --address {self.address}"
                ) from error
            raise ClusterError(f"{self.address}: {_first_line(text)}") from error


class _NoAgentError(ClusterError):
    """The cluster has just started, or its agent died."""


class _UnknownJobError(ClusterError):
    """There is no such job."""


def is_loopback(address: str) -> bool:
    """Whether an address means this machine alone."""
    host = urlsplit(address).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ClusterError(f"--address {address} is not a dashboard's; write http://HEAD:8265.")
    if parts.username or parts.password:
        raise ClusterError("--address holds a name or password; give tokens through RAY_AUTH_TOKEN_PATH.")


def _as_cluster_error(error: BaseException, address: str) -> ClusterError:
    if isinstance(error, ClusterError):
        return error
    return ClusterError(
        f"no Ray head answers at {address}; correct --address, or start it: ray start --head (its Ray needs the extra "
        "packages of ray[default])."
    )


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]


def _state(details: Any) -> JobState:
    metadata = details.metadata or {}
    ended = details.end_time or (time.time() * 1e3)
    return JobState(
        job=details.submission_id or details.job_id or "",
        status=str(getattr(details.status, "value", details.status)),
        study=metadata.get(STUDY_KEY),
        out=metadata.get("lttune.out"),
        exit_code=details.driver_exit_code,
        message=details.message or "",
        seconds=None if details.start_time is None else (ended - details.start_time) / 1e3,
    )


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """No such environment variables for the length of the block."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
