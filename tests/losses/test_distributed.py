"""Two ranks with half of each batch end with the statistics of one process that has all of it.

Run as a script, this file is one rank.
"""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist

from lttune.losses import build_loss
from lttune.losses.base import ClassificationLoss
from lttune.losses.distributed import count_over_ranks, sum_over_ranks
from lttune.types import CategoryFrequencies

NUM_CLASSES, NUM_ROWS, NUM_STEPS = 5, 20, 4


def build_losses() -> dict[str, ClassificationLoss]:
    images = torch.tensor([300, 200, 50, 20, 5])
    frequencies = CategoryFrequencies(image_count=images, instance_count=images, group=torch.tensor([2, 2, 1, 1, 0]))
    values = {"loce": {"has_memory": False}, "rog": {"count_momentum": 0.9}, "seesaw": {}}
    return {
        name: build_loss(name, num_classes=NUM_CLASSES, frequencies=frequencies, **own) for name, own in values.items()
    }


def train(losses: dict[str, ClassificationLoss], rows: slice) -> dict[str, dict[str, torch.Tensor]]:
    """The statistics after some steps on these rows of each batch; the second half has less and less foreground, and
    nothing at all in the last step."""
    for step in range(NUM_STEPS):
        generator = torch.Generator().manual_seed(step)
        instance_ids = torch.arange(NUM_ROWS) // 2  # of two rows each, none in both halves
        labels = torch.randint(NUM_CLASSES + 1, (NUM_ROWS // 2,), generator=generator)[instance_ids]
        labels[NUM_ROWS // 2 + 5 * (NUM_STEPS - 2 - step) :] = NUM_CLASSES
        instance_ids = instance_ids.where(labels < NUM_CLASSES, -1)
        last = NUM_ROWS // 2 if step == NUM_STEPS - 1 else NUM_ROWS
        for loss in losses.values():
            logits = torch.randn(NUM_ROWS, loss.num_logits, dtype=torch.float64, generator=generator)[:last]
            terms = loss(logits[rows].requires_grad_(), labels[:last][rows], instance_ids=instance_ids[:last][rows])
            torch.stack(list(terms.values())).sum().backward()
    return {name: loss.state_dict() for name, loss in losses.items()}


def test_two_ranks_end_as_one_process(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE) for rank in (0, 1)]
    for rank in ranks:
        _, error = rank.communicate(timeout=120)
        assert rank.returncode == 0, error.decode()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))

    alone = train(build_losses(), slice(None))

    assert alone["rog"]["counts"].sum() > 50
    assert (alone["loce"]["mean_score"] != 0.01).sum() == NUM_CLASSES
    for name, state in alone.items():
        for key, value in state.items():
            assert torch.equal(first[name][key], second[name][key]), (name, key)
            torch.testing.assert_close(first[name][key], value, rtol=1e-12, atol=0)
            if name == "seesaw":
                assert torch.equal(first[name][key], value)


def test_one_process_sends_nothing() -> None:
    values = torch.tensor([1.0, 2.0])

    assert sum_over_ranks(values) is values
    assert count_over_ranks(torch.tensor([2, 0, 2]), 4).tolist() == [1, 0, 2, 0]


def main(folder: Path, rank: int) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    half = slice(0, NUM_ROWS // 2) if rank == 0 else slice(NUM_ROWS // 2, None)
    torch.save(train(build_losses(), half), folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
