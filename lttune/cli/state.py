"""What a driver last wrote about its workers, for a person."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from lttune.cli.view import duration
from lttune.tuning.study import StudyFolder


def state_lines(folder: StudyFolder) -> Iterator[str]:
    """What runs where and since when, and what each waiting trial waits for."""
    if not folder.is_driven():
        yield f"{folder.name} is not running: nothing waits. Go on with: lttune resume {folder.name}"
        return
    try:
        state = json.loads(folder.state_file.read_text())
    except (OSError, ValueError):
        yield f"{folder.name} is driven by {folder.holder()}, which is starting or ending."
        return
    now = time.time()
    yield f"{state['phase']}, as of {duration(max(0.0, now - state['time']))} ago"
    yield from _running(state.get("running", {}), now)
    why = state.get("why")
    for name, since in state.get("waiting", {}).items():
        yield f"{name} waits since {duration(now - since)} for {why}"
    if why and not state.get("waiting"):
        yield f"waits for {why}"


def _running(running: Mapping[str, Mapping[str, Any]], now: float) -> Iterator[str]:
    for name, found in running.items():
        where = f" on node {found['node'][:12]}" if found["node"] else ""
        heard = f"{found['slices']} slices, the last {duration(now - found['heard'])} ago"
        since = duration(now - found["since"])
        yield f"{name} runs since {since}{where}: {heard if found['slices'] else 'no slice yet'}"
