"""What a trial asks the cluster for, how many of them fit, and what one that waits is waiting for."""

from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray import tune

from lttune.errors import ClusterError, InputError
from lttune.spec.search import Resources

# Trials at a time on a cluster that may be other people's too, where nobody says how many.
SHARED_CONCURRENT = 8
_GB = 1_000_000_000


def placement(resources: Resources) -> tune.PlacementGroupFactory:
    """One bundle for each data-parallel worker of a trial."""
    labels = {"bundle_label_selector": [dict(resources.labels)] * resources.workers} if resources.labels else {}
    return tune.PlacementGroupFactory([bundle(resources)] * resources.workers, **labels)


def bundle(resources: Resources) -> dict[str, float]:
    """What one worker takes, in Ray's names and units."""
    memory = 0 if resources.memory_gb is None else resources.memory_gb * _GB
    asked = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": memory}
    return {name: amount for name, amount in asked.items() if amount}


def num_concurrent(resources: Resources, *, is_shared: bool) -> int:
    """Trials at a time: what is asked for, bounded by `max_gpus`, by what the cluster has, and by its being shared."""
    each = {name: amount * resources.workers for name, amount in bundle(resources).items()}
    bounds = []
    if resources.max_gpus is not None and resources.gpus:
        bounds.append(_num_times(resources.max_gpus, each["GPU"]))
    if resources.max_concurrent is not None:
        return max(1, min([resources.max_concurrent, *bounds]))
    have = ray.cluster_resources()
    bounds += [_num_times(have.get(name, 0), amount) for name, amount in each.items()]
    if is_shared and not (resources.max_gpus is not None and resources.gpus):
        bounds.append(SHARED_CONCURRENT)
    # Left unsaid, Tune would start one at a time.
    return max(1, min(bounds))


def check_fits(resources: Resources, *, is_shared: bool) -> str | None:
    """Whether some node could ever take a worker of a trial.

    Returns:
        What is missing on a shared cluster, which may grow; None where nothing is.

    Raises:
        InputError: this machine cannot.
    """
    asked = bundle(resources)
    nodes = [node for node in ray.nodes() if node["Alive"] and _carries(node, resources.labels)]
    if any(all(node["Resources"].get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
        return None
    if not is_shared:
        have = ray.cluster_resources()
        name = next((name for name, amount in asked.items() if have.get(name, 0) < amount), "CPU")
        key = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gb"}[name]
        raise InputError(
            f"resources.{key} is {_amount(name, asked[name])}, but this machine has "
            f"{_amount(name, have.get(name, 0))}; use fewer, or a cluster with --address."
        )
    labels = f" labelled {_pairs(resources.labels)}" if resources.labels else ""
    return f"no node{labels} of the cluster has {_needs(asked)} now; trials wait for one"


def why_waiting(resources: Resources) -> str:
    """What a trial that is handed out but has no worker waits for, as the cluster stands."""
    asked = bundle(resources)
    if missing := check_fits(resources, is_shared=True):
        return missing
    if not any(group["state"] == "PENDING" for group in ray.util.placement_group_table().values()):
        return "its worker process, which is starting"
    free, have = ray.available_resources(), ray.cluster_resources()
    for name, amount in asked.items():
        needed = amount * resources.workers
        if free.get(name, 0) < needed:
            what = f"{_amount(name, free.get(name, 0))} of {_amount(name, have.get(name, 0))} are free"
            return f"{_NAMES[name]}: it needs {_amount(name, needed)}, and {what}"
    return f"one node with {_needs(asked)}: what is free lies on several"


def reachable(address: str) -> str:
    """The address as Ray takes it.

    Raises:
        ClusterError: it is of Ray Client, whose driver would run elsewhere, or of nothing that a search can join.
    """
    if address == "auto" or (":" in address and "/" not in address):
        return address
    if address.startswith("ray://"):
        what = "Ray Client keeps no search alive when the connection breaks"
    elif address.startswith(("http://", "https://")):
        what = "that is the address for jobs: lttune submit SPEC --address " + address
    else:
        what = "no address of a Ray cluster"
    raise ClusterError(f"--address {address}: {what}; use HOST:PORT (Ray's port, 6379), or `auto` on a cluster's node.")


_NAMES: Mapping[str, str] = {"CPU": "CPUs", "GPU": "GPUs", "memory": "memory"}


def _num_times(have: float, each: float) -> int:
    return int(have / each + 1e-9)


def _carries(node: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    found = node.get("Labels") or {}
    return all(found.get(name) == value for name, value in labels.items() if _is_plain(value))


def _is_plain(value: str) -> bool:
    """Whether a label has to equal the value; Ray knows `!value` and `in(...)` too."""
    return not value.startswith(("!", "in("))


def _needs(asked: Mapping[str, float]) -> str:
    return ", ".join(_described(asked))


def _described(asked: Mapping[str, float]) -> Iterator[str]:
    for name, amount in asked.items():
        yield f"{_amount(name, amount)} {_NAMES[name]}" if name != "memory" else f"{_amount(name, amount)} of memory"


def _amount(name: str, amount: float) -> str:
    return f"{amount / _GB:.3g} GB" if name == "memory" else f"{amount:g}"


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items())
