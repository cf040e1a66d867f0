"""Whether a worker has to go: it was told to end, or its node is being taken away."""

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

_LOOK_EVERY_S = 5.0


class Departure:
    """SIGTERM in the middle of a slice lets it end and be saved first; between slices it ends the process.

    Outside a Ray worker, as where a trainable is used by itself, signals are left alone and nothing is ever due.
    """

    def __init__(self) -> None:
        self._is_worker = ray.is_initialized() and threading.current_thread() is threading.main_thread()
        self._is_told = self._is_busy = False
        self._looked = time.monotonic()
        self._own = signal.getsignal(signal.SIGTERM)
        if self._is_worker:
            signal.signal(signal.SIGTERM, self._hear)

    @property
    def node(self) -> str:
        """Where this worker is; empty outside Ray."""
        return str(ray.get_runtime_context().get_node_id()) if self._is_worker else ""

    @property
    def gpu_ids(self) -> list[str]:
        """Of the GPUs that Ray has given this worker; declared ones need not exist."""
        return list(ray.get_runtime_context().get_accelerator_ids().get("GPU", ())) if self._is_worker else []

    @contextmanager
    def after_slice(self) -> Iterator[None]:
        """Let the block end before a SIGTERM is acted upon."""
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def reason(self) -> str | None:
        """Why the worker has to go now; None where it need not."""
        if self._is_told:
            return "its process was told to end (SIGTERM)"
        if self._is_worker and time.monotonic() - self._looked >= _LOOK_EVERY_S:
            self._looked = time.monotonic()
            if self.node in draining_nodes():
                return "its node is being drained"
        return None

    def _hear(self, number: int, frame: Any) -> None:
        self._is_told = True
        if not self._is_busy and callable(self._own):
            self._own(number, frame)


def draining_nodes() -> Mapping[str, Any]:
    """Nodes that a cluster is about to take away, by id; empty where this Ray does not tell."""
    # Not public: Ray's own Train and Serve ask in this way.
    try:
        from ray._private.state import state

        found: Mapping[str, Any] = state.get_draining_nodes()
    except (ImportError, AttributeError):
        return {}
    return found
