"""A search on a handful of glyph images, its shared assets, and studies in empty folders."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lttune.engine.assets import Assets
from lttune.engine.config import Recipe
from lttune.engine.prepare import prepare
from lttune.spec.load import load_spec
from lttune.spec.parameters import Scalar
from lttune.spec.search import SearchSpec
from lttune.tuning.confirm import Confirmation
from lttune.tuning.jobs import ConfirmationJob, TrialJob
from lttune.tuning.listener import SilentListener
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.types import TrialResult

RECIPE = Recipe(parts=("classifier",), fidelity="cached")
SPEC = """\
schema: 1
method: acsl
search: {trials: 6, seed: 7}
space:
  loss.score_threshold: {float: [0.05, 0.95], default: 0.7}
  schedule.epochs: {int: [1, 4]}
  optim.lr: {float: [1e-3, 0.1], log: true}
on:
  data: {glyphs: {num_categories: 6, num_train_images: 12, num_val_images: 8, size_px: 64, seed: 1}}
  detector:
    name: tiny_mask_rcnn_fpn
    class_agnostic_box: true
    class_agnostic_mask: true
    num_train_proposals: 20
    num_test_proposals: 20
    num_rois: 8
    positive_fraction: 0.5
    score_threshold: 0.0
  stage1: {optim: {name: adamw, lr: 1e-3}, schedule: {epochs: 1, batch_size: 4, policy: one_cycle}}
  optim: {name: adamw, lr: 0.01}
  schedule: {epochs: 3, batch_size: 4, policy: one_cycle}
  evaluation: {max_dets: 20}
"""


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> SearchSpec:
    path = tmp_path_factory.mktemp("spec") / "space.yaml"
    path.write_text(SPEC)
    return load_spec(path)


# Two methods that share one value and have one each, and the first is not the first by name.
METHODS = """\
space:
  method: {choice: [loce, acsl]}
  loss.score_threshold: {float: [0.05, 0.95], default: 0.7, when: {method: acsl}}
  optim.lr:
    - {float: [1e-3, 0.1], log: true, default: 0.01, when: {method: acsl}}
    - {float: [1e-4, 0.01], log: true, default: 0.002, when: {method: loce}}
  loss.momentum: {float: [0.5, 0.99], default: 0.9, when: {method: loce}}
"""


@pytest.fixture(scope="session")
def methods_spec(tmp_path_factory: pytest.TempPathFactory) -> SearchSpec:
    """A search over two methods."""
    start, end = SPEC.index("space:"), SPEC.index("on:\n")
    path = tmp_path_factory.mktemp("methods") / "space.yaml"
    path.write_text(SPEC[:start].replace("method: acsl\n", "") + METHODS + SPEC[end:])
    return load_spec(path)


@pytest.fixture(scope="session")
def assets(spec: SearchSpec, tmp_path_factory: pytest.TempPathFactory) -> Assets:
    cache: Path = tmp_path_factory.mktemp("cache")
    return prepare(spec.resolve({}, lambda _: RECIPE), cache, lambda *_: None, num_threads=1)


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[..., StudyStore]]:
    """Opens the study `NAME` as its driver would; the same name is the same study."""
    held: dict[str, StudyFolder] = {}

    def open_it(spec: SearchSpec, name: str = "study") -> StudyStore:
        if name not in held:
            held[name] = StudyFolder(tmp_path / name)
            held[name].acquire()
            if not held[name].exists:
                held[name].create(spec)
        return StudyStore(held[name], spec, is_driver=True)

    yield open_it
    for folder in held.values():
        folder.release()


@pytest.fixture
def make_job(spec: SearchSpec, tmp_path: Path) -> Callable[..., TrialJob]:
    """A trial's job; without assets it can be handed out but not run."""

    def make(number: int, params: dict[str, Scalar], **changes: Any) -> TrialJob:
        values: dict[str, Any] = {
            "number": number,
            "params": params,
            "config": spec.resolve(params, lambda _: RECIPE),
            "assets": Assets(train_annotations="", train_images="", val_annotations="", val_images=""),
            "checkpoint": str(tmp_path / "checkpoints" / f"{number:04d}.pt"),
            "slice_s": 600.0,
            "stop_at_evaluation": False,
            "objective": "AP",
            "cpus": 1.0,
            "gpus": 0.0,
        }
        return TrialJob(**{**values, **changes})

    return make


@pytest.fixture
def make_run(make_job: Callable[..., TrialJob], tmp_path: Path) -> Callable[..., ConfirmationJob]:
    """The job of a run of the confirmation."""

    def make(arm: str, seed: int, params: Mapping[str, Scalar], **changes: Any) -> ConfirmationJob:
        job = make_job(0, dict(params))
        values: dict[str, Any] = {
            "arm": arm,
            "seed": seed,
            "params": params,
            "config": replace(job.config, seed=seed),
            "assets": job.assets,
            "checkpoint": str(tmp_path / f"{arm}-{seed}" / "run.pt"),
            "slice_s": job.slice_s,
            "limits": (5, 300),
            "cpus": job.cpus,
            "gpus": job.gpus,
        }
        return ConfirmationJob(**{**values, **changes})

    return make


@pytest.fixture
def confirmation_of() -> Callable[[StudyStore], Confirmation]:
    """The confirmation of a study, as its driver opens it."""
    return lambda store: Confirmation(store.folder, store.spec, SilentListener())


@pytest.fixture
def result_of() -> Callable[..., TrialResult]:
    """The end of a trial with an AP."""

    def make(number: int, ap: float | None, state: Any = "COMPLETE", **changes: Any) -> TrialResult:
        metrics = {} if ap is None else {"AP": ap}
        return TrialResult(number=number, state=state, params={}, metrics=metrics, **changes)

    return make
