"""Time of one training step of each loss, and of GAP against a plain loop.

    python -m benchmarks.losses [--repeats 20]

Forward and backward on LVIS-sized logits (1024 RoIs, 1203 categories, 256 foreground RoIs), one CPU thread. The plain
loop goes over categories, for each of which it builds masks over all cells, and over the positives of each; it is
written from the definition of GAP and serves as the yardstick, in turns with ours. Times are CPU time of the process,
so that what else runs on the machine counts little.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from lttune.losses import LOSSES, build_loss
from lttune.losses.gap import gap_loss
from lttune.types import CategoryFrequencies

NUM_ROIS, NUM_CLASSES, NUM_FOREGROUND = 1024, 1203, 256


def long_tail() -> CategoryFrequencies:
    """Counts that fall from 2000 images to 1, five annotations to an image."""
    images = torch.logspace(3.3, 0, NUM_CLASSES).long()
    group = (images > 10).long() + (images > 100).long()
    return CategoryFrequencies(image_count=images, instance_count=5 * images, group=group)


def draw_labels(frequencies: CategoryFrequencies, generator: torch.Generator) -> Tensor:
    """Foreground RoIs of about twenty categories, as four images hold, then background."""
    weight = frequencies.instance_count.double()
    categories = torch.multinomial(weight, 24, generator=generator)
    foreground = categories[torch.randint(len(categories), (NUM_FOREGROUND,), generator=generator)]
    return torch.cat([foreground, torch.full((NUM_ROIS - NUM_FOREGROUND,), NUM_CLASSES)])


def draw_logits(phase: str, labels: Tensor, num_logits: int, generator: torch.Generator) -> Tensor:
    """`early`: all about 0. `late`: negatives about -7, positives about -0.5."""
    noise = torch.randn(NUM_ROIS, num_logits, generator=generator)
    if phase == "early":
        return 0.3 * noise
    own = torch.zeros_like(noise).scatter_(1, labels[:, None], 1)
    return 1.5 * noise - 7 + 6.5 * own


def plain_gap_gradient(
    logits: Tensor, labels: Tensor, counts: Tensor, *, gamma: float = 1.0, lam: float = 0.1, delta: float = 0.5
) -> Tensor:
    """(N, C) gradient of GAP by loops over categories and positives."""
    num_classes = len(counts) - 1
    cells = logits[:, :num_classes]
    weights = counts[:-1].clamp(min=1).double() ** -gamma
    weights = (weights / (weights.sum() + 1e-9) * num_classes).to(logits.dtype)
    columns = torch.arange(num_classes)
    is_negative = labels[:, None] != columns
    present = labels[labels < num_classes].unique().tolist()
    gradient = torch.zeros_like(cells)
    for category in present:
        is_positive = ~is_negative & (columns == category)
        positives = cells[is_positive]
        is_near = is_negative & (cells >= positives.min() - delta)
        negatives = cells[is_near]
        at_negatives = torch.zeros_like(negatives)
        at_positives = torch.zeros_like(positives)
        scale = lam * weights[category] / (len(present) * len(positives))
        for k, score in enumerate(positives):
            true_ahead = step(positives - score, delta).sum()
            ahead = step(negatives - score, delta)
            false_ahead = ahead.sum()
            if false_ahead > 1e-10:
                at_positives[k] = -scale * false_ahead / (true_ahead + false_ahead)
                at_negatives += scale * ahead / (true_ahead + false_ahead)
        gradient[is_positive] = at_positives
        gradient[is_near] += at_negatives
    return gradient


def step(difference: Tensor, delta: float) -> Tensor:
    return (difference / (2 * delta) + 0.5).clamp(0, 1)


def seconds(act: Callable[[], object], repeats: int) -> list[float]:
    """CPU times after one call to warm up."""
    act()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        act()
        times.append(time.process_time() - start)
    return times


def in_ms(times: list[float]) -> str:
    return f"{1e3 * median(times):8.1f} ms  ({1e3 * min(times):.1f} to {1e3 * max(times):.1f})"


def time_losses(repeats: int) -> None:
    frequencies = long_tail()
    for name in LOSSES:
        generator = torch.Generator().manual_seed(0)
        loss = build_loss(name, num_classes=NUM_CLASSES, frequencies=frequencies, generator=generator)
        labels = draw_labels(frequencies, generator)
        logits = draw_logits("early", labels, loss.num_logits, generator).requires_grad_()

        def act(loss: torch.nn.Module = loss, logits: Tensor = logits, labels: Tensor = labels) -> None:
            logits.grad = None
            sum(loss(logits, labels).values()).backward()

        print(f"{name:24}{in_ms(seconds(act, repeats))}", flush=True)


def time_gap(repeats: int) -> None:
    frequencies = long_tail()
    for phase in ("early", "late"):
        generator = torch.Generator().manual_seed(0)
        labels = draw_labels(frequencies, generator)
        logits = draw_logits(phase, labels, NUM_CLASSES + 1, generator).requires_grad_()
        counts = torch.bincount(labels, minlength=NUM_CLASSES + 1).double()

        def ours(logits: Tensor = logits, labels: Tensor = labels, counts: Tensor = counts) -> Tensor:
            (gradient,) = torch.autograd.grad(gap_loss(logits, labels, counts), logits)
            return gradient

        def plain(logits: Tensor = logits, labels: Tensor = labels, counts: Tensor = counts) -> Tensor:
            return plain_gap_gradient(logits.detach(), labels, counts)

        apart = (ours()[:, :-1] - plain()).abs().max() / plain().abs().max()
        fast, slow = [], []
        for _ in range(max(3, repeats // 4)):
            fast += seconds(ours, 4)
            slow += seconds(plain, 1)
        print(f"GAP {phase:5}  ours       {in_ms(fast)}")
        print(f"           plain loop {in_ms(slow)}")
        print(f"           {median(slow) / median(fast):.0f} times faster, gradients within {apart:.1e} (float32)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time per step of each loss, and of GAP against a plain loop.")
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread"
    )
    print(f"{NUM_ROIS} RoIs, {NUM_CLASSES} categories, {NUM_FOREGROUND} foreground; median (min to max) of {repeats}\n")
    time_losses(repeats)
    print()
    time_gap(repeats)


if __name__ == "__main__":
    main()
