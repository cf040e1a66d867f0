"""A small search from Python: python examples/run_search.py [OUT]

OUT is the folder of the study and of the cache, `lttune_runs` by default. Run again, it goes on with the study.
"""

import sys
from pathlib import Path

import lttune

SETTING = Path(__file__).parent / "on" / "tiny_glyphs.yaml"


def main(out: str = "lttune_runs") -> None:
    """Search three trials of ACSL, print them, and export the best."""
    spec = lttune.load_spec("acsl", on=str(SETTING), overrides={"search.trials": 3})
    end = lttune.run_search(spec, "from_python", out=out, resume=True)
    for trial in end.result.trials:
        print(
            f"trial {trial.number} {trial.state}: AP {trial.metrics.get('AP', float('nan')):.2f} {dict(trial.params)}"
        )
    best = lttune.open_study("from_python", out=out).trial("best")
    print(f"best: trial {best.number}, AP {best.metrics['AP']:.2f} on the tune half")
    folder = Path(out) / "best_from_python"
    if not folder.exists():
        lttune.export_best("from_python", folder, out=out)
    print(f"report half: AP {lttune.evaluate(folder, out=out)['AP']:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
