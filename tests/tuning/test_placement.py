"""What trials ask for, and how many fit on what there is."""

from typing import Any

import pytest

from lttune.errors import ClusterError, InputError
from lttune.spec.search import Resources
from lttune.tuning import placement
from lttune.tuning.placement import bundle, check_fits, num_concurrent, reachable, why_waiting

HALF = Resources(cpus=2, gpus=0.5, memory_gb=4)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Ray tells of two nodes; the test changes it."""
    node = {"CPU": 16.0, "GPU": 4.0, "memory": 64e9}
    told: dict[str, Any] = {
        "nodes": [{"Alive": True, "Resources": node, "Labels": {"rack": str(i)}} for i in range(2)],
        "have": {name: 2 * amount for name, amount in node.items()},
        "free": {name: 2 * amount for name, amount in node.items()},
        "groups": {},
    }
    monkeypatch.setattr(placement.ray, "nodes", lambda: told["nodes"])
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: told["have"])
    monkeypatch.setattr(placement.ray, "available_resources", lambda: told["free"])
    monkeypatch.setattr(placement.ray.util, "placement_group_table", lambda: told["groups"])
    return told


def test_a_bundle_for_each_worker() -> None:
    assert bundle(HALF) == {"CPU": 2, "GPU": 0.5, "memory": 4e9}
    made = placement.placement(Resources(cpus=1, gpus=2, workers=3))
    assert made.bundles == [{"CPU": 1, "GPU": 2}] * 3


@pytest.mark.parametrize(
    ("changes", "is_shared", "expected"),
    [
        ({}, False, 16),  # CPUs and GPUs
        ({}, True, 8),  # nobody said how many, and the cluster may be other people's too
        ({"max_gpus": 6}, True, 12),
        ({"max_gpus": 6, "max_concurrent": 3}, True, 3),
        ({"max_concurrent": 100}, True, 100),
        ({"workers": 4}, False, 4),
        ({"gpus": 0.1, "max_gpus": 0.3, "cpus": 1}, True, 3),
        ({"gpus": 8}, False, 1),
    ],
)
def test_trials_at_a_time(changes: dict[str, Any], is_shared: bool, expected: int, cluster: dict[str, Any]) -> None:
    resources = Resources(**{**HALF.model_dump(), **changes})
    assert num_concurrent(resources, is_shared=is_shared) == expected


def test_a_trial_that_no_node_can_hold(cluster: dict[str, Any]) -> None:
    assert check_fits(HALF, is_shared=True) is None
    large = Resources(cpus=2, gpus=8)
    assert check_fits(large, is_shared=True) == "no node of the cluster has 2 CPUs, 8 GPUs now; trials wait for one"
    labelled = Resources(labels={"rack": "7"})
    assert "no node labelled rack=7 of the cluster" in (check_fits(labelled, is_shared=True) or "")
    assert check_fits(Resources(labels={"rack": "1"}), is_shared=True) is None
    cluster["have"] = {"CPU": 16.0}
    cluster["nodes"] = [{"Alive": True, "Resources": {"CPU": 16.0}}]
    with pytest.raises(InputError, match=r"gpus is 0\.5, but this machine has 0; use fewer"):
        check_fits(Resources(gpus=0.5), is_shared=False)


def test_what_a_trial_waits_for(cluster: dict[str, Any]) -> None:
    assert why_waiting(HALF) == "its worker process, which is starting"
    cluster["groups"] = {"a": {"state": "PENDING"}}
    cluster["free"] = {"CPU": 32.0, "GPU": 0.25, "memory": 64e9}
    assert why_waiting(HALF) == "GPUs: it needs 0.5, and 0.25 of 8 are free"
    cluster["free"] = {"CPU": 32.0, "GPU": 4.0, "memory": 1e9}
    assert why_waiting(HALF) == "memory: it needs 4 GB, and 1 GB of 128 GB are free"
    cluster["free"] = {"CPU": 32.0, "GPU": 4.0, "memory": 64e9}
    assert "what is free lies on several" in why_waiting(HALF)


def test_addresses() -> None:
    assert reachable("auto") == "auto"
    assert reachable("10.0.0.1:6379") == "10.0.0.1:6379"
    for address, hint in {
        "ray://head:10001": "Ray Client",
        "http://head:8265": "lttune submit",
        "head": "no address",
    }.items():
        with pytest.raises(ClusterError, match=hint):
            reachable(address)
