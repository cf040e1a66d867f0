"""Optimiser and learning-rate schedule; the rate is a function of the iteration, so nothing of it needs saving."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from lttune.engine.config import OptimConfig, ScheduleConfig


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimConfig, *, has_scaled_losses: bool = False
) -> torch.optim.Optimizer:
    """The optimiser over every parameter that requires a gradient, at the base learning rate."""
    # A fused SGD whose very first step is left out goes on from a momentum that nobody has written (torch 2.14).
    fused = not has_scaled_losses
    trained = [p for p in parameters if p.requires_grad]
    if config.name == "adamw":
        return torch.optim.AdamW(trained, config.lr, weight_decay=config.weight_decay, fused=fused)
    return torch.optim.SGD(trained, config.lr, config.momentum, weight_decay=config.weight_decay, fused=fused)


def lr_factor(config: ScheduleConfig, step: int, steps_per_epoch: int) -> float:
    """What the base learning rate is multiplied with at iteration `step`, counted from 0."""
    if config.policy == "one_cycle":
        total = config.epochs * steps_per_epoch
        rise = max(1, round(config.warmup_fraction * total))
        if step < rise:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * step / rise)) / 2
        return (1 + math.cos(math.pi * (step - rise) / max(1, total - rise))) / 2
    drops = sum(step >= epoch * steps_per_epoch for epoch in config.drop_epochs)
    factor = config.drop_factor**drops
    if step < config.warmup_iters:
        factor *= config.warmup_ratio + (1 - config.warmup_ratio) * step / config.warmup_iters
    return factor


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(parameters: Iterable[nn.Parameter], clip_norm: float | None) -> None:
    """Scale all gradients so that their global L2 norm is at most `clip_norm`."""
    if clip_norm is not None:
        nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], clip_norm)
