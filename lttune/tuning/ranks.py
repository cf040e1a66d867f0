"""The further ranks of a trial: actors in its placement group, one in each bundle but the first, where its worker is.

They follow the first rank through the store where all of them met, slice by slice, and serve trial after trial as it
does. Ray ends them with it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import PlacementGroup, get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lttune.errors import WorkerLostError
from lttune.tuning.jobs import Job

if TYPE_CHECKING:
    import torch

    from lttune.engine.parallel import Ranks

# How long the followers of a trial that has ended may take to let go of it.
_PATIENCE_S = 10.0


class Followers:
    """What the first rank holds of the others.

    Args:
        size: all ranks of a trial, the first one included.
    """

    def __init__(self, size: int, *, cpus: float, gpus: float) -> None:
        group = get_current_placement_group()
        assert group is not None, "a trial of several workers runs in a placement group"
        self._size = size
        self._actors = [_start(group, rank, cpus=cpus, gpus=gpus) for rank in range(1, size)]
        self._following: list[Any] = []
        self._ranks: Ranks | None = None

    def begin(self, job: Job, device: "torch.device") -> "Ranks":
        """Let all followers begin with a job, and meet them.

        Raises:
            WorkerLostError: one of them cannot be reached.
        """
        from lttune.engine.parallel import LOOPBACK, Ranks, open_meeting

        try:
            nodes = {ray.get_runtime_context().get_node_id(), *ray.get([actor.node.remote() for actor in self._actors])}
        except ray.exceptions.RayActorError as error:
            raise WorkerLostError(f"a worker of the trial is gone ({str(error).splitlines()[0]}).") from error
        address = LOOPBACK if len(nodes) == 1 else ray.util.get_node_ip_address()
        store = open_meeting(address)
        self._following = [
            actor.follow.remote(job, rank, self._size, address, store.port)
            for rank, actor in enumerate(self._actors, start=1)
        ]
        self._ranks = Ranks.join(store, rank=0, size=self._size, device=device)
        return self._ranks

    def restored(self, is_restored: bool) -> None:
        """Say whether the trial goes on from its checkpoint, once the first rank has read it."""
        if self._ranks is not None:
            self._ranks.from_first(lambda: is_restored)

    def slice(self) -> None:
        """Let them begin the slice that the first rank begins."""
        if self._ranks is not None:
            self._ranks.from_first(lambda: True)

    def end(self) -> None:
        """Let them leave the trial; they wait for the next."""
        if self._ranks is None:
            return
        if not self._ranks.has_failed:
            self._ranks.from_first(lambda: False)
            self._ranks.leave()
        self._ranks = None
        ray.wait(self._following, num_returns=len(self._following), timeout=_PATIENCE_S)
        self._following = []

    def stop(self) -> None:
        """End their processes."""
        self.end()
        for actor in self._actors:
            ray.kill(actor)


class Follower:
    """A later rank of trial after trial."""

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def follow(self, job: Job, rank: int, size: int, address: str, port: int) -> None:
        """Train a job with the others, until the first rank says that it is over."""
        import torch

        from lttune.engine.parallel import Ranks, attend_meeting

        torch.set_num_threads(max(1, int(job.cpus)))
        device = torch.device("cuda" if job.gpus > 0 and torch.cuda.is_available() else "cpu")
        ranks = Ranks.join(attend_meeting(address, port), rank=rank, size=size, device=device)
        try:
            with ranks.together():
                self._train(job, ranks, device)
        finally:
            ranks.leave()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _train(self, job: Job, ranks: "Ranks", device: "torch.device") -> None:
        from lttune.engine.local_ranks import follow
        from lttune.engine.run import TrainingRun
        from lttune.tuning.node_cache import present

        assets = present(job.assets, job.config.data)
        run = TrainingRun(job.config, assets, device=device, judged_on=job.judged_on, ranks=ranks)
        follow(run, ranks, Path(job.checkpoint), stop_at_evaluation=job.stop_at_evaluation)


def _start(group: PlacementGroup, rank: int, *, cpus: float, gpus: float) -> Any:
    place = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=rank)
    return ray.remote(Follower).options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=place).remote()
