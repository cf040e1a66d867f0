"""The schema of a search space and of the setting that it runs on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lttune.detectors.base import DetectorConfig
from lttune.engine.config import (
    DataConfig,
    EvaluationConfig,
    InputConfig,
    OptimConfig,
    Precision,
    Recipe,
    SamplerConfig,
    ScheduleConfig,
    Stage1Config,
    TrainConfig,
    check_shares,
    plain,
)
from lttune.errors import InputError, SpecError, did_you_mean
from lttune.evaluation.report import HEADLINE
from lttune.losses import LOSSES
from lttune.losses.base import ClassificationLoss
from lttune.spec.faults import validate, validation_faults
from lttune.spec.parameters import Choice, FixedValue, FrozenMap, Parameter, Parameters, Scalar
from lttune.types import Fidelity

# The sections of a TrainConfig whose keys a search may sample or fix. What all trials share (data, input, stage 1, the
# rest of the detector) and what would be chosen by the metric it distorts (thresholds, max_dets) is the setting's.
_SECTIONS: dict[str, type] = {"optim": OptimConfig, "schedule": ScheduleConfig, "sampler": SamplerConfig}
_SINGLE_KEYS = ("recipe.parts", "recipe.classifier_start", "detector.num_rois", "detector.positive_fraction")
_OF_THE_SETTING = ("data", "detector", "input", "stage1", "evaluation", "fidelity", "precision", "resources")

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
        cpus, gpus, memory_gb: of each data-parallel worker; `gpus` is a fraction of one GPU, or a whole number.
        workers: data-parallel processes of a trial, which share its batches.
        labels: what the nodes of a cluster that take trials must be labelled with, by name.
        max_gpus: GPUs that all trials together hold at most.
        max_concurrent: trials at a time; by default as many as the resources allow, on a cluster 8 at most.
        slice_s: seconds between reports and checkpoints of a trial.
        silent_s: a trial that reports nothing for so many seconds is restarted; by default none is. The first slice
            counts with the start of its process and an evaluation with its epoch.
        max_failures: restarts of a trial after errors of its own; lost workers and nodes do not count.
    """

    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    memory_gb: float | None = Field(default=None, gt=0)
    workers: int = Field(default=1, ge=1)
    labels: FrozenMap[str] = Field(default_factory=lambda: MappingProxyType({}))
    max_gpus: float | None = Field(default=None, gt=0)
    max_concurrent: int | None = Field(default=None, ge=1)
    slice_s: float = Field(default=2.0, ge=0.01)
    silent_s: float | None = Field(default=None, ge=1)
    max_failures: int = Field(default=2, ge=0)

    @field_validator("gpus")
    @classmethod
    def _check_gpus(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError(
                f"{gpus:g} is neither a fraction of one GPU nor a whole number; use {int(gpus)} or {int(gpus) + 1}."
            )
        return gpus

    @model_validator(mode="after")
    def _check_bounds(self) -> "Resources":
        if self.max_gpus is not None and self.max_gpus < self.gpus * self.workers:
            raise ValueError(
                f"max_gpus is {self.max_gpus:g}, but one trial takes {self.gpus * self.workers:g}; raise it to that."
            )
        return self


class Full(_Model):
    """What replaces a setting's stage 2 where more trains than the heads on top of box features."""

    optim: OptimConfig
    schedule: ScheduleConfig
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)


class Setting(_Model):
    """Where a search runs: everything that all of its trials share.

    Attributes:
        recipe: whose values stage 2 takes: the setting's `own`, or those that each method was published with, on
            mmdetection's training recipe or on detectron2's.
        is_verified: whether a search has been run on it to the end.
        lr_batch_size: images per batch that the setting's learning rates are for; each is scaled linearly to its
            schedule's batch, once. Without it they are taken as they stand.
        optim, schedule, sampler: of stage 2 on a frozen trunk, and of all of it where `full` is not given.
        full: of stage 2 where more trains.
        precision: what detectors compute in while they train, stage 1 included.
    """

    description: str = ""
    recipe: Literal["own", "mmdet", "d2"] = "own"
    is_verified: bool = True
    data: DataConfig
    detector: DetectorConfig
    input: InputConfig = Field(default_factory=InputConfig)
    stage1: Stage1Config
    lr_batch_size: int | None = Field(default=None, ge=1)
    optim: OptimConfig
    schedule: ScheduleConfig
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    full: Full | None = None
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    fidelity: Literal["auto", "cached", "full"] = "auto"
    precision: Precision = "float32"
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


# What a method trains and how, by its name.
RecipeOf = Callable[[str], Recipe]
# Losses by method: `LOSSES`, and those of a caller who has some of his own.
Losses = Mapping[str, type[ClassificationLoss]]


def classifier_alone(method: str) -> Recipe:
    """The recipe of a method that nobody has given one."""
    return Recipe(parts=("classifier",))


@dataclass(frozen=True)
class Draw:
    """One value that trials sample.

    Attributes:
        name: unique in the search, under which a storage knows it; the key, unless that has alternatives.
        key: `method` or a dotted key of a TrainConfig.
    """

    name: str
    key: str
    parameter: Parameter

    def is_active(self, values: Mapping[str, Scalar]) -> bool:
        """Whether it is sampled, given what was sampled before it, by key."""
        return self.parameter.is_active(values)


class SearchSpec(_Model):
    """One search: a method, or several to choose from, a space, and the setting it runs on."""

    schema_version: Literal[1] = Field(alias="schema")
    method: str | None = None
    on: Setting
    objective: Objective = Field(default_factory=Objective)
    search: SearchOptions = Field(default_factory=SearchOptions)
    fixed: FrozenMap[FixedValue] = Field(default_factory=lambda: MappingProxyType({}))
    space: FrozenMap[Parameters]
    # In a tuple, since pydantic would make a method of a bare function.
    _recipe_of: tuple[RecipeOf] = PrivateAttr(default=(classifier_alone,))
    _losses: Losses = PrivateAttr(default=LOSSES)

    @field_validator("method")
    @classmethod
    def _check_method(cls, method: str | None, info: ValidationInfo) -> str | None:
        losses: Losses = info.context or LOSSES
        if method is not None and method not in losses:
            raise ValueError(f"'{method}' is not a method.{did_you_mean(method, sorted(losses))}")
        return method

    # ---- what is searched

    def with_recipes(self, recipe_of: RecipeOf) -> "SearchSpec":
        """The same search with what each method trains, which no YAML file says."""
        spec = self.model_copy()
        spec._recipe_of = (recipe_of,)
        return spec

    def with_losses(self, losses: Losses) -> "SearchSpec":
        """The same search with losses that may be a caller's own; every trial's configuration carries its class."""
        spec = self.model_copy()
        spec._losses = losses
        return spec

    @property
    def losses(self) -> Losses:
        """The losses that a method may name."""
        return self._losses

    @property
    def methods(self) -> tuple[str, ...]:
        """The method, or all that are sampled, the default first."""
        if self.method is not None:
            return (self.method,)
        sampled = self.space.get("method")
        if not isinstance(sampled, Choice):
            return ()
        return tuple(str(name) for name in sorted(sampled.values, key=lambda name: name != sampled.first))

    def method_of(self, params: Mapping[str, Scalar]) -> str:
        """The method of a trial with these sampled values."""
        return str(params.get("method", self.methods[0]))

    def draws(self) -> Iterator[Draw]:
        """What trials sample, in order; a condition names earlier ones only."""
        for key, found in self.space.items():
            alternatives = found if isinstance(found, tuple) else (found,)
            for parameter in alternatives:
                name = key if len(alternatives) == 1 else f"{key} [{_conditions_text(parameter)}]"
                yield Draw(name, key, parameter)

    def defaults(self, method: str | None = None) -> dict[str, Scalar]:
        """A method's published values: each parameter's default, else the setting's value, else the published one."""
        values: dict[str, Scalar] = {}
        chosen: dict[str, Scalar] = {"method": method or self.methods[0]} if "method" in self.space else {}
        known = _flat(self.resolve(chosen).to_dict())
        for draw in self.draws():
            if draw.key == "method":
                values |= chosen
            elif draw.is_active(values):
                values[draw.key] = _default(draw.parameter, known.get(draw.key, draw.parameter.ends[0]))
        return values

    def initial(self) -> list[dict[str, Scalar]]:
        """The trials that are run first: every method's published values; trial 0 is the first."""
        return [self.defaults(method) for method in self.methods]

    def optimiser_only(self, params: Mapping[str, Scalar]) -> dict[str, Scalar] | None:
        """These values with every loss value put back to the published one; None where nothing is between the two."""
        published = self.defaults(self.method_of(params))
        values: dict[str, Scalar] = {}
        for draw in self.draws():
            if draw.is_active(values):
                is_of_loss = draw.key.startswith("loss.")
                values[draw.key] = published[draw.key] if is_of_loss else params.get(draw.key, published.get(draw.key))
        return None if values in (dict(params), published) else values

    # ---- what a trial runs

    def resolve(self, params: Mapping[str, Scalar], recipe_of: RecipeOf | None = None) -> TrainConfig:
        """The complete configuration of a trial with these sampled values.

        Args:
            params: values by key; what is not named takes its fixed value, else what the method was published with
                where the setting's recipe is not its own, else the setting's value.
            recipe_of: what each method trains; by default as given to `with_recipes`.

        Raises:
            SpecError: a key is unknown or a value out of its range.
        """
        setting, method = self.on, self.method_of(params)
        given = {key: value for key, value in {**self.fixed_for(method), **params}.items() if key != "method"}
        for key in given:
            self.check_key(key, method)
        recipe, fidelity = self._recipe_at(method, (recipe_of or self._recipe_of[0])(method), given)
        stage2 = setting if recipe.trains_heads_alone or setting.full is None else setting.full
        sections: dict[str, tuple[type, dict[str, Any]]] = {
            "loss": (self._losses[method].Hyperparameters, {}),
            "recipe": (Recipe, asdict(replace(recipe, published=()))),
            "detector": (DetectorConfig, asdict(setting.detector)),
            **{name: (kind, asdict(getattr(stage2, name))) for name, kind in _SECTIONS.items()},
        }
        published = dict(recipe.published) if setting.recipe != "own" else {}
        if setting.recipe == "d2" and "sampler.rounding" in published:
            published["sampler.rounding"] = "stochastic"  # its sampler knows no other
        given.pop("recipe.parts", None)
        if fidelity == "cached":
            published.pop("recipe.start", None)  # features are those of the stage-1 model
        for key, value in {**published, **given}.items():
            section, *groups, name = key.split(".")
            values = sections[section][1]
            for group in groups:
                values = values.setdefault(group, {})
            values[name] = value
        optim, schedule = sections["optim"][1], sections["schedule"][1]
        if "optim.lr" not in given:
            optim["lr"] *= self._lr_factor(schedule["batch_size"])
        faults: list[str] = []
        built: dict[str, Any] = {}
        for section, (kind, values) in sections.items():
            try:
                built[section] = validate(_adapter(kind), kind, values)
            except ValidationError as error:
                faults += [fault.line for fault in validation_faults(error, kind, section)]
        if faults:
            raise SpecError("\n".join(faults))
        try:
            check_shares(built["schedule"], setting.resources.workers)
        except InputError as error:
            raise SpecError(str(error)) from error
        stage1 = setting.stage1
        factor = self._lr_factor(stage1.schedule.batch_size)
        return TrainConfig(
            method=method,
            data=setting.data,
            stage1=replace(stage1, optim=replace(stage1.optim, lr=stage1.optim.lr * factor)),
            input=setting.input,
            evaluation=setting.evaluation,
            fidelity=fidelity,
            seed=self.search.seed,
            precision=setting.precision,
            has_own_values=setting.recipe == "own",
            own_loss=None if LOSSES.get(method) is self._losses[method] else self._losses[method],
            **built,
        )

    def fixed_for(self, method: str) -> dict[str, FixedValue]:
        """The fixed values; where several methods are searched, a value that some do not have is the others' alone."""
        others = [other for other in self.methods if other != method]
        return {
            key: value
            for key, value in self.fixed.items()
            if key in self.searchable_keys(method) or not any(key in self.searchable_keys(other) for other in others)
        }

    def searchable_keys(self, method: str) -> tuple[str, ...]:
        """Every dotted key that a search of this method may sample or fix."""
        return searchable_keys(method, self._losses)

    def _lr_factor(self, batch_size: Any) -> float:
        """The linear scaling rule; 1 where the setting's rates are to be taken as they stand."""
        asked = self.on.lr_batch_size
        return batch_size / asked if asked is not None and isinstance(batch_size, int) else 1.0

    def check_key(self, key: str, method: str) -> None:
        """Refuse a key that a search of this method may not set.

        Raises:
            SpecError: with the nearest known key.
        """
        known = self.searchable_keys(method)
        if key in known:
            return
        section = key.split(".")[0]
        if section in _OF_THE_SETTING:
            raise SpecError(f"{key} belongs to the setting, which all trials share; it cannot be searched.")
        group = key.rpartition(".")[0] or key
        near = get_close_matches(key, known, n=1)
        candidates = near or [name for name in known if name.rpartition(".")[0] == group] or [*_SECTIONS, "loss"]
        raise SpecError(f"{key} is not a value of {method}.{did_you_mean(key, candidates)}")

    def _recipe_at(self, method: str, recipe: Recipe, given: Mapping[str, FixedValue]) -> tuple[Recipe, Fidelity]:
        """What a trial trains and on what, once the setting and a fixed `recipe.parts` are known."""
        if "recipe.parts" in given:
            recipe = _with_parts(recipe, given["recipe.parts"])
        asked, detector = self.on.fidelity, self.on.detector
        moves_boxes = "box_regressor" in recipe.cached_parts
        if asked == "cached" and moves_boxes and detector.is_cascade:
            raise SpecError(
                f"fidelity is cached, but {method} trains the box regressor, which moves the boxes that later stages "
                f"of {detector.name} see; use `fidelity: full`."
            )
        if asked == "cached" and "recipe.parts" in given and recipe.parts != recipe.cached_parts:
            raise SpecError(
                f"fidelity is cached, but recipe.parts is {given['recipe.parts']}; use `fidelity: full`, or leave "
                "recipe.parts out."
            )
        # The published settings have heads for each category; there, what trains more than classifiers does it in full.
        is_cheap = not moves_boxes or (detector.has_class_agnostic_heads and not detector.is_cascade)
        fidelity = asked if asked != "auto" else recipe.fidelity if is_cheap else "full"
        return (replace(recipe, parts=recipe.cached_parts) if fidelity == "cached" else recipe), fidelity

    def notes(self) -> list[str]:
        """What somebody should know before a search runs, a line each."""
        setting = self.on
        lines = [] if setting.is_verified else ["not verified on LVIS: nobody has run this setting to its end"]
        if setting.detector.weights is None and setting.data.glyphs is None and setting.stage1.checkpoint is None:
            lines.append("starts from random weights; give detector.weights or stage1.checkpoint")
        for method in self.methods:
            config = self.resolve({"method": method} if "method" in self.space else {})
            lines.append(f"{method}: {_extent(config)}")
            if setting.lr_batch_size is not None and "optim.lr" not in self.fixed:
                lines.append(
                    f"{method}: learning rate {config.optim.lr:g} at a batch of {config.schedule.batch_size}, scaled "
                    f"linearly from a batch of {setting.lr_batch_size}"
                )
        return lines

    def to_document(self) -> dict[str, Any]:
        """Plain values of a YAML file that loads as this spec, the setting in full."""
        document: dict[str, Any] = plain(self.model_dump(by_alias=True, exclude_unset=False))
        document["space"] = {
            key: [_dumped(one) for one in found] if isinstance(found, tuple) else _dumped(found)
            for key, found in self.space.items()
        }
        return document


def searchable_keys(method: str, losses: Losses = LOSSES) -> tuple[str, ...]:
    """Every dotted key that a search of this method may sample or fix."""
    kind: type = losses[method].Hyperparameters
    return _keys_with(kind)


@cache
def _keys_with(hyperparameters: type) -> tuple[str, ...]:
    keys = list(_leaves("loss", hyperparameters))
    keys += [f"{section}.{field.name}" for section, kind in _SECTIONS.items() for field in fields(kind)]
    return (*keys, *_SINGLE_KEYS)


def _leaves(prefix: str, kind: type) -> Iterator[str]:
    """Dotted keys of a dataclass's single values; a nested dataclass is a group of keys."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        key, annotation = f"{prefix}.{field.name}", hints[field.name]
        if isinstance(annotation, type) and is_dataclass(annotation):
            yield from _leaves(key, annotation)
        else:
            yield key


def _default(parameter: Parameter, otherwise: Scalar) -> Scalar:
    is_given = "default" in parameter.model_fields_set
    return (
        parameter.default
        if is_given and (parameter.default is not None or isinstance(parameter, Choice))
        else otherwise
    )


def _conditions_text(parameter: Parameter) -> str:
    return ", ".join(f"{key}={'|'.join(map(str, allowed))}" for key, allowed in parameter.when.items())


def _dumped(parameter: Parameter) -> Any:
    return plain(parameter.model_dump(by_alias=True, exclude_unset=True))


def _with_parts(recipe: Recipe, parts: FixedValue) -> Recipe:
    """A recipe that trains other parts: `all`, or part names, as a list or with commas between them."""
    listed = parts if isinstance(parts, tuple) else [part.strip() for part in str(parts).split(",")]
    named: Any = "all" if parts == "all" else tuple(map(str, listed))
    changed = replace(recipe, parts=named)
    if changed.trains_heads_alone:
        return replace(changed, cached_parts=named, fidelity="cached")
    return replace(changed, fidelity="full")


def _extent(config: TrainConfig) -> str:
    """How long a trial is: `2 epochs, 374 iterations of 8, 2,992 images`."""
    schedule, glyphs = config.schedule, config.data.glyphs
    epochs = f"{schedule.epochs} epoch{'s' if schedule.epochs > 1 else ''}"
    num_images = glyphs.num_train_images if glyphs else config.data.num_train_images
    is_repeating = config.sampler.name == "repeat" and schedule.epoch_images is None
    num_images = schedule.epoch_images or num_images
    if num_images is None:
        return f"{epochs} of all training images, {schedule.batch_size} in an iteration"
    iterations = schedule.epochs * (num_images // schedule.batch_size)
    repeats = ", before images are repeated" if is_repeating else ""
    return (
        f"{epochs}, {iterations:,} iterations of {schedule.batch_size}, "
        f"{iterations * schedule.batch_size:,} images{repeats}"
    )


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Plain nested values by dotted key."""
    flat: dict[str, Scalar] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
