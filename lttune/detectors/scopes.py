"""Context managers for code that is not ours: it draws from the global generator and looks at `module.training`."""

from collections.abc import Iterator
from contextlib import contextmanager

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
def training_flag(module: nn.Module, value: bool) -> Iterator[None]:
    """`module.training` is `value` inside; its children, normalisation layers among them, keep their own."""
    before = module.training
    module.training = value
    try:
        yield
    finally:
        module.training = before
