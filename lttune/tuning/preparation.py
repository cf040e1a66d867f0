"""Stage 1 and caches as work of the search: watched, paid for, and on a cluster done by one of its nodes."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError

from lttune.engine.assets import Assets, Progress
from lttune.engine.config import TrainConfig
from lttune.engine.prepare import prepare
from lttune.errors import LttuneError
from lttune.spec.search import Resources
from lttune.tuning.costs import Held, Kind, Ledger
from lttune.tuning.events import EventLog
from lttune.tuning.node_cache import own_cache
from lttune.tuning.placement import bundle, why_waiting
from lttune.tuning.watch import write_state

_SAY_EVERY_S, _LOOK_EVERY_S = 0.2, 1.0


class Preparation:
    """Hears of the progress of what trials stand on, passes it on, and keeps the books.

    Args:
        progress: told of every unit of work.
        held: what the work holds while it goes on.
        state_file: rewritten now and then for `lttune status --why`.
        stop_file: asks for the end by being there.
    """

    def __init__(
        self, progress: Progress, held: Held, *, ledger: Ledger, events: EventLog, state_file: Path, stop_file: Path
    ) -> None:
        self._tell = progress
        self._held = held
        self._ledger = ledger
        self._events = events
        self._state_file, self._stop_file = state_file, stop_file
        self._what: str | None = None
        self._began = self._looked = time.monotonic()

    def progress(self, what: str, done: int, total: int) -> None:
        """As the engine calls it.

        Raises:
            KeyboardInterrupt: somebody asked from elsewhere for the end.
        """
        self._tell(what, done, total)
        if what != self._what:
            self.close()
            self._what, self._began = what, time.monotonic()
            self._events.write("preparation_start", what=what)
        now = time.monotonic()
        if now - self._looked >= _LOOK_EVERY_S:
            self._looked = now
            self.say(f"{what}: {done} of {total}")

    def say(self, phase: str, *, why: str | None = None) -> None:
        write_state(self._state_file, {"time": time.time(), "phase": phase, "why": why})
        if self._stop_file.exists():
            raise KeyboardInterrupt

    def close(self) -> None:
        """What was under way has ended."""
        if self._what is None:
            return
        seconds, kind = time.monotonic() - self._began, _KINDS.get(self._what, "caches")
        self._ledger.add(kind, seconds, self._held)
        self._events.write(
            "preparation_end", what=self._what, seconds=seconds, cpus=self._held.cpus, gpus=self._held.gpus
        )
        self._what = None


_KINDS: Mapping[str, Kind] = {"stage 1": "stage 1"}


def prepare_on_cluster(
    configs: Iterable[TrainConfig], cache: Path, resources: Resources, preparation: Preparation
) -> tuple[dict[str, Assets], str]:
    """The assets of each method, made by a task that has what one worker of a trial has, and the node that it ran on.

    A task whose node dies is run again, and goes on from what it had checkpointed.
    """
    asked = bundle(resources)
    how: dict[str, Any] = {"num_cpus": asked.get("CPU", 0), "num_gpus": asked.get("GPU", 0)}
    if "memory" in asked:
        how["memory"] = asked["memory"]
    if resources.labels:
        how["label_selector"] = dict(resources.labels)
    messages = ray.remote(_Messages).options(num_cpus=0).remote()
    threads = max(1, int(resources.cpus))
    task = ray.remote(_prepare_all).options(**how).remote(list(configs), cache, messages, threads)
    has_begun = False
    while not ray.wait([task], timeout=_SAY_EVERY_S)[0]:
        for message in ray.get(messages.take.remote()):
            has_begun = True
            preparation.progress(*message)
        if not has_begun:
            preparation.say("preparation waits for a node", why=why_waiting(resources))
    for message in ray.get(messages.take.remote()):
        preparation.progress(*message)
    ray.kill(messages)
    try:
        found: tuple[dict[str, Assets], str] = ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, LttuneError):
            raise error.cause from None
        raise
    return found


def _prepare_all(
    configs: list[TrainConfig], cache: Path, messages: Any, num_threads: int
) -> tuple[dict[str, Assets], str]:
    said: dict[str, float] = {}

    def progress(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - said.get(what, 0.0) >= _SAY_EVERY_S:
            said[what] = now
            messages.say.remote((what, done, total))

    here = own_cache(cache)
    assets = {config.method: prepare(config, here, progress, num_threads=num_threads) for config in configs}
    return assets, ray.get_runtime_context().get_node_id()


class _Messages:
    """Between the task and the driver, which asks now and then."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, int, int]] = []

    def say(self, message: tuple[str, int, int]) -> None:
        self._waiting.append(message)

    def take(self) -> list[tuple[str, int, int]]:
        taken, self._waiting = self._waiting, []
        return taken
