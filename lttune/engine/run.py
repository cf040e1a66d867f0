"""One training run that advances by bounded slices and can be saved, restored and continued bit for bit."""

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from lttune.data.sampling import repeat_factors, repeat_order, uniform_order
from lttune.detectors import build_detector
from lttune.detectors.base import Detector
from lttune.engine.assets import Assets, Half
from lttune.engine.category_judge import CategoryJudge
from lttune.engine.checkpoint import load_state, save_state, value_digest
from lttune.engine.config import TrainConfig, check_shares, plain
from lttune.engine.features import CachedRois, LiveRois, RoiSampling
from lttune.engine.images import ImageSource
from lttune.engine.jittered import open_jittered
from lttune.engine.judge import CachedJudge, Judge, LiveJudge
from lttune.engine.loop import DetectorLearner, Learner, RoiLearner
from lttune.engine.memory_file import load_memory, remove_older_memory, save_memory
from lttune.engine.optim import build_optimizer, clip_gradients, lr_factor, set_lr
from lttune.engine.parallel import ALONE, Ranks, synchronise_batch_norm
from lttune.engine.seeds import reseed, stream_seed
from lttune.engine.warm_start import warm_start
from lttune.engine.weights import load_part_state, part_state, read_weights
from lttune.errors import AppliedConfigError, CacheError, InputError, NonFiniteLossError
from lttune.evaluation.report import EvaluationReport, headline
from lttune.losses import RoiAugmenter, build_loss
from lttune.losses.distributed import apart
from lttune.types import IntArray

_FORMAT = 2
# Iterations between looks at whether the loss is still finite; each look waits for the device.
_LOOK_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch gave; `metrics` is empty where the epoch was not evaluated."""

    epoch: int  # counted from 1
    loss: float
    lr: float
    seconds: float  # of training and evaluation since the run began
    metrics: dict[str, float]
    losses: dict[str, float] = field(default_factory=dict)  # mean of each named term; their sum is `loss`
    skipped_steps: int = 0  # that fp16 left out, since a gradient overflowed
    peak_memory_gb: float = math.nan  # most on the run's GPU, else most of the process at an epoch's end


class TrainingRun:
    """A detector, its loss and optimiser, and how far they have come.

    Args:
        config: the complete configuration.
        assets: data, stage-1 weights and caches.
        device: where tensors live.
        judged_on: the half of the validation images that evaluations use; None never evaluates.
        ranks: this process's place among those that train the run together, all of which make the same calls. Where
            they are given, and where `schedule.accumulate` is above 1, what is drawn for an image does not depend on
            the others of its batch, so that any number of ranks draws the same; by default one stream serves a batch.

    Raises:
        InputError: the configuration does not go together, or its batches cannot be shared by the ranks.
    """

    def __init__(
        self,
        config: TrainConfig,
        assets: Assets,
        *,
        device: torch.device | None = None,
        judged_on: Half | None = "tune",
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks = ranks or ALONE
        self._draws_by_image = ranks is not None or config.schedule.accumulate > 1
        check_shares(config.schedule, self._ranks.size)
        self.config = config
        self.assets = assets
        self.device = device or torch.device("cpu")
        self.step = 0  # iterations since the run began
        self.seconds = 0.0
        self.history: list[EpochRecord] = []
        self.evaluation_seconds = 0.0  # of this object, not of the run that it continues
        self.last_report: EvaluationReport | None = None  # of the last epoch that was evaluated by this object
        self._step_of_epoch = 0
        self._is_warm = False
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._term_sums: dict[str, Tensor] = {}
        self._terms_of_step: dict[str, Tensor] = {}
        self._skipped_steps = 0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._loss_generator = torch.Generator(self.device)
        self.detector = self._build_detector()
        if self._ranks.size > 1:
            synchronise_batch_norm(self.detector)
        is_scaled = config.precision == "fp16"
        self.optimizer = build_optimizer(self.detector.parameters(), config.optim, has_scaled_losses=is_scaled)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=is_scaled)
        self._learner = self._build_learner()
        self._judge = self.judge(judged_on) if judged_on else None
        self._factors = repeat_factors(assets.train, threshold=config.sampler.threshold)
        # The schedule's unit; with stochastic rounding of repeats an epoch may be a few iterations longer or shorter.
        self.steps_per_epoch = max(1, len(self._order(0)) // config.schedule.batch_size)

    # ---- what the run consists of

    def _build_detector(self) -> Detector:
        config, assets = self.config, self.assets
        detector = build_detector(
            config.detector,
            num_classes=assets.train.num_categories,
            make_loss=lambda: build_loss(
                config.own_loss or config.method,
                num_classes=assets.train.num_categories,
                frequencies=assets.frequencies,
                generator=self._loss_generator,
                images_per_process=config.schedule.images_per_process,
                **asdict(config.loss),
            ),
            seed=stream_seed(config.seed, "model"),
        ).to(self.device)
        self.weights_left: list[str] = []
        if assets.stage1_weights:
            state = read_weights(Path(assets.stage1_weights))
            if config.recipe.classifier_start == "fresh":
                state = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
            self.weights_left = load_part_state(detector, state)
        self.trained_parts = tuple(detector.parts) if config.recipe.parts == "all" else config.recipe.parts
        detector.freeze_except(self.trained_parts)
        has_memory = any(stage.loss.augmenter is not None for stage in detector.stages)
        if has_memory and detector.trains("backbone", "box_head"):
            raise InputError(
                f"{config.method} keeps a memory of box-head outputs, but trains {', '.join(self.trained_parts)}; set "
                "`has_memory: false` among its loss values."
            )
        return detector

    def _build_learner(self) -> Learner:
        config, assets = self.config, self.assets
        if config.fidelity == "cached":
            return self._cached_learner()
        on_features = self.trained_parts == ("classifier",) and self._augmenter is None
        source = ImageSource(
            assets.train,
            Path(assets.train_images),
            config.input,
            seed=config.seed,
            with_masks=not on_features,
            reopen=None if on_features else partial(getattr, assets, "train"),
        )
        if on_features:
            rois = LiveRois(self.detector, source, self._sampling, self.device)
            return RoiLearner(self.detector, rois, None, seed=config.seed, autocast=self._autocast)
        return DetectorLearner(
            self.detector,
            source,
            seed=config.seed,
            device=self.device,
            autocast=self._autocast,
            draws_by_image=self._draws_by_image,
        )

    def _cached_learner(self) -> Learner:
        config, assets = self.config, self.assets
        if not config.recipe.trains_heads_alone:
            trained = ", ".join(self.trained_parts)
            raise InputError(f"fidelity is cached, but {config.method} trains {trained}; use `fidelity: full`.")
        folder = assets.feature_folder("train")
        rois = CachedRois(folder, self._sampling, self.device, with_box_targets=self._moves_boxes)
        jittered = None if self._augmenter is None else open_jittered(self._augmenter, assets.memory, self.device)
        return RoiLearner(self.detector, rois, jittered, seed=config.seed, autocast=self._autocast)

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.config.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.precision != "float32")

    @property
    def _augmenter(self) -> RoiAugmenter | None:
        return self.detector.stages[0].loss.augmenter

    @property
    def _moves_boxes(self) -> bool:
        return "box_regressor" in self.trained_parts

    @property
    def _is_judging_slow(self) -> bool:
        """Whether an evaluation takes longer than an epoch."""
        return self.config.fidelity == "cached" and self._moves_boxes

    @property
    def _sampling(self) -> RoiSampling:
        return RoiSampling(
            num_rois=self.config.detector.num_rois,
            positive_fraction=self.config.detector.positive_fraction,
            num_classes=self.assets.train.num_categories,
            seed=self.config.seed,
        )

    def judge(self, half: Half) -> Judge:
        """What evaluates this run's detector on one half of the validation images.

        Cached boxes, masks and IoUs hold while no box moves.
        """
        ground_truth = self.assets.ground_truth(half)
        is_frozen = self.config.fidelity == "cached" and not self._moves_boxes
        if is_frozen and self.detector.config.has_class_agnostic_heads:
            return CachedJudge(self.assets.feature_folder(half), ground_truth)
        source = ImageSource(
            self.assets.half(half), Path(self.assets.val_images), self.config.input, seed=None, with_masks=False
        )
        if is_frozen:
            return CategoryJudge(self.assets.feature_folder(half), source, ground_truth)
        return LiveJudge(source, ground_truth)

    # ---- where it stands

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return len(self.history)

    @property
    def is_finished(self) -> bool:
        return self.epoch >= self.config.schedule.epochs

    def applied(self) -> dict[str, Any]:
        """Every value as the live objects carry it, by dotted key: the base learning rate from the optimiser, the
        loss's values from the module that computes it, and so on."""
        group = self.optimizer.param_groups[0]
        values: dict[str, Any] = {
            "method": self.config.method,
            "seed": self.config.seed,
            "precision": self.config.precision,
            "optim.name": type(self.optimizer).__name__.lower(),
            "optim.lr": self.optimizer.defaults["lr"],
            "optim.weight_decay": group["weight_decay"],
            "optim.momentum": group.get("momentum", self.config.optim.momentum),
            "optim.clip_norm": self.config.optim.clip_norm,
        }
        for stage in self.detector.stages:
            values |= _dotted("loss", stage.loss.hyperparameters)
        values |= _dotted("detector", self.detector.config)
        for name in ("schedule", "sampler", "evaluation", "input", "recipe"):
            values |= _dotted(name, getattr(self.config, name))
        values["schedule.images_per_process"] = self.detector.stages[0].loss.images_per_process
        trained = [n for n, part in self.detector.parts.items() if any(p.requires_grad for p in part.parameters())]
        values["recipe.parts"] = "all" if len(trained) == len(self.detector.parts) else trained
        return values

    def prove_applied(self, asked: Mapping[str, Any]) -> str:
        """Compare sampled values, by dotted key, with the live objects.

        Returns:
            A digest of everything that was applied.

        Raises:
            AppliedConfigError: a live object carries another value.
        """
        applied = self.applied()
        for key, value in asked.items():
            if applied.get(key) != plain(value):
                raise AppliedConfigError(
                    f"{key} was set to {value}, but the built trial carries {applied.get(key)}; this is a fault of "
                    "lttune or of the trainable, not of the search space."
                )
        return value_digest(applied)

    # ---- training

    def advance(
        self, *, max_seconds: float = math.inf, max_iters: float = math.inf, stop_at_evaluation: bool = False
    ) -> list[EpochRecord]:
        """Train until the run is finished or a limit is reached; a limit may lie within an epoch.

        The first slice begins with the pass that fills the loss's statistics, which no limit cuts short. Where an
        evaluation takes as long as several epochs (boxes move, but training is cached), only the last epoch is
        evaluated, unless `stop_at_evaluation` asks for `evaluation.every_epochs`.

        Returns:
            The epochs completed in this slice.

        Raises:
            NonFiniteLossError: the loss became NaN or infinite.
            WorkerLostError: another rank is gone; the run can only be built anew.
        """
        first_epoch = self.epoch
        with self._ranks.together():
            self._advance(max_seconds, max_iters, stop_at_evaluation=stop_at_evaluation)
        return self.history[first_epoch:]

    def _advance(self, max_seconds: float, max_iters: float, *, stop_at_evaluation: bool) -> None:
        began, before = time.monotonic(), self.seconds
        first_epoch, first_step = self.epoch, self.step
        # However short a slice, it does something; else it would never end.
        is_late = False

        def has_no_time_left() -> bool:
            self.seconds = before + time.monotonic() - began
            return self.seconds - before >= max_seconds

        def is_over() -> bool:
            evaluated = len(self.history) > first_epoch and bool(self.history[-1].metrics)
            reached = is_late or self.step - first_step >= max_iters
            return self.is_finished or reached or (stop_at_evaluation and evaluated)

        if not self._is_warm:
            self._warm_start()
            has_no_time_left()
        self.detector.train()
        while not is_over():
            with closing(self._batches()) as batches:
                for is_whole, losses in batches:
                    self._backward(losses)
                    if is_whole:
                        is_late = self._train_step(has_no_time_left)
                        if is_over():
                            break
                else:
                    self._end_epoch(
                        lambda: before + time.monotonic() - began,
                        judges_early=stop_at_evaluation or not self._is_judging_slow,
                    )
                    is_late = bool(self._ranks.from_first(has_no_time_left))
        self._check_finite()

    def _warm_start(self) -> None:
        # No epoch of training has this number, so the pass meets none of training's draws. Each rank makes all of it:
        # its batches are of a few images.
        with apart():
            warm_start(self.detector, self._learner, self.assets.train, epoch=self.config.schedule.epochs)
        for stage in self.detector.stages:
            self._ranks.copy_from_first(stage.loss.state_dict().values())
            if stage.loss.augmenter is not None:
                self._ranks.copy_from_first(stage.loss.augmenter.state_dict().values())
        self.detector.freeze_except(self.trained_parts)
        self._is_warm = True

    def _order(self, epoch: int) -> IntArray:
        if self.config.sampler.name == "repeat":
            rounding = self.config.sampler.rounding
            order = repeat_order(self._factors, seed=self.config.seed, epoch=epoch, rounding=rounding)
        else:
            order = uniform_order(self.assets.train.num_images, seed=self.config.seed, epoch=epoch)
        return order[: self.config.schedule.epoch_images]

    def _batches(self) -> Generator[tuple[bool, dict[str, Tensor]], None, None]:
        """The losses of each part of a batch for the rest of the current epoch, and whether the batch is whole with it;
        the loss's draws are keyed by iteration and part."""
        schedule, order = self.config.schedule, self._order(self.epoch)
        num_parts = schedule.accumulate
        part_size = schedule.batch_size // num_parts
        order = self._ranks.own_order(order[: len(order) // schedule.batch_size * schedule.batch_size], part_size)
        learner_batches = self._learner.batches(
            order, part_size // self._ranks.size, self.epoch, self._step_of_epoch * num_parts
        )
        part = 0
        with closing(learner_batches) as batches:
            while True:
                position = (self.step,) if num_parts == 1 else (self.step, part)
                reseed(self._loss_generator, self.config.seed, "loss", *position)
                losses = next(batches, None)
                if losses is None:
                    return
                part += 1
                yield part == num_parts, losses
                part %= num_parts

    def _backward(self, losses: dict[str, Tensor]) -> None:
        """Add one part of a batch to the gradients and terms of its step."""
        num_parts = self.config.schedule.accumulate
        if not self._terms_of_step:
            self.optimizer.zero_grad()
        if num_parts > 1:
            losses = {name: term / num_parts for name, term in losses.items()}
        total = sum(losses.values(), torch.zeros((), device=self.device))
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        # The sum goes first, under a name that no term has.
        for name, term in {"": total, **losses}.items():
            before = self._terms_of_step.get(name)
            # `average` writes into them.
            own = term.detach().clone() if self._ranks.size > 1 else term.detach()
            self._terms_of_step[name] = own if before is None else before + own

    def _train_step(self, has_no_time_left: Callable[[], bool]) -> bool:
        """One step of the optimiser on a whole batch; says whether the slice's time is over."""
        optim, parameters = self.config.optim, self.optimizer.param_groups[0]["params"]
        is_late = self._ranks.average(parameters, self._terms_of_step.values(), is_over=has_no_time_left())
        self._scaler.unscale_(self.optimizer)
        clip_gradients(parameters, optim.clip_norm)
        set_lr(self.optimizer, optim.lr * lr_factor(self.config.schedule, self.step, self.steps_per_epoch))
        scale = self._scaler.get_scale()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        # A step left out has had its batch, so the schedule, which counts batches, goes on.
        self._skipped_steps += self._scaler.get_scale() < scale
        self._loss_sum += self._terms_of_step.pop("")
        for name, value in self._terms_of_step.items():
            if name not in self._term_sums:
                self._term_sums[name] = torch.zeros_like(self._loss_sum)
            self._term_sums[name] += value
        self._terms_of_step.clear()
        self.step += 1
        self._step_of_epoch += 1
        if self.step % _LOOK_EVERY == 0:
            self._check_finite()
        return is_late

    def _end_epoch(self, seconds: Callable[[], float], *, judges_early: bool) -> None:
        """Close an epoch; `judges_early` says whether epochs before the last are evaluated, too."""
        self._check_finite()
        epoch, every = self.epoch + 1, self.config.evaluation.every_epochs
        is_last = epoch == self.config.schedule.epochs
        is_judged = self._judge is not None and (is_last or (judges_early and epoch % every == 0))
        num_steps = max(1, self._step_of_epoch)
        found = self._judged_together() if is_judged else {}
        self.history.append(
            EpochRecord(
                epoch=epoch,
                loss=float(self._loss_sum) / num_steps,
                lr=float(self.optimizer.param_groups[0]["lr"]),
                seconds=seconds(),
                metrics={**headline(found), **found} if is_judged else {},
                losses={name: float(total) / num_steps for name, total in self._term_sums.items()},
                skipped_steps=self._skipped_steps,
                peak_memory_gb=max([self._memory_gb(), *(record.peak_memory_gb for record in self.history[-1:])]),
            )
        )
        self._loss_sum.zero_()
        self._term_sums.clear()
        self._step_of_epoch = self._skipped_steps = 0
        self.detector.train()

    def _memory_gb(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        return int(psutil.Process().memory_info().rss) / 1e9

    def _check_finite(self) -> None:
        if not math.isfinite(float(self._loss_sum)):
            raise NonFiniteLossError(
                f"the loss became {float(self._loss_sum)} in epoch {self.epoch + 1}, by iteration {self.step} "
                f"(learning rate {self.optimizer.param_groups[0]['lr']:.3g}); lower the rate or clip the gradient."
            )

    def _judged_together(self) -> dict[str, float]:
        """The metrics of the detector as it stands, every rank having its share of the images where they are needed."""
        judge, max_dets = self._judge, self.config.evaluation.max_dets
        assert judge is not None
        began = time.monotonic()
        self.detector.eval()
        if not self._ranks.is_first:
            judge.assist(self.detector, max_dets=max_dets, ranks=self._ranks)

        def found() -> dict[str, float]:
            self.last_report = judge.report(self.detector, max_dets=max_dets, ranks=self._ranks)
            return self.last_report.metrics

        metrics: dict[str, float] = self._ranks.from_first(found)
        self.evaluation_seconds += time.monotonic() - began
        return metrics

    def evaluate(self, judge: Judge | None = None, *, max_dets: int | None = None) -> EvaluationReport:
        """Judge the detector as it stands, on the run's own half unless another judge is given.

        Of several ranks one does it for itself.
        """
        judge = judge or self._judge
        assert judge is not None
        self.detector.eval()
        began = time.monotonic()
        report = judge.report(self.detector, max_dets=max_dets or self.config.evaluation.max_dets)
        self.evaluation_seconds += time.monotonic() - began
        return report

    # ---- saving

    def save(self, path: Path) -> None:
        """Write everything that a continued run needs, atomically; only what trains is in it.

        A feature memory goes into a file beside it. Of several ranks, which are all the same, the first one writes; any
        number of ranks can go on.
        """
        if not self._ranks.is_first:
            return
        save_memory(self.detector, path, self.step)
        save_state(
            {
                "format": _FORMAT,
                "config": value_digest(self.config.to_dict()),
                "step": self.step,
                "step_of_epoch": self._step_of_epoch,
                "is_warm": self._is_warm,
                "seconds": self.seconds,
                "loss_sum": self._loss_sum,
                "term_sums": self._term_sums,
                "history": [asdict(record) for record in self.history],
                "parts": part_state(self.detector, self.trained_parts),
                "losses": [stage.loss.state_dict() for stage in self.detector.stages],
                "optimizer": self.optimizer.state_dict(),
                "scaler": self._scaler.state_dict(),
                "skipped_steps": self._skipped_steps,
            },
            path,
        )
        remove_older_memory(path, self.step)

    def restore(self, path: Path) -> None:
        """Continue where `save` stood.

        Raises:
            CacheError: a file is absent, damaged, or of another configuration.
        """
        state = load_state(path)
        if state.get("format") != _FORMAT or state.get("config") != value_digest(self.config.to_dict()):
            raise CacheError(f"{path}: written by another configuration or version. Delete it to start this run again.")
        load_memory(self.detector, path, state["step"])
        for part in self.trained_parts:
            own = self.detector.parts[part]
            own.load_state_dict({name: state["parts"][f"{part}.{name}"] for name in own.state_dict()})
        for stage, buffers in zip(self.detector.stages, state["losses"], strict=True):
            stage.loss.load_state_dict(buffers)
        self.optimizer.load_state_dict(state["optimizer"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        self.step, self._step_of_epoch, self._is_warm = state["step"], state["step_of_epoch"], state["is_warm"]
        self.seconds = state["seconds"]
        # Checkpoints of an earlier version lack this, and the sums of terms.
        self._skipped_steps = state.get("skipped_steps", 0)
        self._loss_sum.copy_(state["loss_sum"])
        self._term_sums = {name: total.to(self.device) for name, total in state.get("term_sums", {}).items()}
        self.history = [EpochRecord(**record) for record in state["history"]]


def _dotted(prefix: str, values: Any) -> dict[str, Any]:
    """The fields of a dataclass by dotted key; a nested one is a group of keys."""
    dotted: dict[str, Any] = {}
    for one in fields(values):
        key, value = f"{prefix}.{one.name}", getattr(values, one.name)
        dotted |= _dotted(key, value) if is_dataclass(value) else {key: plain(value)}
    return dotted
