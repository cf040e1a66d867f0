"""The schema of a search space and of the setting that it runs on."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from lttune.detectors.base import DetectorConfig
from lttune.engine.config import (
    DataConfig,
    EvaluationConfig,
    InputConfig,
    OptimConfig,
    Recipe,
    SamplerConfig,
    ScheduleConfig,
    Stage1Config,
    TrainConfig,
    plain,
)
from lttune.errors import SpecError, did_you_mean
from lttune.losses import LOSSES
from lttune.spec.parameters import Parameter, Scalar
from lttune.types import Fidelity

# The sections of a TrainConfig whose keys a search may sample or fix. What all trials share (data, input, stage 1, the
# rest of the detector) and what would be chosen by the metric it distorts (thresholds, max_dets) is the setting's.
_SECTIONS: dict[str, type] = {"optim": OptimConfig, "schedule": ScheduleConfig, "sampler": SamplerConfig}
_SINGLE_KEYS: dict[str, type] = {
    "recipe.classifier_start": Recipe,
    "detector.num_rois": DetectorConfig,
    "detector.positive_fraction": DetectorConfig,
}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Resources(_Model):
    """What one trial takes, and how its work is sliced.

    Attributes:
        max_concurrent: trials at a time; by default as many as the resources allow.
        slice_s: seconds between reports and checkpoints of a trial.
        max_failures: restarts of a trial whose worker died.
    """

    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    max_concurrent: int | None = Field(default=None, ge=1)
    slice_s: float = Field(default=2.0, gt=0)
    max_failures: int = Field(default=2, ge=0)


class Setting(_Model):
    """Where a search runs: everything that all of its trials share."""

    description: str = ""
    data: DataConfig
    detector: DetectorConfig
    input: InputConfig = Field(default_factory=InputConfig)
    stage1: Stage1Config
    optim: OptimConfig
    schedule: ScheduleConfig
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    fidelity: Literal["auto", "cached", "full"] = "auto"
    resources: Resources = Field(default_factory=Resources)


class Objective(_Model):
    """The metric of a trial's last epoch on the tune half, and its direction."""

    metric: str = "AP"
    mode: Literal["max", "min"] = "max"


class Asha(_Model):
    """Successive halving; the first rung must lie where the schedule makes early stopping fair."""

    first_rung_epochs: int = Field(ge=1)
    reduction_factor: float = Field(default=3, gt=1)


class SearchOptions(_Model):
    """How the space is searched; `trials` counts failed ones too."""

    trials: int = Field(default=24, ge=1)
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = Field(default=0, ge=0)
    asha: Asha | None = None


class SearchSpec(_Model):
    """One search: a method, a space, and the setting it runs on."""

    schema_version: Literal[1] = Field(alias="schema")
    method: str
    on: Setting
    objective: Objective = Field(default_factory=Objective)
    search: SearchOptions = Field(default_factory=SearchOptions)
    fixed: dict[str, Scalar] = Field(default_factory=dict)
    space: dict[str, Parameter]

    def defaults(self) -> dict[str, Scalar]:
        """Trial 0: each parameter's default, else the setting's value, else the published one."""
        values = _flat(self.resolve({}))
        for key, parameter in self.space.items():
            if "default" in parameter.model_fields_set and parameter.default is not None:
                values[key] = parameter.default
            elif key not in values:
                values[key] = parameter.ends[0]
        return {key: values[key] for key in self.space}

    def resolve(self, params: Mapping[str, Scalar], recipe: Recipe | None = None) -> TrainConfig:
        """The complete configuration of a trial with these sampled values.

        Args:
            params: values by dotted key; what is not named takes its fixed value, else the setting's.
            recipe: what the method trains; the classifier alone by default.

        Raises:
            SpecError: a key is unknown or a value out of its range.
        """
        setting = self.on
        recipe = recipe or Recipe(parts=("classifier",))
        loss_type = LOSSES[self.method].Hyperparameters
        sections: dict[str, tuple[type, dict[str, Any]]] = {
            "loss": (loss_type, {}),
            "recipe": (Recipe, asdict(recipe)),
            "detector": (DetectorConfig, asdict(setting.detector)),
            **{name: (kind, asdict(getattr(setting, name))) for name, kind in _SECTIONS.items()},
        }
        for key, value in {**self.fixed, **params}.items():
            self.check_key(key)
            section, _, name = key.partition(".")
            sections[section][1][name] = value
        built = {name: _adapter(kind).validate_python(values) for name, (kind, values) in sections.items()}
        return TrainConfig(
            method=self.method,
            data=setting.data,
            stage1=setting.stage1,
            input=setting.input,
            evaluation=setting.evaluation,
            fidelity=self._fidelity(recipe),
            seed=self.search.seed,
            **built,
        )

    def check_key(self, key: str) -> None:
        """Refuse a key that a search may not set.

        Raises:
            SpecError: with the nearest known key.
        """
        known = searchable_keys(self.method)
        if key in known:
            return
        if key.split(".")[0] in {"evaluation", "data", "stage1", "input", "detector"}:
            raise SpecError(f"{key} belongs to the setting, which all trials share; it cannot be searched.")
        raise SpecError(f"{key} is not a value of {self.method}.{did_you_mean(key, known)}")

    def _fidelity(self, recipe: Recipe) -> Fidelity:
        if self.on.fidelity != "auto":
            return self.on.fidelity
        detector = self.on.detector
        has_masks = detector.name.split("_")[0] != "faster"
        is_agnostic = detector.class_agnostic_box and (detector.class_agnostic_mask or not has_masks)
        return recipe.fidelity if is_agnostic else "full"

    def to_document(self) -> dict[str, Any]:
        """Plain values of a YAML file that loads as this spec, the setting in full."""
        document: dict[str, Any] = plain(self.model_dump(by_alias=True, exclude_unset=False))
        document["space"] = {
            key: plain(parameter.model_dump(by_alias=True, exclude_unset=True)) for key, parameter in self.space.items()
        }
        return document


def searchable_keys(method: str) -> list[str]:
    """Every dotted key that a search of this method may sample or fix."""
    keys = [f"loss.{field.name}" for field in fields(LOSSES[method].Hyperparameters)]
    keys += [f"{section}.{field.name}" for section, kind in _SECTIONS.items() for field in fields(kind)]
    return keys + list(_SINGLE_KEYS)


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _flat(config: TrainConfig) -> dict[str, Scalar]:
    return {
        f"{section}.{name}": value
        for section, values in config.to_dict().items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
