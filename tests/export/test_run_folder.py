"""One run without a search: goes on where it was broken off, bit for bit, and ends as an exported folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from safetensors.torch import load_file

from lttune.engine.run import EpochRecord
from lttune.errors import InputError, StudyError
from lttune.export.folder import evaluate_folder
from lttune.export.run_folder import Trained, train_in

Scene = Any  # of conftest.py
PARAMS = {"loss.score_threshold": 0.4, "optim.lr": 0.02}


def train(folder: Path, scene: Scene, params: dict[str, Any] = PARAMS, **hooks: Any) -> Trained:
    options: dict[str, Any] = {"cache": scene.cache, "progress": lambda *_: None, **hooks}
    return train_in(folder, scene.spec, params, **options)


@pytest.fixture(scope="module")
def finished(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("run") / "mine", scene)


def test_it_is_the_trial_of_these_values(finished: Trained, scene: Scene) -> None:
    ours, exported = (load_file(folder / "weights.safetensors") for folder in (finished.folder, scene.folder))
    assert all(ours[name].equal(exported[name]) for name in exported)
    assert repr(finished.metrics) == repr(scene.metrics)
    assert not finished.was_finished
    provenance = json.loads((finished.folder / "provenance.json").read_text())
    assert (provenance["trial"], provenance["params"]) == ("run mine", PARAMS)
    assert not list(finished.folder.glob("*.pt"))


def test_the_folder_is_an_exported_one(finished: Trained, scene: Scene) -> None:
    again = evaluate_folder(finished.folder, split="report", cache=scene.cache, progress=lambda *_: None)
    assert repr(again) == repr(finished.metrics["report"])


def test_again_it_says_so_and_does_nothing(finished: Trained, scene: Scene) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.folder.iterdir() if path.name != "train.lock"}
    again = train(finished.folder, scene)
    assert again.was_finished
    assert repr(again.metrics) == repr(finished.metrics)
    assert before == {p.name: p.stat().st_mtime_ns for p in finished.folder.iterdir() if p.name != "train.lock"}


def test_broken_off_and_gone_on_with_it_is_the_same(
    finished: Trained, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lttune.engine.train._SLICE_S", 0.0)  # a slice is one iteration
    monkeypatch.setattr("lttune.engine.train._SAVE_EVERY_S", 0.0)
    monkeypatch.setattr("lttune.engine.train._SAVE_SHARE", 0)

    def stop(what: str, done: int, total: int) -> None:
        if what == "training" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "mine", scene, progress=stop)
    assert (tmp_path / "mine" / "run.pt").is_file()
    assert not (tmp_path / "mine" / "metrics.json").exists()
    seen: list[tuple[str, int]] = []
    epochs: list[EpochRecord] = []
    again = train(
        tmp_path / "mine", scene, progress=lambda what, done, _: seen.append((what, done)), on_epoch=epochs.append
    )
    first = next(done for what, done in seen if what == "training")
    assert first == 2  # the last one saved
    assert repr(again.metrics) == repr(finished.metrics)
    assert [record.epoch for record in epochs] == [1]
    ours, whole = (load_file(folder / "weights.safetensors") for folder in (again.folder, finished.folder))
    assert all(ours[name].equal(whole[name]) for name in whole)


def test_a_damaged_checkpoint_begins_again(
    finished: Trained, scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "run.json").write_bytes((finished.folder / "run.json").read_bytes())
    (folder / "run.pt").write_bytes(b"bad")
    assert repr(train(folder, scene).metrics) == repr(finished.metrics)
    assert "not a readable checkpoint" in caplog.text


def test_other_values_need_another_folder(finished: Trained, scene: Scene) -> None:
    with pytest.raises(InputError, match=r"holds a run with optim\.lr = 0\.02, not 0\.03; name another folder"):
        train(finished.folder, scene, {**PARAMS, "optim.lr": 0.03})


def test_a_folder_of_something_else_is_left_alone(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds thesis\.tex and no run; name another folder"):
        train(tmp_path, scene)
    assert {path.name for path in tmp_path.iterdir()} <= {"thesis.tex", "train.lock"}


def test_two_processes_do_not_train_in_one_folder(scene: Scene, tmp_path: Path) -> None:
    with FileLock(tmp_path / "train.lock"), pytest.raises(StudyError, match="another process trains in"):
        train(tmp_path, scene)
