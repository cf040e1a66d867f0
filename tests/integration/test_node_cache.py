"""Two nodes that share the output folder and have a cache each: what one made, the other one pulls."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lttune.engine.cache import entries
from lttune.engine.columns import are_intact

pytestmark = pytest.mark.slow

CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for folder in sys.argv[1:]:
    cluster.add_node(num_cpus=1, env_vars={"LTTUNE_CACHE": folder})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A cluster of two nodes of one CPU; their caches are `one` and `two`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LTTUNE_"))}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(tmp_path)}
    with (tmp_path / "cluster.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(tmp_path / "one"), str(tmp_path / "two")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    found = process.stdout.readline().strip()
    assert found, (tmp_path / "cluster.txt").read_text()
    yield found
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


def test_each_node_has_what_its_trials_need(address: str, bare: Any, tmp_path: Path) -> None:
    driver = bare.search("two", "--address", address, "--max-concurrent", "2", "--trials", "4", "--json")
    document = json.loads(driver.finish())
    assert [trial["state"] for trial in document["trials"]] == ["COMPLETE"] * 4

    made = {node: {entry.name: entry.num_bytes for entry in entries(tmp_path / node)} for node in ("one", "two")}
    assert made["one"] == made["two"]
    assert {name.split("-")[0] for name in made["one"]} >= {"glyphs", "stage1", "features"}
    features = next(name for name in made["one"] if name.startswith("features-"))
    for node in ("one", "two"):
        assert all(are_intact(tmp_path / node / features / part) for part in ("train", "tune", "report"))
        assert not any(entry.users for entry in entries(tmp_path / node))
        assert not [path for path in (tmp_path / node).glob(".*") if path.is_dir()]
    assert not list((bare.out / "cache").glob("features-*"))
