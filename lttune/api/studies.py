"""Studies to read; nothing here needs Ray."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lttune.api.shared import OUT, losses_with, recipes_with
from lttune.spec.search import SearchSpec
from lttune.tuning.study import StudyFolder, StudyStore, find_study
from lttune.types import StudyResult, TrialResult

if TYPE_CHECKING:
    from lttune.tuning.trainable import MethodTrainable


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study to read, running or not; every look at `result` reads its storage anew."""

    folder: StudyFolder
    spec: SearchSpec

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def result(self) -> StudyResult:
        """All of its trials, and which one is best."""
        return StudyStore(self.folder, self.spec, is_driver=False).results()

    def trial(self, which: int | Literal["best"] = "best") -> TrialResult:
        """A COMPLETE trial.

        Raises:
            StudyError: there is no such trial, or it is not COMPLETE.
        """
        return self.folder.read_trial(self.spec, str(which))


def open_study(study: str, *, out: str | Path = OUT, trainable: "type[MethodTrainable] | None" = None) -> Study:
    """A study by its name in `out`, or by its path.

    Raises:
        StudyError: there is no such study.
    """
    folder = find_study(study, Path(out))
    spec = folder.load_spec(needs_files=False, recipe_of=recipes_with(trainable), losses=losses_with(trainable))
    return Study(folder=folder, spec=spec)
