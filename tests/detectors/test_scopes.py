"""Scopes leave the world as it was."""

import pytest
import torch
from torch import nn

from lttune.detectors.scopes import draw_seed, seeded, training_flag


def test_inside_seeded_the_global_generator_depends_on_the_seed_alone() -> None:
    draws = []
    for seed in (3, 3, 4):
        with seeded(seed):
            draws.append(torch.rand(4))
        torch.rand(7)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_seeded_puts_the_global_generator_back_even_after_an_error() -> None:
    before = torch.get_rng_state()

    def fail() -> None:
        with seeded(3):
            torch.rand(4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_follow_their_generator() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    a, b, c = ([draw_seed(generator) for _ in range(3)] for generator in generators)
    assert a == b
    assert len({*a, *c}) == 6


def test_the_training_flag_is_set_for_the_module_alone_and_put_back() -> None:
    module = nn.Sequential(nn.BatchNorm2d(2)).eval()

    def fail() -> None:
        with training_flag(module, True):
            assert module.training
            assert not module[0].training
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not module.training
