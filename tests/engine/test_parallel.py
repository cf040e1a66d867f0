"""Two processes with half of each batch make the steps of one process that has all of it.

Run as a script, this file is one of the two.
"""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lttune.engine.assets import Assets
from lttune.engine.config import Recipe, TrainConfig, check_shares
from lttune.engine.parallel import Ranks, attend_meeting, open_meeting
from lttune.engine.run import TrainingRun
from lttune.errors import DataError, InputError
from lttune.losses import LOSSES

# Of methods on cached features, where there are no boxes or masks to learn.
CACHED = ("acsl", "ecm", "federated", "loce", "rog", "seesaw")
# The last one ends a process.
FAILURES = ("the loss breaks", "one meets a bad image", "one has a fault", "one dies")
# From cached features, with boxes that move, and from images.
JUDGED = ("acsl", "loce", "on images")
NAMES = (*CACHED, "acsl in processes of an image", "on images", "on images with a memory", "in parts")
# Ranks add the gradients of their rows in another order than one process, and later steps carry it on.
TOLERANCE = {"rtol": 1e-3, "atol": 2e-5}


def cases_of(train_config: TrainConfig, loce_config: TrainConfig) -> dict[str, TrainConfig]:
    """What both processes train, by name."""
    short = replace(train_config, schedule=replace(train_config.schedule, epochs=1))
    cached = {
        name: replace(short, method=name, loss=LOSSES[name].Hyperparameters()) for name in CACHED if name != "loce"
    }
    cached["loce"] = replace(loce_config, schedule=short.schedule)
    by_process = replace(cached["acsl"], schedule=replace(short.schedule, images_per_process=1))
    everything = Recipe(parts="all", fidelity="full")
    clipped = replace(short.optim, lr=1e-3, clip_norm=1.0)
    on_images = replace(cached["seesaw"], recipe=everything, fidelity="full", optim=clipped)
    sgd = replace(on_images, optim=replace(clipped, name="sgd"))
    parts = ("classifier", "box_regressor", "rpn", "mask_head")
    with_memory = replace(cached["loce"], recipe=Recipe(parts=parts, fidelity="full"), fidelity="full")
    return {
        **cached,
        "acsl in processes of an image": by_process,
        "on images": sgd,
        "on images with a memory": replace(with_memory, optim=replace(clipped, name="sgd")),
        "in parts": replace(sgd, schedule=replace(sgd.schedule, accumulate=2)),
    }


def outcome(run: TrainingRun) -> dict[str, Any]:
    """All that training changes."""
    augmenter = run.detector.stages[0].loss.augmenter
    return {
        "tensors": {name: tensor.clone() for name, tensor in run.detector.state_dict().items()},
        "optimizer": run.optimizer.state_dict()["state"],
        "memory": {} if augmenter is None else augmenter.state_dict(),
        "history": [(record.losses, record.metrics) for record in run.history],
    }


@pytest.fixture(scope="module")
def cases(train_config: TrainConfig, loce_config: TrainConfig) -> dict[str, TrainConfig]:
    return cases_of(train_config, loce_config)


@dataclass(frozen=True)
class Found:
    """What the two processes left."""

    folder: Path
    results: list[dict[str, Any]]  # of each process, by case
    failures: list[dict[str, Any]]  # of each process, by what went wrong


@pytest.fixture(scope="module")
def found(cases: dict[str, TrainConfig], assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "cases.pkl").write_bytes(pickle.dumps((cases, assets)))
    begun = TrainingRun(cases["loce"], assets, ranks=Ranks())
    begun.advance(max_iters=1)
    begun.save(folder / "by one.pt")
    meetings = [open_meeting() for _ in range(1 + len(FAILURES))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(rank), *(str(meeting.port) for meeting in meetings)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process, expected in zip(processes, (0, -signal.SIGKILL), strict=True):
        _, errors = process.communicate(timeout=150)
        assert process.returncode == expected, errors
    results = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    return Found(folder, results, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)])


def assert_equal(first: Any, second: Any, where: str = "") -> None:
    """Bit for bit, all the way down; NaN equals NaN."""
    if isinstance(first, Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}/{key}")
    else:
        assert repr(first) == repr(second), where


def assert_close(first: dict[str, Any], second: dict[str, Any]) -> None:
    for kind in ("tensors", "memory"):
        assert first[kind].keys() == second[kind].keys()
        for name, tensor in first[kind].items():
            torch.testing.assert_close(tensor, second[kind][name], **TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")
    for (losses, metrics), (own_losses, own_metrics) in zip(first["history"], second["history"], strict=True):
        assert losses == pytest.approx(own_losses, rel=1e-3)
        assert metrics == pytest.approx(own_metrics, abs=2.0, nan_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_are_one_process(name: str, found: Found, cases: dict[str, TrainConfig], assets: Assets) -> None:
    first, second = (results[name] for results in found.results)
    alone = TrainingRun(cases[name], assets, ranks=Ranks(), judged_on="tune" if name in JUDGED else None)
    start = outcome(alone)["tensors"]
    alone.advance()
    # Ranks are the same, to the bit: weights, statistics, the optimiser, the memory, what they report.
    assert_equal(first, second)
    assert_close(first, outcome(alone))
    assert any(not torch.allclose(tensor, start[key], **TOLERANCE) for key, tensor in first["tensors"].items())


def test_any_number_of_ranks_goes_on(found: Found, cases: dict[str, TrainConfig], assets: Assets) -> None:
    alone = TrainingRun(cases["loce"], assets, ranks=Ranks())
    alone.restore(found.folder / "by two.pt")
    assert alone.step == 1
    alone.advance()

    assert_close(outcome(alone), found.results[0]["loce"])
    assert_close(found.results[0]["from one"], found.results[0]["loce"])
    assert_equal(found.results[0]["from one"], found.results[1]["from one"])


def test_what_one_rank_meets_ends_all(found: Found) -> None:
    first, second = found.failures

    for failures in (first, second):
        kind, text, _ = failures["the loss breaks"]
        assert kind == "NonFiniteLossError"
        assert "in epoch 1" in text
    assert first["one meets a bad image"][:2] == ["DataError", "7.png: not an image."]
    assert second["one meets a bad image"][:2] == ["DataError", "7.png: not an image."]
    assert first["one has a fault"][0] == "WorkerLostError"
    assert first["one has a fault"][1] == "worker 1 of 2 ended with KeyError: 'fault'"
    assert second["one has a fault"][0] == "KeyError"


def test_a_rank_that_dies_ends_the_others(found: Found) -> None:
    kind, text, seconds = found.failures[0]["one dies"]
    assert kind == "WorkerLostError"
    assert text.startswith("worker 0 of 2 lost another one (")
    assert text.endswith("look for what ended that one, above all for a lack of memory.")
    assert seconds < 20


def test_batches_are_shared_equally(train_config: TrainConfig) -> None:
    schedule = replace(train_config.schedule, batch_size=12, accumulate=2)
    check_shares(schedule, 3)
    with pytest.raises(InputError, match=r"schedule.batch_size is 12, but resources.workers is 4 .* multiple of 8\."):
        check_shares(schedule, 4)
    with pytest.raises(InputError, match=r"batch_size is 4, but resources.workers is 3 .* images; use a multiple of 3"):
        check_shares(train_config.schedule, 3)


def fail(what: str, run: TrainingRun, ranks: Ranks) -> None:
    """Let one rank, or all, fail in the middle of training."""
    run.advance(max_iters=1)
    if what == "the loss breaks":
        weight = next(run.detector.parts["classifier"].parameters())
        with torch.no_grad():
            weight.fill_(math.nan if ranks.is_first else 0.0)
    elif not ranks.is_first:
        with ranks.together():
            if what == "one meets a bad image":
                raise DataError("7.png: not an image.")
            if what == "one has a fault":
                raise KeyError("fault")
            os.kill(os.getpid(), signal.SIGKILL)
    run.advance()


def train_as_one_of_two(folder: Path, rank: int, ports: list[int]) -> None:
    cases, assets = pickle.loads((folder / "cases.pkl").read_bytes())

    def join(port: int) -> Ranks:
        store = attend_meeting("127.0.0.1", port, timeout_s=100)
        return Ranks.join(store, rank=rank, size=2, device=torch.device("cpu"), timeout_s=100)

    ranks = join(ports[0])
    results = {}
    for name, config in cases.items():
        run = TrainingRun(config, assets, ranks=ranks, judged_on="tune" if name in JUDGED else None)
        if name == "loce":
            run.advance(max_iters=1)
            run.save(folder / "by two.pt")
        run.advance()
        results[name] = outcome(run)
    resumed = TrainingRun(cases["loce"], assets, ranks=ranks)
    resumed.restore(folder / "by one.pt")
    resumed.advance()
    results["from one"] = outcome(resumed)
    ranks.leave()
    torch.save(results, folder / f"{rank}.pt")

    failures = {}
    for what, port in zip(FAILURES, ports[1:], strict=True):
        ranks = join(port)
        began = time.monotonic()
        try:
            fail(what, TrainingRun(cases["acsl"], assets, ranks=ranks, judged_on=None), ranks)
        except Exception as error:
            failures[what] = [type(error).__name__, str(error), time.monotonic() - began]
            (folder / f"{rank}.json").write_text(json.dumps(failures))


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_as_one_of_two(Path(sys.argv[1]), int(sys.argv[2]), [int(port) for port in sys.argv[3:]])
