"""Hyperparameter tuning of long-tail object detectors.

Names are imported when they are first used, so that a loss needs neither Ray nor MLflow.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lttune.api.exporting import Exported, export_best
    from lttune.api.searching import resume_search, run_search
    from lttune.api.specs import load_spec
    from lttune.api.studies import Study, open_study
    from lttune.api.training import evaluate, train
    from lttune.data.glyphs import GlyphConfig, make_glyphs
    from lttune.data.lvis import load_annotations
    from lttune.detectors import BACKENDS, build_detector
    from lttune.engine.config import Recipe, TrainConfig
    from lttune.engine.run import TrainingRun
    from lttune.errors import LttuneError
    from lttune.evaluation import EvaluationReport, evaluate_files
    from lttune.export.run_folder import Trained
    from lttune.losses import LOSSES, ClassificationLoss, LossHyperparameters, build_loss
    from lttune.spec.search import SearchSpec
    from lttune.tuning.search import SearchEnd
    from lttune.tuning.trainable import MethodTrainable
    from lttune.types import StudyResult, TrialResult

    __version__: str

__all__ = [
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

_HOMES = {
    "lttune.api.exporting": ("Exported", "export_best"),
    "lttune.api.searching": ("resume_search", "run_search"),
    "lttune.api.specs": ("load_spec",),
    "lttune.api.studies": ("Study", "open_study"),
    "lttune.api.training": ("evaluate", "train"),
    "lttune.data.glyphs": ("GlyphConfig", "make_glyphs"),
    "lttune.data.lvis": ("load_annotations",),
    "lttune.detectors": ("BACKENDS", "build_detector"),
    "lttune.engine.config": ("Recipe", "TrainConfig"),
    "lttune.engine.run": ("TrainingRun",),
    "lttune.errors": ("LttuneError",),
    "lttune.evaluation": ("EvaluationReport", "evaluate_files"),
    "lttune.export.run_folder": ("Trained",),
    "lttune.losses": ("LOSSES", "ClassificationLoss", "LossHyperparameters", "build_loss"),
    "lttune.spec.search": ("SearchSpec",),
    "lttune.tuning.search": ("SearchEnd",),
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
