"""The methods against their controls on the embedded data: the tables of the README.

python -m benchmarks.methods [--out lttune_runs] [--run]

With `--run` it runs the searches that are not there yet: minutes each where heads train on cached features, a quarter
of an hour each where everything trains, two CPU cores. Then it prints one table for either kind of stage 2, since a
method is compared only with controls that had the same stage 2, trials and range of the learning rate.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Study, and what `lttune search` is given to make it.
HEADS: dict[str, tuple[str, ...]] = {
    "ce": ("baseline",),
    "ce_box": ("baseline", "--set", "recipe.parts=[classifier, box_regressor]"),
    "bce": ("baseline", "--set", "method=sigmoid_cross_entropy"),
    "la": ("logit_adjustment", "--set", "loss.post_hoc_tau=0"),
    "la_post_hoc": ("logit_adjustment", "--set", "loss.tau=0"),
    "acsl": ("acsl",),
    "loce": ("loce",),
}
EVERYTHING: dict[str, tuple[str, ...]] = {
    "ce_full": ("baseline_full",),
    "bce_full": ("baseline_full", "--set", "method=sigmoid_cross_entropy"),
    "la_full": ("logit_adjustment_full",),
    "ecm": ("ecm",),
    "rog": ("rog",),
    "seesaw": ("seesaw",),
}
TITLES = {
    "ce": "CE re-trained",
    "ce_box": "CE re-trained, box regressor too",
    "bce": "BCE re-trained",
    "la": "CE, logit adjustment in training",
    "la_post_hoc": "CE, logit adjustment post hoc",
    "ce_full": "CE re-trained",
    "bce_full": "BCE re-trained",
    "la_full": "CE, logit adjustment in training",
    "acsl": "**ACSL**",
    "loce": "**LOCE**",
    "ecm": "**ECM**",
    "rog": "**ROG**",
    "seesaw": "**Seesaw**",
}
METRICS = ("AP", "AP_r", "AP_c", "AP_f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("lttune_runs"))
    parser.add_argument("--run", action="store_true", help="run the searches that are not there yet")
    arguments = parser.parse_args()
    if arguments.run:
        for study, given in (HEADS | EVERYTHING).items():
            command = ["resume", study] if (arguments.out / study).exists() else ["search", *given, "--study", study]
            subprocess.run([*_LTTUNE, *command, "--out", str(arguments.out)], check=True)
    for title, studies, controls in (
        ("The heads train, on cached features", HEADS, ("ce", "ce_box", "bce", "la", "la_post_hoc")),
        ("Everything trains, on images", EVERYTHING, ("ce_full", "bce_full", "la_full")),
    ):
        known = [study for study in studies if (arguments.out / study / "confirmation.json").exists()]
        print(f"\n{title}\n")
        if known:
            print(_table(_compared(known, [one for one in controls if one in known], arguments.out)))


_LTTUNE = (sys.executable, "-c", "from lttune.cli import main; main()")


def _compared(studies: Sequence[str], controls: Sequence[str], out: Path) -> dict[str, Any]:
    options = [text for control in controls for text in ("--control", control)]
    printed = subprocess.run(
        [*_LTTUNE, "compare", *studies, *options, "--out", str(out), "--json"], check=True, capture_output=True
    ).stdout
    document: dict[str, Any] = json.loads(printed)
    return document


def _table(document: Mapping[str, Any]) -> str:
    studies = {study["name"]: study for study in document["studies"]}
    differences = {(found["study"], found["control"]): found["values"] for found in document["differences"]}
    first = next(iter(studies.values()))
    lines = [
        "| | trial 0: AP | best: AP | AP_r | AP_c | AP_f | of the gain in AP: optimiser | loss |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        f"| stage-1 model as it is | {first['stage1']['AP']:.1f} | | "
        f"{' | '.join(format(first['stage1'][name], '.1f') for name in METRICS[1:])} | | |",
    ]
    for name, study in studies.items():
        arms = study["arms"]
        best = arms.get("best") or arms["trial_0"]
        cells = [_spread(arms["trial_0"]["AP"]), *(_spread(best[metric]) for metric in METRICS)]
        is_first = study["best"] == 0
        gains = ["best is trial 0", ""] if is_first else [_gain(study["gains"], part) for part in ("optimiser", "loss")]
        lines.append(f"| {TITLES[name]} | {' | '.join([*cells, *gains])} |")
    controls = [name for name in studies if any(control == name for _, control in differences)]
    lines += ["", "Best minus the best of a control, AP, five paired seeds, 95 % interval:", ""]
    lines += [f"| | {' | '.join(TITLES[name].replace('*', '') for name in controls)} |"]
    lines += ["|---" * (len(controls) + 1) + "|"]
    for name in studies:
        if TITLES[name].startswith("**"):
            cells = [_difference(differences.get((name, control))) for control in controls]
            lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"


def _gain(gains: Mapping[str, Any], part: str) -> str:
    return _difference(gains.get(part) or {})


def _difference(found: Mapping[str, Any] | None) -> str:
    values = (found or {}).get("AP")
    if not values or values.get("mean") is None:
        return ""
    if values["low"] == values["high"] == 0:
        return "the same values"
    interval = f"[{values['low']:+.1f}, {values['high']:+.1f}]"
    return f"{values['mean']:+.1f} {interval}" if values["is_shown"] else f"no difference shown {interval}"


if __name__ == "__main__":
    main()
