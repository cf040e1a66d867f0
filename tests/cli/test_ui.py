"""`lttune ui`: which server it starts, on what."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lttune.cli.ui import copy_journal

LINE = b'{"op_code":0}\n'


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study whose driver is writing its second line."""
    folder = tmp_path / "lttune_runs" / "acsl"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text("method: acsl\n")
    (folder / "optuna.journal").write_bytes(LINE + b'{"op_')
    return folder


def test_a_copy_has_whole_lines_alone(study: Path, tmp_path: Path) -> None:
    copy_journal(study / "optuna.journal", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == LINE
    copy_journal(tmp_path / "absent", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b""


def test_without_a_store_there_is_nothing_to_show(lttune: Callable[..., Any], tmp_path: Path) -> None:
    ran = lttune("ui")
    assert (ran.code, ran.out) == (2, "")
    assert f"there is no MLflow store {tmp_path}/lttune_runs/mlflow.db" in ran.err


@pytest.mark.parametrize("arguments", [["--optuna"], ["acsl"]])
def test_optuna_and_a_study_belong_together(arguments: list[str], lttune: Callable[..., Any]) -> None:
    ran = lttune("ui", *arguments)
    assert ran.code == 2
    assert "lttune ui --optuna STUDY" in ran.err


def test_an_unknown_study_is_named(study: Path, lttune: Callable[..., Any]) -> None:
    assert "Did you mean 'acsl'?" in lttune("ui", "--optuna", "acls").err


def test_a_missing_dashboard_is_one_sentence(
    study: Path, lttune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sysconfig.get_path", lambda name: "")
    ran = lttune("ui", "--optuna", "acsl")
    assert ran.code == 2
    assert "optuna-dashboard is not installed" in ran.err
    assert ran.err.rstrip().endswith("-m pip install optuna-dashboard")


def test_the_dashboard_gets_a_copy_on_this_machine_only(
    study: Path, lttune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "optuna-dashboard"
    # It notes how it was started, and writes to the journal it was given, as a dashboard may.
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/started\ncp "$1" {tmp_path}/seen\necho changed >> "$1"\n')
    program.chmod(0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(programs))
    before = (study / "optuna.journal").read_bytes()
    ran = lttune("ui", "--optuna", "acsl", "--port", 8123)
    assert (ran.code, ran.out) == (0, "http://127.0.0.1:8123   (Ctrl-C ends it)\n")
    copy, *options = (tmp_path / "started").read_text().split()
    assert options == ["--host", "127.0.0.1", "--port", "8123"]
    assert (tmp_path / "seen").read_bytes() == LINE
    assert (study / "optuna.journal").read_bytes() == before
    assert not Path(copy).exists()
