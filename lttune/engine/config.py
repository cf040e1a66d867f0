"""Everything one training run needs, as frozen values; ranges are checked on construction, for Python callers too."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from lttune.data.frequency import MAX_COMMON, MAX_RARE
from lttune.data.glyphs import GlyphConfig
from lttune.detectors.base import PARTS, DetectorConfig, PartName
from lttune.errors import InputError, did_you_mean
from lttune.losses.base import ClassificationLoss, LossHyperparameters
from lttune.types import Fidelity

# How far the boxes of cached memory rows are jittered; see `lttune.engine.jittered`.
CACHED_JITTER = 1 / 6

Precision = Literal["float32", "bf16", "fp16"]


def _require(condition: bool, field_name: str, value: object, advice: str) -> None:
    if not condition:
        raise InputError(f"{field_name} is {value}; {advice}.")


@dataclass(frozen=True, kw_only=True)
class SplitPaths:
    """Where one split lies: an annotation file and the folder its file names start from."""

    annotations: str
    images: str


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Either generated glyphs, or the two splits of LVIS- or COCO-format data.

    Attributes:
        max_rare: most training images of a rare category.
        max_common: most training images of a common category.
        skip_bad_images: whether images that are missing, unreadable or of another size than stated are looked for and
            left out; without, the first one met ends the run.
        num_train_images: of given data, where it is known before the file is read: for what a setting tells of itself.
    """

    glyphs: GlyphConfig | None = None
    train: SplitPaths | None = None
    val: SplitPaths | None = None
    num_train_images: int | None = None
    max_rare: int = MAX_RARE
    max_common: int = MAX_COMMON
    skip_bad_images: bool = False

    def __post_init__(self) -> None:
        _require(self.max_rare >= 0, "data.max_rare", self.max_rare, "use 0 or more images")
        _require(
            self.max_common > self.max_rare, "data.max_common", self.max_common, f"use more than {self.max_rare} images"
        )
        paths = (self.train is not None) + (self.val is not None)
        given = (self.glyphs is not None, paths)
        _require(
            given in {(True, 0), (False, 2)}, "data", "incomplete", "give either `glyphs`, or both `train` and `val`"
        )


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How images enter the detector.

    Attributes:
        short_px: length of the shorter side; several values are drawn from in training and the largest is used at test
            time; empty keeps the size of the file.
        max_long_px: limit of the longer side.
        flip: probability of a horizontal flip in training; 0 where mirroring changes the category.
        num_loaders: processes of each worker that load images ahead of training; with 0 a thread of the worker does.
            Batches are the same.
    """

    short_px: tuple[int, ...] = ()
    max_long_px: int = 1333
    flip: float = 0.0
    num_loaders: int = 0

    def __post_init__(self) -> None:
        _require(0 <= self.num_loaders <= 64, "input.num_loaders", self.num_loaders, "use 0 to 64 processes")
        _require(all(s >= 16 for s in self.short_px), "input.short_px", self.short_px, "use at least 16 px")
        _require(0 <= self.flip <= 1, "input.flip", self.flip, "use a probability in [0, 1]")

    def identity(self) -> dict[str, Any]:
        """All that shapes what the detector meets, as plain values."""
        values = asdict(self)
        del values["num_loaders"]
        return values


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser values.

    Attributes:
        lr: base learning rate, before warmup and decay, for the schedule's batch size.
        clip_norm: limit of the global L2 norm of the gradient; None for no limit.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float
    weight_decay: float = 1e-4
    momentum: float = 0.9
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _require(0 < self.lr < 100, "optim.lr", self.lr, "use a value above 0 and below 100")
        _require(0 <= self.weight_decay < 1, "optim.weight_decay", self.weight_decay, "use a value in [0, 1)")
        _require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "use a value in [0, 1)")
        _require(self.clip_norm is None or self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "use a value above 0")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Length of a run and its learning rate over time.

    Attributes:
        policy: `steps` multiplies by `drop_factor` after each epoch of `drop_epochs`; `one_cycle` rises over
            `warmup_fraction` of the run by a half cosine and falls to zero by another.
        epoch_images: images that make an epoch, drawn from the sampler's order; by default all of it.
        images_per_process: images of a batch that one process of the published runs had, for losses whose draws or
            comparisons stay within a process; by default all of them.
        warmup_iters: iterations of linear warmup from `warmup_ratio` times the base rate; of `steps` only.
        accumulate: parts that a batch is trained in, one after the other, where all of it does not fit the memory; an
            iteration is still one step of the optimiser on the whole batch, at the same rate.
    """

    epochs: int
    batch_size: int
    epoch_images: int | None = None
    policy: Literal["steps", "one_cycle"] = "steps"
    drop_epochs: tuple[int, ...] = ()
    drop_factor: float = 0.1
    warmup_iters: int = 0
    warmup_ratio: float = 1e-3
    warmup_fraction: float = 0.1
    images_per_process: int | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "schedule.epochs", self.epochs, "use at least 1")
        _require(self.batch_size >= 1, "schedule.batch_size", self.batch_size, "use at least 1")
        _require(self.accumulate >= 1, "schedule.accumulate", self.accumulate, "use at least 1")
        _require(
            self.batch_size % self.accumulate == 0,
            "schedule.accumulate",
            self.accumulate,
            f"its parts of a batch are to be equal, use a divisor of schedule.batch_size, {self.batch_size}",
        )
        if self.epoch_images is not None:
            few = self.epoch_images < self.batch_size
            _require(not few, "schedule.epoch_images", self.epoch_images, "use at least schedule.batch_size")
        if self.images_per_process is not None:
            _require(
                self.images_per_process >= 1, "schedule.images_per_process", self.images_per_process, "use at least 1"
            )
        _require(0 < self.drop_factor <= 1, "schedule.drop_factor", self.drop_factor, "use a value in (0, 1]")
        _require(self.warmup_iters >= 0, "schedule.warmup_iters", self.warmup_iters, "use 0 or more")
        _require(0 < self.warmup_ratio <= 1, "schedule.warmup_ratio", self.warmup_ratio, "use a value in (0, 1]")
        _require(
            0 <= self.warmup_fraction < 1, "schedule.warmup_fraction", self.warmup_fraction, "use a value in [0, 1)"
        )


def check_shares(schedule: ScheduleConfig, workers: int) -> None:
    """Every worker has the same number of images of each part of a batch.

    Raises:
        InputError: that cannot be.
    """
    if schedule.batch_size % (schedule.accumulate * workers):
        parts = f" of each of schedule.accumulate, {schedule.accumulate}, parts" if schedule.accumulate > 1 else ""
        raise InputError(
            f"schedule.batch_size is {schedule.batch_size}, but resources.workers is {workers} and all workers have as "
            f"many images{parts}; use a multiple of {schedule.accumulate * workers}."
        )


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Which training images an epoch visits: each once, or repeated by the frequency of their rarest category."""

    name: Literal["uniform", "repeat"] = "uniform"
    threshold: float = 1e-3
    rounding: Literal["whole", "stochastic"] = "whole"

    def __post_init__(self) -> None:
        _require(0 < self.threshold <= 1, "sampler.threshold", self.threshold, "use a frequency in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a run is judged.

    Attributes:
        max_dets: detections per image that count.
        every_epochs: epochs between evaluations; the last epoch is always evaluated. A cached trial that moves boxes is
            evaluated on images, at its last epoch alone unless a scheduler stops at evaluations.
    """

    max_dets: int = 300
    every_epochs: int = 1

    def __post_init__(self) -> None:
        _require(self.max_dets >= 1, "evaluation.max_dets", self.max_dets, "use at least 1")
        _require(self.every_epochs >= 1, "evaluation.every_epochs", self.every_epochs, "use at least 1")


@dataclass(frozen=True, kw_only=True)
class Stage1Config:
    """The softmax baseline that stage 2 starts from: trained here once, or read from a checkpoint.

    Attributes:
        build: whether it may be trained although that is projected to take long; short ones are trained unasked.
    """

    optim: OptimConfig
    schedule: ScheduleConfig
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    seed: int = 0
    checkpoint: str | None = None
    build: bool = False


# What a table of published values may hold.
Value = bool | int | float | str | tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a method trains and how, as its authors published it.

    Attributes:
        parts: the detector's parts that train, or `all`.
        cached_parts: those of them that a trial on cached features trains.
        fidelity: what `auto` means: `cached` where the trunk is frozen, `full` where everything trains.
        left_out: what a cached trial leaves out of the published recipe, a line each.
        start: the stage-1 model, or `detector.weights` where the method is published in one stage.
        classifier_start: the stage-1 classifier, as published, or a fresh one.
        published: values by dotted key that a setting with the recipe `mmdet` or `d2` takes from the method in the
            place of its own; a learning rate is for 16 images.
    """

    parts: tuple[PartName, ...] | Literal["all"]
    cached_parts: tuple[PartName, ...] = ("classifier",)
    start: Literal["stage1", "weights"] = "stage1"
    classifier_start: Literal["stage1", "fresh"] = "stage1"
    fidelity: Fidelity = "cached"
    left_out: tuple[str, ...] = ()
    published: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        for part in (*(() if self.parts == "all" else self.parts), *self.cached_parts):
            if part not in PARTS:
                raise InputError(f"recipe.parts: '{part}' is not a part of a detector.{did_you_mean(part, PARTS)}")

    @property
    def trains_heads_alone(self) -> bool:
        """Whether nothing trains but what stands on box-head features."""
        return self.parts != "all" and set(self.parts) <= {"classifier", "box_regressor"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run, complete and immutable.

    Attributes:
        method: name of the loss in `lttune.losses.LOSSES`.
        loss: that loss's hyperparameters.
        seed: of stage 2; data and stage 1 have their own.
        precision: what the detector computes in while it trains: `bf16` and `fp16` where torch's autocast takes them
            for good enough, the latter with scaled losses. Weights, losses and evaluations stay float32.
        has_own_values: whether optimiser and schedule are the setting's and not those the method was published with.
        own_loss: the loss's class where it is a caller's own, so that a worker process gets it with the run.
    """

    method: str
    loss: LossHyperparameters
    data: DataConfig
    detector: DetectorConfig
    stage1: Stage1Config
    optim: OptimConfig
    schedule: ScheduleConfig
    recipe: Recipe
    fidelity: Fidelity
    input: InputConfig = field(default_factory=InputConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0
    precision: Precision = "float32"
    has_own_values: bool = True
    own_loss: type[ClassificationLoss] | None = None

    def __post_init__(self) -> None:
        _require(
            self.precision in get_args(Precision), "precision", self.precision, f"use {', '.join(get_args(Precision))}"
        )
        for loss in (self.loss, getattr(self.loss, "loce", None)):
            jitter = getattr(loss, "jitter_amplitude", CACHED_JITTER)
            _require(
                self.fidelity != "cached" or jitter == CACHED_JITTER,
                "loss.jitter_amplitude",
                f"{jitter:g}",
                "cached features hold boxes jittered by the published 1/6, use `fidelity: full`",
            )
        _require(
            not (self.detector.is_cascade and _has_memory(self.loss)),
            "loss.has_memory",
            True,
            f"a feature memory is published for detectors with one stage, and {self.detector.name} has three; set it "
            "to false, which leaves the equilibrium loss in every stage",
        )

    @property
    def differs_from_published(self) -> tuple[str, ...]:
        """What this run leaves out of the method's published recipe, a line each."""
        lines = list(self.recipe.left_out) if self.fidelity == "cached" else []
        if self.input.flip == 0:
            lines.append("no horizontal flip" + (": a mirrored glyph is another category" if self.data.glyphs else ""))
        elif self.fidelity == "cached":
            lines.append("no flipped views: features are cached once per image")
        if self.fidelity == "cached" and len(self.input.short_px) > 1:
            lines.append(f"one image size, {max(self.input.short_px)} px: features are cached once per image")
        if self.detector.is_cascade:
            lines.append("boxes are matched again between the stages of the cascade, not drawn again")
            if self.detector.has_masks:
                lines.append("one mask head for all stages of the cascade")
        if self.has_own_values:
            lines.append(f"optimiser and schedule are the setting's own ({self.optim.name}, {self.schedule.policy})")
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON; tuples become lists."""
        values: dict[str, Any] = plain(asdict(self))
        own_loss = values.pop("own_loss")
        return values if own_loss is None else {**values, "own_loss": f"{own_loss.__module__}.{own_loss.__qualname__}"}


def _has_memory(loss: LossHyperparameters) -> bool:
    """Whether LOCE's memory is in use, alone or below ROG."""
    used = getattr(loss, getattr(loss, "object_loss", ""), loss)
    return bool(getattr(used, "has_memory", False))


def plain(value: Any) -> Any:
    """Tuples to lists and mappings to dicts, all the way down."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
