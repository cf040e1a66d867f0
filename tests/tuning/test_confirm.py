"""Which runs the confirmation of a study asks for, what it keeps of them, and how it goes on."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from lttune.engine.config import Recipe
from lttune.spec.search import SearchSpec
from lttune.tuning.confirm import ArmRun, Confirmation
from lttune.tuning.listener import SilentListener
from lttune.tuning.study import StudyStore
from lttune.types import TrialResult

FOUND = {"20": {"AP": 40.0, "AP_r": float("nan"), "AP_c": 40.0, "AP_f": 40.0}}
SEEDS = [8, 9, 10, 11, 12]  # the search's is 7


class Scene:
    """A study of three trials that nobody has run, and its confirmation."""

    def __init__(self, store: StudyStore, confirmation_of: Callable[[StudyStore], Confirmation]) -> None:
        self.store = store
        self._confirmation_of = confirmation_of
        self.confirmation = confirmation_of(store)
        self.params = [store.parameters(store.ask()) for _ in range(3)]

    def end(self, *values: float | None) -> None:
        """The trials end, in order, with these APs; None fails."""
        for number, value in enumerate(values):
            state: Any = "FAIL" if value is None else "COMPLETE"
            metrics = {} if value is None else {"AP": value}
            self.store.tell(TrialResult(number=number, state=state, params={}, metrics=metrics))

    def take(self, *, is_final: bool) -> list[ArmRun]:
        """Every run that is handed out now."""
        runs = []
        while run := self.confirmation.next_run(self.store.results(), is_final=is_final):
            runs.append(run)
        return runs

    def reopen(self) -> None:
        """As a resumed search does."""
        self.confirmation = self._confirmation_of(self.store)

    def file(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.store.folder.confirmation.read_text())
        return state

    def looks(self) -> list[str]:
        lines = (self.store.folder.path / "report_looks.jsonl").read_text().splitlines()
        return [json.loads(line)["what"] for line in lines]


@pytest.fixture
def scene(
    open_store: Callable[..., StudyStore], spec: SearchSpec, confirmation_of: Callable[[StudyStore], Confirmation]
) -> Scene:
    return Scene(open_store(spec), confirmation_of)


def seeds_by_arm(runs: list[ArmRun]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for run in runs:
        found.setdefault(run.arm, []).append(run.seed)
    return found


def test_without_a_complete_trial_nobody_looks(scene: Scene) -> None:
    assert scene.take(is_final=False) == []
    scene.end(None, None, None)
    assert scene.take(is_final=True) == []
    assert scene.confirmation.is_whole(scene.store.results())
    assert not scene.store.folder.confirmation.exists()
    assert not (scene.store.folder.path / "report_looks.jsonl").exists()


def test_what_needs_no_winner_is_run_while_the_last_trials_are(scene: Scene) -> None:
    scene.end(10.0)
    runs = scene.take(is_final=False)
    assert seeds_by_arm(runs) == {"stage1": [7], "trial_0": SEEDS}
    assert {tuple(run.params.items()) for run in runs} == {tuple(scene.store.spec.defaults().items())}
    assert scene.looks() == ["confirmation of the stage-1 model and trial 0"]


def test_the_best_trial_and_its_optimiser_follow(scene: Scene) -> None:
    scene.end(10.0)
    scene.take(is_final=False)
    scene.end(10.0, 5.0, 20.0)
    runs = scene.take(is_final=True)
    assert seeds_by_arm(runs) == {"best": SEEDS, "optimiser_only": SEEDS}
    params = {run.arm: run.params for run in runs}
    assert params["best"] == scene.params[2]
    assert params["optimiser_only"] == {**scene.params[2], "loss.score_threshold": 0.7}
    assert scene.looks()[1:] == ["confirmation of trial 2", "confirmation of trial 2 with published loss values"]


def test_where_trial_0_is_best_there_is_nothing_else(scene: Scene) -> None:
    scene.end(30.0, 5.0, 20.0)
    assert seeds_by_arm(scene.take(is_final=True)) == {"stage1": [7], "trial_0": SEEDS}


def test_where_the_loss_alone_was_searched_there_is_no_third_arm(
    open_store: Callable[..., StudyStore], spec: SearchSpec, confirmation_of: Callable[[StudyStore], Confirmation]
) -> None:
    loss_alone = {key: parameter for key, parameter in spec.space.items() if key.startswith("loss.")}
    scene = Scene(open_store(spec.model_copy(update={"space": loss_alone})), confirmation_of)
    scene.end(10.0, 20.0, 5.0)
    assert set(seeds_by_arm(scene.take(is_final=True))) == {"stage1", "trial_0", "best"}


def test_results_are_kept_and_the_rest_is_asked_for_again(scene: Scene) -> None:
    scene.end(10.0, 5.0, 20.0)
    runs = scene.take(is_final=True)
    for run in runs[:4]:
        scene.confirmation.record(run.arm, run.seed, found=FOUND)
    state = scene.file()
    assert state["seeds"] == SEEDS
    assert state["limits"] == [20, 300]
    assert state["stage1"] == {"20": {"AP": 40.0, "AP_r": None, "AP_c": 40.0, "AP_f": 40.0}}
    assert list(state["runs"]["trial_0"]) == ["8", "9", "10"]
    scene.reopen()
    assert not scene.confirmation.is_whole(scene.store.results())
    again = scene.take(is_final=True)
    assert again == runs[4:]
    for run in again:
        scene.confirmation.record(run.arm, run.seed, found=FOUND)
    scene.reopen()
    assert scene.confirmation.is_whole(scene.store.results())
    assert scene.take(is_final=True) == []
    assert len(scene.looks()) == 3


def test_a_failed_run_is_kept_with_its_reason_and_not_repeated(scene: Scene) -> None:
    scene.end(30.0, 5.0, 20.0)
    first, second, *others = scene.take(is_final=True)
    scene.confirmation.record(first.arm, first.seed, failure="its worker died")
    scene.confirmation.record(second.arm, second.seed, failure="the loss became nan")
    for run in others:
        scene.confirmation.record(run.arm, run.seed, found=FOUND)
    scene.reopen()
    assert scene.confirmation.is_whole(scene.store.results())
    assert scene.file()["failures"] == {"stage1": {"7": "its worker died"}, "trial_0": {"8": "the loss became nan"}}
    assert list(scene.file()["runs"]["trial_0"]) == ["9", "10", "11", "12"]


def test_the_confirmation_of_an_older_version_lacks_an_arm_alone(scene: Scene) -> None:
    scene.end(10.0, 5.0, 20.0)
    by_seed = {str(seed): FOUND for seed in SEEDS}
    state = {"seeds": SEEDS, "limits": [20, 300], "stage1": FOUND, "runs": {"trial_0": by_seed, "best": by_seed}}
    scene.store.folder.confirmation.write_text(json.dumps(state))
    scene.reopen()
    assert seeds_by_arm(scene.take(is_final=True)) == {"optimiser_only": SEEDS}
    assert scene.looks() == ["confirmation of trial 2 with published loss values"]


def test_a_checkpoint_lives_as_long_as_its_run(scene: Scene) -> None:
    scene.end(30.0, 5.0, 20.0)
    run = scene.take(is_final=True)[1]
    checkpoint = scene.confirmation.checkpoint(run)
    assert checkpoint == scene.store.folder.path / "confirmation" / "trial_0-8" / "run.pt"
    checkpoint.parent.mkdir(parents=True)
    for name in ("run.pt", "run.memory-12.pt", ".run.pt.123.456"):
        (checkpoint.parent / name).touch()
    scene.confirmation.record(run.arm, run.seed, found=FOUND)
    assert not checkpoint.parent.exists()


def test_progress_counts_the_runs_that_are_wanted_so_far(
    open_store: Callable[..., StudyStore], spec: SearchSpec
) -> None:
    heard: list[tuple[str, int, int]] = []

    class Listening(SilentListener):
        def progress(self, what: str, done: int, total: int) -> None:
            heard.append((what, done, total))

    scene = Scene(open_store(spec), lambda store: Confirmation(store.folder, store.spec, Listening()))
    scene.end(10.0)
    first = scene.take(is_final=False)[0]
    scene.confirmation.record(first.arm, first.seed, found=FOUND)
    scene.end(10.0, 5.0, 20.0)
    scene.take(is_final=True)
    assert heard == [("confirmation", *at) for at in ((0, 6), (1, 6), (1, 16), (1, 16))]


def test_without_a_stage_1_there_is_no_stage_1_model_to_measure(
    open_store: Callable[..., StudyStore], spec: SearchSpec, confirmation_of: Callable[[StudyStore], Confirmation]
) -> None:
    one_stage = spec.with_recipes(lambda method: Recipe(parts="all", fidelity="full", start="weights"))
    scene = Scene(open_store(one_stage), confirmation_of)
    scene.end(50.0, 40.0, 30.0)
    assert [(run.arm, run.seed) for run in scene.take(is_final=True)] == [("trial_0", seed) for seed in SEEDS]
