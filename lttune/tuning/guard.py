"""A small process that outlives a killed driver for seconds, to end what Ray leaves of it.

Ray's workers end by themselves within seconds, but its two agents wait a minute for servers that are gone as well.

    python -m lttune.tuning.guard < pipe

The pipe gives one JSON line of [process id, time of its start] pairs; its end means that the driver is gone.
"""

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil  # type: ignore[import-untyped]

_GRACE_S = 2.0
# Pauses between two looks for more: Ray starts some of its processes, workers above all, after it says it is ready.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


@contextmanager
def guarded_children() -> Iterator[None]:
    """Watch over every process that this one has started so far, and over theirs; if it is killed, they end too."""
    children = []
    for process in psutil.Process().children(recursive=True):
        try:
            children.append((process.pid, process.create_time()))
        except psutil.NoSuchProcess:
            continue
    guard = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C in a terminal is not for the guard
    )
    assert guard.stdin is not None
    try:
        guard.stdin.write(json.dumps(children) + "\n")
        guard.stdin.flush()
        yield
    finally:
        guard.kill()
        guard.stdin.close()
        guard.wait()


def main() -> None:
    known = {(pid, began) for pid, began in json.loads(sys.stdin.readline())}
    pause_s = _FIRST_PAUSE_S
    while not select.select([sys.stdin], [], [], pause_s)[0]:
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        known |= _children_of(known)
    known |= _children_of(known)
    _, left = psutil.wait_procs(_alive(known), timeout=_GRACE_S)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _children_of(known: set[tuple[int, float]]) -> set[tuple[int, float]]:
    found = set()
    for process in _alive(known):
        with suppress(psutil.NoSuchProcess):
            found |= {(child.pid, child.create_time()) for child in process.children()}
    return found


def _alive(known: set[tuple[int, float]]) -> list[psutil.Process]:
    alive = []
    for pid, began in known:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            # Process ids are used again; the time of the start tells two of them apart.
            if process.create_time() == began:
                alive.append(process)
    return alive


if __name__ == "__main__":
    main()
