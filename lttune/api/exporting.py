"""A trial as files that other work goes on from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lttune.api.shared import OUT, losses_with, recipes_with, say_nothing
from lttune.api.studies import Study, open_study
from lttune.engine.assets import Progress
from lttune.engine.cache import cache_folder
from lttune.engine.prepare import prepare, prepare_data
from lttune.errors import InputError
from lttune.export.detectron2_config import write_detectron2
from lttune.export.folder import (
    MetricsByHalf,
    check_export,
    check_folder,
    export_trial,
    export_values,
    new_folder,
    with_defaults,
)
from lttune.export.mmdet import REPOSITORIES, mmdet_config
from lttune.export.origin import Origin, require_transfer, sampled_of_optimizer
from lttune.spec import load
from lttune.spec.search import SearchSpec
from lttune.types import TrialResult

if TYPE_CHECKING:
    from lttune.tuning.trainable import MethodTrainable

Format = Literal["lttune", "detectron2", "mmdet"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote.

    Attributes:
        trial: the number of the trial.
        to: the folder.
        files: what lies in it, relative to it.
        metrics: by half of the validation images, where they were measured.
        left_out: values that the format has no place for, and other differences, a line each.
    """

    trial: int
    to: Path
    files: tuple[str, ...]
    metrics: MetricsByHalf | None
    left_out: tuple[str, ...]


def export_best(
    study: str,
    to: str | Path,
    *,
    trial: int | Literal["best"] = "best",
    format: Format = "lttune",
    on: str | None = None,
    transfer: bool = False,
    out: str | Path = OUT,
    data_root: str | Path | None = None,
    trainable: "type[MethodTrainable] | None" = None,
    progress: Progress = say_nothing,
) -> Exported:
    """Write a trial to a folder that other work goes on from.

    Args:
        study: name in `out`, or path.
        to: a folder that does not exist or is empty.
        trial: its number, or the best one.
        format: `lttune`: configuration, weights and metrics; `detectron2`: a lazy configuration and weights;
            `mmdet`: a configuration of the method's official repository.
        on: a setting that the values are written for in the place of the study's own.
        transfer: allow that the values were found on something else than they are written for.
        data_root: where relative data paths of `on` start; else LTTUNE_DATA.

    Raises:
        StudyError: there is no such study or trial.
        InputError: the folder holds something, the values would be transferred without `transfer`, or the format does
            not know the method.
    """
    opened, to = open_study(study, out=out, trainable=trainable), Path(to)
    check_folder(to)
    cache = cache_folder(Path(out))
    export = _Export(opened, opened.trial(trial), to, cache, progress, is_transfer_allowed=transfer)
    if format == "mmdet":
        return export.mmdet(on, data_root=data_root)
    if on is not None:
        other = load.load_spec(
            opened.folder.spec_path,
            on=on,
            data_root=data_root,
            recipe_of=recipes_with(trainable),
            losses=losses_with(trainable),
        )
        return export.transferred(_for_another(other, export), name=on, format=format)
    return export.detectron2() if format == "detectron2" else export.lttune()


class _Export:
    """One trial on its way to a folder."""

    def __init__(
        self, study: Study, trial: TrialResult, to: Path, cache: Path, progress: Progress, *, is_transfer_allowed: bool
    ) -> None:
        self.study, self.trial = study, trial
        self.config = study.spec.resolve(trial.params)
        self.title = f"trial {trial.number} of study {study.name}"
        self._to, self._cache, self._progress = to, cache, progress
        self._is_transfer_allowed = is_transfer_allowed

    def lttune(self) -> Exported:
        folder, checkpoint = self.study.folder, self.study.folder.checkpoint(self.trial.number)
        check_export(self.trial, study=folder.name, checkpoint=checkpoint, to=self._to)
        assets = prepare(self.config, self._cache, self._progress)
        folder.look_at_report(by="export", what=f"trial {self.trial.number} to {self._to.name}")
        metrics = export_trial(
            self.study.spec,
            self.trial,
            study=folder.name,
            assets=assets,
            checkpoint=checkpoint,
            to=self._to,
            progress=self._progress,
        )
        return self._done(metrics=metrics)

    def detectron2(self) -> Exported:
        folder, checkpoint = self.study.folder, self.study.folder.checkpoint(self.trial.number)
        check_export(self.trial, study=folder.name, checkpoint=checkpoint, to=self._to)
        assets = prepare(self.config, self._cache, self._progress)
        origin = self._origin()
        with new_folder(self._to) as made:
            left_out = write_detectron2(
                self.config, assets, origin, checkpoint=checkpoint, folder=made, at=self._to.absolute()
            )
        return self._done(left_out=left_out)

    def mmdet(self, on: str | None, *, data_root: str | Path | None) -> Exported:
        if on is not None:
            raise InputError("--on does not go with --format mmdet, whose configurations name their data themselves.")
        origin = self._origin()
        repository = REPOSITORIES.get(self.config.method)
        if repository is not None and (origin.is_generated or origin.num_categories not in repository.num_categories):
            origin = self._origin(transferred_to=f"LVIS by {repository.url}")
        made = mmdet_config(
            self.config, origin, sampled=self.trial.params, fixed=self.study.spec.fixed_for(self.config.method)
        )
        with new_folder(self._to) as folder:
            path = folder / made.file_name
            path.parent.mkdir(parents=True)
            path.write_text(made.text, encoding="utf-8")
        return self._done(left_out=made.left_out)

    def transferred(self, spec: SearchSpec, *, name: str, format: Format) -> Exported:
        origin = self._origin(transferred_to=" ".join(spec.on.description.split()) or f"the setting {name}")
        if format == "lttune":
            export_values(spec, self.trial, origin, to=self._to)
            return self._done()
        config = spec.resolve(self.trial.params)
        assets = prepare(config, self._cache, self._progress)
        with new_folder(self._to) as folder:
            left_out = write_detectron2(config, assets, origin, checkpoint=None, folder=folder, at=self._to.absolute())
        return self._done(left_out=left_out)

    def _origin(self, *, transferred_to: str | None = None) -> Origin:
        spec = self.study.spec
        if transferred_to is not None:
            found_on = " ".join(spec.on.description.split()) or "another setting"
            require_transfer(self._is_transfer_allowed, what=self.title, found_on=found_on, to=transferred_to)
        assets = prepare_data(self.config.data, self._cache, self._progress)
        return Origin.of(
            self.config, assets, trial=self.title, setting=spec.on.description, transferred_to=transferred_to
        )

    def _done(self, *, metrics: MetricsByHalf | None = None, left_out: Sequence[str] = ()) -> Exported:
        files = sorted(str(path.relative_to(self._to)) for path in self._to.rglob("*") if path.is_file())
        return Exported(
            trial=self.trial.number, to=self._to, files=tuple(files), metrics=metrics, left_out=tuple(left_out)
        )


def _for_another(spec: SearchSpec, export: _Export) -> SearchSpec:
    """The study's search on another setting.

    Of its fixed values the loss's alone are meant for any setting. Sampled values of an optimiser bring that optimiser
    with them.
    """
    fixed: dict[str, Any] = {key: value for key, value in spec.fixed.items() if key.startswith("loss.")}
    if sampled_of_optimizer(export.trial.params):
        found = {f"optim.{name}": value for name, value in asdict(export.config.optim).items()}
        fixed |= {key: value for key, value in found.items() if key not in spec.space}
    return with_defaults(spec.model_copy(update={"fixed": fixed}), export.trial.params)
