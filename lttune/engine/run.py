"""One training run that advances by bounded slices and can be saved, restored and continued bit for bit."""

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lttune.data.sampling import repeat_factors, repeat_order, uniform_order
from lttune.detectors import build_detector
from lttune.detectors.base import Detector
from lttune.engine.assets import Assets, Half
from lttune.engine.checkpoint import load_state, save_state, value_digest
from lttune.engine.config import TrainConfig, plain
from lttune.engine.features import CachedRois, LiveRois, RoiSampling
from lttune.engine.images import ImageSource
from lttune.engine.judge import CachedJudge, Judge, LiveJudge
from lttune.engine.loop import ClassifierLearner, DetectorLearner, Learner
from lttune.engine.memory_file import load_memory, remove_older_memory, save_memory
from lttune.engine.optim import build_optimizer, clip_gradients, lr_factor, set_lr
from lttune.engine.seeds import reseed, stream_seed
from lttune.engine.warm_start import warm_start
from lttune.engine.weights import load_part_state, part_state, read_weights
from lttune.errors import AppliedConfigError, CacheError, InputError, NonFiniteLossError
from lttune.evaluation.report import EvaluationReport, headline
from lttune.losses import build_loss
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


class TrainingRun:
    """A detector, its loss and optimiser, and how far they have come.

    Args:
        config: the complete configuration.
        assets: data, stage-1 weights and caches.
        device: where tensors live.
        judged_on: the half of the validation images that evaluations use; None never evaluates.
    """

    def __init__(
        self,
        config: TrainConfig,
        assets: Assets,
        *,
        device: torch.device | None = None,
        judged_on: Half | None = "tune",
    ) -> None:
        self.config = config
        self.assets = assets
        self.device = device or torch.device("cpu")
        self.step = 0  # iterations since the run began
        self.seconds = 0.0
        self.history: list[EpochRecord] = []
        self._step_of_epoch = 0
        self._is_warm = False
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._loss_generator = torch.Generator(self.device)
        self.detector = self._build_detector()
        self.optimizer = build_optimizer(self.detector.parameters(), config.optim)
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
                config.method,
                num_classes=assets.train.num_categories,
                frequencies=assets.frequencies,
                generator=self._loss_generator,
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
        if set(self.trained_parts) != {"classifier"}:
            if config.fidelity == "cached":
                trained = ", ".join(self.trained_parts)
                raise InputError(f"fidelity is cached, but {config.method} trains {trained}; use `fidelity: full`.")
            source = ImageSource(assets.train, Path(assets.train_images), config.input, seed=config.seed)
            return DetectorLearner(self.detector, source, seed=config.seed, device=self.device)
        sampling = RoiSampling(
            num_rois=config.detector.num_rois,
            positive_fraction=config.detector.positive_fraction,
            num_classes=assets.train.num_categories,
            seed=config.seed,
        )
        if config.fidelity == "cached":
            return ClassifierLearner(self.detector, CachedRois(assets.feature_folder("train"), sampling, self.device))
        source = ImageSource(assets.train, Path(assets.train_images), config.input, seed=config.seed, with_masks=False)
        return ClassifierLearner(self.detector, LiveRois(self.detector, source, sampling, self.device))

    def judge(self, half: Half) -> Judge:
        """What evaluates this run's detector on one half of the validation images."""
        ground_truth = self.assets.ground_truth(half)
        if self.config.fidelity == "cached":
            return CachedJudge(self.assets.feature_folder(half), ground_truth)
        source = ImageSource(
            self.assets.half(half), Path(self.assets.val_images), self.config.input, seed=None, with_masks=False
        )
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

        The first slice begins with the pass that fills the loss's statistics, which no limit cuts short.

        Returns:
            The epochs completed in this slice.

        Raises:
            NonFiniteLossError: the loss became NaN or infinite.
        """
        began, before = time.monotonic(), self.seconds
        first_epoch, first_step = self.epoch, self.step

        def is_over() -> bool:
            self.seconds = before + time.monotonic() - began
            evaluated = len(self.history) > first_epoch and bool(self.history[-1].metrics)
            # However short a slice, it does something; else it would never end.
            has_moved = self.step > first_step or len(self.history) > first_epoch
            is_late = has_moved and self.seconds - before >= max_seconds
            reached = is_late or self.step - first_step >= max_iters
            return self.is_finished or reached or (stop_at_evaluation and evaluated)

        if not self._is_warm:
            # No epoch of training has this number, so the pass meets none of training's draws.
            warm_start(self.detector, self._learner, self.assets.train, epoch=self.config.schedule.epochs)
            self.detector.freeze_except(self.trained_parts)
            self._is_warm = True
        self.detector.train()
        while not is_over():
            with closing(self._batches()) as batches:
                for losses in batches:
                    self._train_step(losses)
                    if is_over():
                        break
                else:
                    self._end_epoch(lambda: before + time.monotonic() - began)
        self._check_finite()
        return self.history[first_epoch:]

    def _order(self, epoch: int) -> IntArray:
        if self.config.sampler.name == "repeat":
            rounding = self.config.sampler.rounding
            return repeat_order(self._factors, seed=self.config.seed, epoch=epoch, rounding=rounding)
        return uniform_order(self.assets.train.num_images, seed=self.config.seed, epoch=epoch)

    def _batches(self) -> Generator[dict[str, Tensor], None, None]:
        """The losses of the rest of the current epoch, the loss's draws keyed by the iteration."""
        order, size = self._order(self.epoch), self.config.schedule.batch_size
        with closing(self._learner.batches(order, size, self.epoch, self._step_of_epoch)) as batches:
            while True:
                reseed(self._loss_generator, self.config.seed, "loss", self.step)
                losses = next(batches, None)
                if losses is None:
                    return
                yield losses

    def _train_step(self, losses: dict[str, Tensor]) -> None:
        optim = self.config.optim
        total = sum(losses.values(), torch.zeros((), device=self.device))
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        clip_gradients(self.detector.parameters(), optim.clip_norm)
        set_lr(self.optimizer, optim.lr * lr_factor(self.config.schedule, self.step, self.steps_per_epoch))
        self.optimizer.step()
        self._loss_sum += total.detach()
        self.step += 1
        self._step_of_epoch += 1
        if self.step % _LOOK_EVERY == 0:
            self._check_finite()

    def _end_epoch(self, seconds: Callable[[], float]) -> None:
        self._check_finite()
        epoch, every = self.epoch + 1, self.config.evaluation.every_epochs
        is_judged = self._judge is not None and (epoch % every == 0 or epoch == self.config.schedule.epochs)
        found = self.evaluate().metrics if is_judged else {}
        self.history.append(
            EpochRecord(
                epoch=epoch,
                loss=float(self._loss_sum) / max(1, self._step_of_epoch),
                lr=float(self.optimizer.param_groups[0]["lr"]),
                seconds=seconds(),
                metrics={**headline(found), **found} if is_judged else {},
            )
        )
        self._loss_sum.zero_()
        self._step_of_epoch = 0
        self.detector.train()

    def _check_finite(self) -> None:
        if not math.isfinite(float(self._loss_sum)):
            raise NonFiniteLossError(
                f"the loss became {float(self._loss_sum)} in epoch {self.epoch + 1}, by iteration {self.step} "
                f"(learning rate {self.optimizer.param_groups[0]['lr']:.3g}); lower the rate or clip the gradient."
            )

    def evaluate(self, judge: Judge | None = None, *, max_dets: int | None = None) -> EvaluationReport:
        """Judge the detector as it stands, on the run's own half unless another judge is given."""
        judge = judge or self._judge
        assert judge is not None
        self.detector.eval()
        return judge.report(self.detector, max_dets=max_dets or self.config.evaluation.max_dets)

    # ---- saving

    def save(self, path: Path) -> None:
        """Write everything that a continued run needs, atomically; only what trains is in it.

        A feature memory goes into a file beside it.
        """
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
                "history": [asdict(record) for record in self.history],
                "parts": part_state(self.detector, self.trained_parts),
                "losses": [stage.loss.state_dict() for stage in self.detector.stages],
                "optimizer": self.optimizer.state_dict(),
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
        self.step, self._step_of_epoch, self._is_warm = state["step"], state["step_of_epoch"], state["is_warm"]
        self.seconds = state["seconds"]
        self._loss_sum.copy_(state["loss_sum"])
        self.history = [EpochRecord(**record) for record in state["history"]]


def _dotted(prefix: str, values: Any) -> dict[str, Any]:
    """The fields of a dataclass by dotted key; a nested one is a group of keys."""
    dotted: dict[str, Any] = {}
    for field in fields(values):
        key, value = f"{prefix}.{field.name}", getattr(values, field.name)
        dotted |= _dotted(key, value) if is_dataclass(value) else {key: plain(value)}
    return dotted
