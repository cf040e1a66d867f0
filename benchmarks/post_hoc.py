"""Post-hoc logit adjustment of cross-entropy with everything re-trained: a control of the README's second table.

python -m benchmarks.post_hoc [--out lttune_runs] [--workers 2]

Cross-entropy is trained as trial 0 of `baseline_full`, with the search's seed and with the five seeds of a
confirmation. The strength tau is chosen on the tune half by the first, and the others are measured with it on the
report half.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from lttune.evaluation.report import HEADLINE, headline
from lttune.tuning.confirm import NUM_SEEDS

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def measure(seed: int, taus: tuple[float, ...], half: str, cache: Path) -> list[dict[str, float]]:
    """Headline metrics of one training at each tau."""
    import torch

    from lttune.engine.prepare import prepare
    from lttune.engine.run import TrainingRun
    from lttune.losses import build_loss
    from lttune.spec.load import load_spec
    from trainables import recipe_of

    torch.set_num_threads(1)
    spec = load_spec("baseline_full", recipe_of=recipe_of, overrides={"search.seed": str(seed)})
    config = spec.resolve(spec.defaults())
    assets = prepare(config, cache, lambda *_: None, num_threads=1)
    run = TrainingRun(config, assets, judged_on=None)
    run.advance()
    found = []
    for tau in taus:
        loss = build_loss(
            "logit_adjustment",
            num_classes=assets.train.num_categories,
            frequencies=assets.frequencies,
            tau=0.0,
            post_hoc_tau=tau,
        )
        for stage in run.detector.stages:
            stage.loss = loss
        found.append(headline(run.evaluate(run.judge(half)).metrics))  # type: ignore[arg-type]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("lttune_runs"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    cache = arguments.out.absolute() / "cache"
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        first = pool.submit(measure, 0, TAUS, "tune", cache)
        # All strengths, so that nobody has to wait for the choice; only the chosen one is read.
        others = [pool.submit(measure, seed, TAUS, "report", cache) for seed in range(1, NUM_SEEDS + 1)]
        tuned = [metrics["AP"] for metrics in first.result()]
        best = int(np.argmax(tuned))
        print("tune half, AP by tau:", ", ".join(f"{t:g} {ap:.1f}" for t, ap in zip(TAUS, tuned, strict=True)))
        runs = [other.result()[best] for other in others]
    print(f"report half at tau {TAUS[best]:g}, {NUM_SEEDS} seeds, mean and 95 % interval:")
    for name in HEADLINE:
        values = np.array([run[name] for run in runs])
        half = 2.776 * values.std(ddof=1) / len(values) ** 0.5
        print(f"{name} {values.mean():.1f} [{values.mean() - half:.1f}, {values.mean() + half:.1f}]")
    print("AP by seed:", ", ".join(f"{run['AP']:.3f}" for run in runs))


if __name__ == "__main__":
    main()
