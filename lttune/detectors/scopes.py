"""Context managers for code that is not ours: it draws from the global generator and looks at `module.training`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Global generators of CPU and `device` start from `seed` inside and are afterwards what they were."""
    device = torch.device(device)
    if device.type != "cuda":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    with torch.random.fork_rng(devices=[device]), torch.cuda.device(device):
        torch.default_generator.manual_seed(seed)
        torch.cuda.manual_seed(seed)
        yield


def draw_seed(generator: torch.Generator) -> int:
    """One seed for `seeded`, drawn from `generator`."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


@contextmanager
def seeded_calls(owner: object, method: str, seeds: Sequence[int] | None, device: torch.device | str) -> Iterator[None]:
    """Each call of a method draws from the global generators as they start from the next of the seeds; without seeds
    nothing is changed."""
    if seeds is None:
        yield
        return
    called, remaining = getattr(owner, method), iter(seeds)

    def call(*arguments: Any, **named: Any) -> Any:
        with seeded(next(remaining), device):
            return called(*arguments, **named)

    setattr(owner, method, call)
    try:
        yield
    finally:
        delattr(owner, method)


def image_generators(
    generator: torch.Generator, image_seeds: Sequence[int] | None, num_images: int
) -> list[torch.Generator]:
    """Where each image of a batch draws: from the batch's generator, or from one of its own seed."""
    if image_seeds is None:
        return [generator] * num_images
    return [torch.Generator(generator.device).manual_seed(seed) for seed in image_seeds]


@contextmanager
def training_flag(module: nn.Module, value: bool) -> Iterator[None]:
    """`module.training` is `value` inside; its children, normalisation layers among them, keep their own."""
    before = module.training
    module.training = value
    try:
        yield
    finally:
        module.training = before
