"""The glyph setting's reference learning rate: plain cross-entropy re-trained at several rates, on the tune half.

python -m benchmarks.reference_lr [--out FOLDER] [--method cross_entropy]

Every method's trial 0 runs at this rate, so that a gain of a loss is not a gain of a rate.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory

import torch

from lttune.engine.prepare import prepare
from lttune.engine.run import TrainingRun
from lttune.losses import LOSSES
from lttune.spec.load import load_spec
from trainables import TRAINABLES

_RATES = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05)
_SEEDS = (100, 101, 102)


def sweep(cache: Path, method: str) -> None:
    """Print mean and standard deviation over the seeds at each rate."""
    spec = load_spec("acsl")
    config = spec.resolve(spec.defaults(), TRAINABLES["acsl"].recipe("acsl"))
    assets = prepare(config, cache, lambda *_: None, num_threads=os.cpu_count())
    torch.set_num_threads(1)
    config = replace(
        config,
        method=method,
        loss=LOSSES[method].Hyperparameters(),
        evaluation=replace(config.evaluation, every_epochs=config.schedule.epochs),
    )
    for rate in _RATES:
        found = []
        for seed in _SEEDS:
            run = TrainingRun(replace(config, optim=replace(config.optim, lr=rate), seed=seed), assets)
            run.advance()
            found.append(run.history[-1].metrics)
        columns = {name: [metrics[name] for metrics in found] for name in ("AP", "AP_r", "AP_c", "AP_f")}
        values = "   ".join(f"{name} {fmean(column):.2f} ± {stdev(column):.2f}" for name, column in columns.items())
        print(f"{method} lr {rate:<6} {values}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder whose cache is used and kept")
    parser.add_argument("--method", choices=sorted(LOSSES), default="cross_entropy")
    arguments = parser.parse_args()
    if arguments.out:
        sweep(arguments.out / "cache", arguments.method)
    else:
        with TemporaryDirectory() as folder:
            sweep(Path(folder), arguments.method)


if __name__ == "__main__":
    main()
