"""A small process that outlives a killed driver for seconds, to end what Ray leaves of it.

Ray's workers end by themselves within seconds, but its two agents wait a minute for servers that are gone as well.

    python -m lttune.tuning.guard < pipe

The pipe gives one JSON line of [process id, time of its start] pairs; its end means that the driver is gone.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]

_GRACE_S = 2.0


@contextmanager
def guarded_children() -> Iterator[None]:
    """Watch over every process that this one has started so far; should it be killed in the block, they end too."""
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
    known = json.loads(sys.stdin.readline())
    sys.stdin.read()
    left = []
    for pid, began in known:
        try:
            process = psutil.Process(pid)
            # Process ids are used again; the time of the start tells two of them apart.
            if process.create_time() == began:
                left.append(process)
        except psutil.NoSuchProcess:
            continue
    _, left = psutil.wait_procs(left, timeout=_GRACE_S)
    for process in left:
        process.kill()


if __name__ == "__main__":
    main()
