"""The schema of a search space and of the setting that it runs on."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    field_validator,
)

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
from lttune.evaluation.report import HEADLINE
from lttune.losses import LOSSES
from lttune.spec.faults import validate, validation_faults
from lttune.spec.parameters import Choice, Parameter, Scalar, SingleValue
from lttune.types import Fidelity

# The sections of a TrainConfig whose keys a search may sample or fix. What all trials share (data, input, stage 1, the
# rest of the detector) and what would be chosen by the metric it distorts (thresholds, max_dets) is the setting's.
_SECTIONS: dict[str, type] = {"optim": OptimConfig, "schedule": ScheduleConfig, "sampler": SamplerConfig}
_SINGLE_KEYS = ("recipe.classifier_start", "detector.num_rois", "detector.positive_fraction")
_OF_THE_SETTING = ("data", "detector", "input", "stage1", "evaluation", "fidelity", "resources")

# What a trial reports.
METRICS: tuple[str, ...] = (
    *HEADLINE,
    *(
        f"{iou_type}/{name}"
        for iou_type in ("segm", "bbox")
        for name in (*HEADLINE, "AP50", "AP75", "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl")
    ),
)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
    slice_s: float = Field(default=2.0, ge=0.01)
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

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"'{metric}' is not a metric.{did_you_mean(metric, METRICS)}")
        return metric


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


_Value = TypeVar("_Value")
# A frozen model would still let its dictionaries be changed.
_Frozen = Annotated[Mapping[str, _Value], AfterValidator(MappingProxyType), PlainSerializer(dict)]


class SearchSpec(_Model):
    """One search: a method, a space, and the setting it runs on."""

    schema_version: Literal[1] = Field(alias="schema")
    method: str
    on: Setting
    objective: Objective = Field(default_factory=Objective)
    search: SearchOptions = Field(default_factory=SearchOptions)
    fixed: _Frozen[SingleValue] = Field(default_factory=lambda: MappingProxyType({}))
    space: _Frozen[Parameter]

    @field_validator("method")
    @classmethod
    def _check_method(cls, method: str) -> str:
        if method not in LOSSES:
            raise ValueError(f"'{method}' is not a method.{did_you_mean(method, sorted(LOSSES))}")
        return method

    def defaults(self) -> dict[str, Scalar]:
        """Trial 0: each parameter's default, else the setting's value, else the published one."""
        values = _flat(self.resolve({}).to_dict())
        for key, parameter in self.space.items():
            if "default" in parameter.model_fields_set and (
                parameter.default is not None or isinstance(parameter, Choice)
            ):
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
            section, *groups, name = key.split(".")
            values = sections[section][1]
            for group in groups:
                values = values.setdefault(group, {})
            values[name] = value
        faults: list[str] = []
        built: dict[str, Any] = {}
        for section, (kind, values) in sections.items():
            try:
                built[section] = validate(_adapter(kind), kind, values)
            except ValidationError as error:
                faults += [fault.line for fault in validation_faults(error, kind, section)]
        if faults:
            raise SpecError("\n".join(faults))
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
        section = key.split(".")[0]
        if section in _OF_THE_SETTING:
            raise SpecError(f"{key} belongs to the setting, which all trials share; it cannot be searched.")
        group = key.rpartition(".")[0] or key
        near = get_close_matches(key, known, n=1)
        candidates = near or [name for name in known if name.rpartition(".")[0] == group] or [*_SECTIONS, "loss"]
        raise SpecError(f"{key} is not a value of {self.method}.{did_you_mean(key, candidates)}")

    def _fidelity(self, recipe: Recipe) -> Fidelity:
        asked, detector = self.on.fidelity, self.on.detector
        is_agnostic = detector.class_agnostic_box and (detector.class_agnostic_mask or not has_masks(detector))
        if asked == "cached" and not is_agnostic:
            raise SpecError(
                f"fidelity is cached, but boxes or masks of {detector.name} depend on the category; set "
                "detector.class_agnostic_box and detector.class_agnostic_mask, or use `fidelity: full`."
            )
        if asked == "cached" and recipe.parts != ("classifier",):
            trained = "everything" if recipe.parts == "all" else ", ".join(recipe.parts)
            raise SpecError(f"fidelity is cached, but {self.method} trains {trained}; use `fidelity: full`.")
        if asked != "auto":
            return asked
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
    keys = list(_leaves("loss", LOSSES[method].Hyperparameters))
    keys += [f"{section}.{field.name}" for section, kind in _SECTIONS.items() for field in fields(kind)]
    return keys + list(_SINGLE_KEYS)


def has_masks(detector: DetectorConfig) -> bool:
    """Whether the named architecture has a mask head."""
    return not detector.name.startswith("faster_")


def _leaves(prefix: str, kind: type) -> Iterator[str]:
    """Dotted keys of a dataclass's single values; a nested dataclass is a group of keys."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        key, annotation = f"{prefix}.{field.name}", hints[field.name]
        if isinstance(annotation, type) and is_dataclass(annotation):
            yield from _leaves(key, annotation)
        else:
            yield key


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Plain nested values by dotted key."""
    flat: dict[str, Scalar] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
