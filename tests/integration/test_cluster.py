"""Searches on a Ray cluster that exists: two nodes of this machine that declare GPUs which are not there."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

NUM_TRIALS = 8
# A node that is removed takes its trials with it; the four that are left hold the other one's GPUs until they end.
LONG = ("--set", "schedule.epochs=100", "--set", "resources.slice_s=0.5", "--set", "resources.gpus=0.5")

# The cluster lives in a process of its own, which reads commands: Ray in the tests' own process would outlive them.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = {name: cluster.add_node(num_cpus=4, num_gpus=2, labels={"rack": name}) for name in ("one", "two")}
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(line.strip()), allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""

LEFTOVERS = """
import json, sys
import ray
from ray.util.state import list_actors, list_placement_groups

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
groups = ray.util.placement_group_table().values()
free, have = ray.available_resources(), ray.cluster_resources()
print(json.dumps({
    "groups": [group["state"] for group in groups if group["state"] != "REMOVED"],
    "held": {name: have[name] - free.get(name, 0) for name in ("CPU", "GPU")},
}))
"""


class Nodes:
    """A head without resources, and two nodes `one` and `two` with four CPUs and two declared GPUs each."""

    def __init__(self, folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(folder)}
        self._environment = environment
        with (folder / "cluster.txt").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CLUSTER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self.address = self._out.readline().strip()
        assert self.address, (folder / "cluster.txt").read_text()

    def remove(self, name: str) -> None:
        """Kill a node and all of its workers."""
        self._in.write(f"{name}\n")
        self._in.flush()
        assert self._out.readline().strip() == "removed"

    def held(self) -> dict[str, Any]:
        """What anybody still holds on the cluster."""
        command = [sys.executable, "-c", LEFTOVERS, self.address]
        printed = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(printed.stdout.splitlines()[-1])
        return found

    def close(self) -> None:
        self._in.close()
        self._out.close()
        self._process.wait(60)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    cluster = Nodes(folder)
    yield cluster
    cluster.close()


def events(place: Any, study: str, kind: str) -> list[dict[str, Any]]:
    file = place.study(study) / "events.jsonl"
    return [line for line in place.lines(study, file.name) if line["event"] == kind] if file.is_file() else []


def slices(place: Any, study: str) -> dict[str, dict[str, Any]]:
    """The first slice of each trial that wrote one."""
    return {line["run"]: line for line in reversed(events(place, study, "slice")) if line["run"].startswith("trial")}


def test_a_node_is_removed_in_the_middle(prepared: Any, nodes: Nodes) -> None:
    driver = prepared.search("moving", "--address", nodes.address, "--trials", str(NUM_TRIALS), *LONG)
    driver.wait_for(lambda: len(slices(prepared, "moving")) == NUM_TRIALS, "a slice of every trial")
    first = slices(prepared, "moving")
    # The driver says so every few seconds.
    driver.wait_for(
        lambda: prepared.run("status", "moving", "--why")[0].count("runs since") == NUM_TRIALS, "eight running trials"
    )

    nodes.remove("two")
    driver.wait_for(
        lambda: sum(trial.state.name == "COMPLETE" for trial in prepared.optuna_trials("moving")) == NUM_TRIALS,
        "the end of all trials",
    )
    stdout, _ = prepared.run("stop", "moving")

    assert "moving has ended" in stdout
    assert driver.process.wait(20) == 130
    # Four trials on each node, two on each of its GPUs.
    assert Counter(Counter(line["node"] for line in first.values()).values()) == {4: 2}
    gpus = Counter((line["node"], *line["gpu_ids"]) for line in first.values())
    assert len(gpus) == 4
    assert set(gpus.values()) == {2}
    # None is lost, none counts as failed, each is there once.
    trials = prepared.optuna_trials("moving")
    assert [(trial.number, trial.state.name) for trial in trials] == [(n, "COMPLETE") for n in range(NUM_TRIALS)]
    restarts = [line for line in events(prepared, "moving", "restart") if line["run"].startswith("trial")]
    (lost,) = events(prepared, "moving", "node_lost")
    moved = [run for run, line in first.items() if line["node"] == lost["node"]]
    assert sorted(line["run"] for line in restarts) == sorted(moved)
    assert {line["cause"] for line in restarts} == {"node lost"}
    assert {line["state"] for line in prepared.lines("moving", "trials.jsonl")} == {"COMPLETE"}
    # Nothing of ours is left on the cluster, which goes on.
    deadline = time.monotonic() + 30
    while (held := nodes.held()) != {"groups": [], "held": {"CPU": 0.0, "GPU": 0.0}}:
        assert time.monotonic() < deadline, held
