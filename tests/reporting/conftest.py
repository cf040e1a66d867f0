"""Studies as a search leaves them: real storages, invented measurements."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lttune.reporting.records import StudyRecord, read_record
from lttune.spec.load import load_spec
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.types import TrialResult
from trainables import recipe_of

MakeStudy = Callable[..., StudyRecord]


def _metrics(ap: float) -> dict[str, float]:
    return {"AP": ap, "AP_r": ap - 20 + ap % 7, "AP_c": ap + 2, "AP_f": ap + 10 - ap % 5}


def _confirmation(arms: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Values of AP by arm, one for each seed, at 20 detections; 2 more at 300."""

    def measured(ap: float) -> dict[str, dict[str, float | None]]:
        found = {str(limit): {**_metrics(ap + more)} for limit, more in ((20, 0), (300, 2))}
        return {limit: {**values, "AP_r": None} for limit, values in found.items()}

    return {
        "seeds": [1, 2, 3, 4, 5],
        "limits": [20, 300],
        "runs": {arm: {str(seed): measured(ap) for seed, ap in enumerate(aps, 1)} for arm, aps in arms.items()},
        "stage1": measured(30.0),
    }


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """Makes a study of a method with the given AP of each trial on the tune half; None is a failed trial."""

    def make(
        name: str,
        *,
        method: str = "acsl",
        tuned: Sequence[float | None] = (50.0, 52.0, 51.0, 49.0),
        arms: Mapping[str, Sequence[float]] | None = None,
        overrides: Mapping[str, str] | None = None,
        num_trials: int | None = None,
    ) -> StudyRecord:
        trials = str(num_trials or max(1, len(tuned)))
        spec = load_spec(method, overrides={"search.trials": trials, **(overrides or {})})
        folder = StudyFolder(tmp_path / "runs" / name)
        folder.create(spec)
        store = StudyStore(folder, spec, is_driver=True) if tuned else None
        for number, ap in enumerate(tuned):
            assert store is not None
            params = store.parameters(store.ask())
            common: dict[str, Any] = {"number": number, "params": params, "seconds": 2.0 + number}
            if ap is None:
                store.tell(TrialResult(state="FAIL", metrics={}, reason="the loss became nan", **common))
                continue
            for epoch in (1, 2):
                store.report(number, epoch, ap - 2 + epoch)
            store.tell(TrialResult(state="COMPLETE", metrics=_metrics(ap), fidelity="cached", **common))
        if arms is not None:
            folder.confirmation.write_text(json.dumps(_confirmation(arms)))
        return read_record(folder, recipe_of)

    return make
