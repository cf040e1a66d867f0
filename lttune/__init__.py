"""Hyperparameter tuning of long-tail object detectors.

Names are imported when they are first used, so that a loss needs neither Ray nor MLflow.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lttune.data.glyphs import GlyphConfig, make_glyphs
    from lttune.data.lvis import load_annotations
    from lttune.detectors import BACKENDS, build_detector
    from lttune.engine.config import TrainConfig
    from lttune.engine.run import TrainingRun
    from lttune.errors import LttuneError
    from lttune.evaluation import EvaluationReport, evaluate_files
    from lttune.export.folder import evaluate_folder, export_trial
    from lttune.losses import LOSSES, build_loss
    from lttune.spec.load import load_spec
    from lttune.spec.search import SearchSpec
    from lttune.tuning.search import SearchEnd, resume_search, run_search
    from lttune.tuning.study import StudyFolder, find_study
    from lttune.tuning.trainable import MethodTrainable
    from lttune.types import StudyResult, TrialResult

    __version__: str

__all__ = [
    "BACKENDS",
    "LOSSES",
    "EvaluationReport",
    "GlyphConfig",
    "LttuneError",
    "MethodTrainable",
    "SearchEnd",
    "SearchSpec",
    "StudyFolder",
    "StudyResult",
    "TrainConfig",
    "TrainingRun",
    "TrialResult",
    "__version__",
    "build_detector",
    "build_loss",
    "evaluate_files",
    "evaluate_folder",
    "export_trial",
    "find_study",
    "load_annotations",
    "load_spec",
    "make_glyphs",
    "resume_search",
    "run_search",
]

_HOMES = {
    "lttune.data.glyphs": ("GlyphConfig", "make_glyphs"),
    "lttune.data.lvis": ("load_annotations",),
    "lttune.detectors": ("BACKENDS", "build_detector"),
    "lttune.engine.config": ("TrainConfig",),
    "lttune.engine.run": ("TrainingRun",),
    "lttune.errors": ("LttuneError",),
    "lttune.evaluation": ("EvaluationReport", "evaluate_files"),
    "lttune.export.folder": ("evaluate_folder", "export_trial"),
    "lttune.losses": ("LOSSES", "build_loss"),
    "lttune.spec.load": ("load_spec",),
    "lttune.spec.search": ("SearchSpec",),
    "lttune.tuning.search": ("SearchEnd", "resume_search", "run_search"),
    "lttune.tuning.study": ("StudyFolder", "find_study"),
    "lttune.tuning.trainable": ("MethodTrainable",),
    "lttune.types": ("StudyResult", "TrialResult"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("lttune")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lttune' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
