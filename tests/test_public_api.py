"""What `import lttune` promises, and that it costs nothing before it is used."""

import subprocess
import sys

import pytest

import lttune

NAMES = [
    "BACKENDS",
    "LOSSES",
    "ClassificationLoss",
    "EvaluationReport",
    "Exported",
    "GlyphConfig",
    "LossHyperparameters",
    "LttuneError",
    "MethodTrainable",
    "Recipe",
    "SearchEnd",
    "SearchSpec",
    "Study",
    "StudyResult",
    "TrainConfig",
    "Trained",
    "TrainingRun",
    "TrialResult",
    "__version__",
    "build_detector",
    "build_loss",
    "evaluate",
    "evaluate_files",
    "export_best",
    "load_annotations",
    "load_spec",
    "make_glyphs",
    "open_study",
    "resume_search",
    "run_search",
    "train",
]


def test_names_are_the_written_ones() -> None:
    assert lttune.__all__ == NAMES
    assert set(NAMES) <= set(dir(lttune))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_leads_somewhere(name: str) -> None:
    found = getattr(lttune, name)
    assert name == "__version__" or name.isupper() or found.__name__ == name


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'lttune' has no attribute 'serch'"):
        _ = lttune.serch


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import lttune", ["torch", "ray", "optuna", "mlflow", "pydantic"]),
        ("import lttune.losses.acsl; lttune.build_loss", ["ray", "optuna", "mlflow", "pydantic"]),
        ("from lttune import load_spec", ["ray", "optuna", "mlflow"]),
        ("from lttune import evaluate, open_study, train", ["ray", "mlflow"]),
    ],
)
def test_importing_loads_only_what_it_needs(statement: str, absent: list[str]) -> None:
    check = f"import sys; {statement}; print(sorted(set({absent}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
