"""A finished trial of seconds, its shared assets and its export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lttune.engine.assets import Assets
from lttune.engine.config import Recipe
from lttune.engine.prepare import prepare
from lttune.engine.run import TrainingRun
from lttune.export.folder import export_trial
from lttune.spec.load import load_spec
from lttune.spec.search import SearchSpec
from lttune.types import TrialResult

RECIPE = Recipe(parts=("classifier",), fidelity="cached", left_out=("the second half",))
PARAMS = {"loss.score_threshold": 0.4, "optim.lr": 0.02}
SPEC = """\
schema: 1
method: acsl
search: {trials: 2, seed: 7}
fixed: {optim.weight_decay: 0.01}
space:
  loss.score_threshold: {float: [0.05, 0.95], default: 0.7}
  optim.lr: {float: [1e-3, 0.1], log: true}
on:
  description: "two\\nlines: of text"
  data: {glyphs: {num_categories: 2, num_train_images: 24, num_val_images: 16, size_px: 64, seed: 1}}
  detector:
    name: tiny_mask_rcnn_fpn
    class_agnostic_box: true
    class_agnostic_mask: true
    num_train_proposals: 20
    num_test_proposals: 20
    num_rois: 8
    score_threshold: 0.0
  stage1: {optim: {name: adamw, lr: 4e-3}, schedule: {epochs: 16, batch_size: 4, policy: one_cycle}}
  optim: {name: adamw, lr: 0.01}
  schedule: {epochs: 1, batch_size: 4, policy: one_cycle}
  evaluation: {max_dets: 20}
"""


@dataclass(frozen=True)
class Scene:
    """A finished trial, its shared assets and its export."""

    spec: SearchSpec
    assets: Assets
    cache: Path
    checkpoint: Path
    trial: TrialResult
    folder: Path
    metrics: dict[str, dict[str, float]]
    recipe: Recipe = RECIPE

    def export(self, to: Path, **changes: Any) -> dict[str, dict[str, float]]:
        options: dict[str, Any] = {"checkpoint": self.checkpoint, "study": "mine", "assets": self.assets, **changes}
        return export_trial(self.spec, self.trial, to=to, progress=lambda *_: None, **options)


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    root = tmp_path_factory.mktemp("export")
    (root / "space.yaml").write_text(SPEC)
    spec = load_spec(root / "space.yaml", recipe_of=lambda _: RECIPE)
    config = spec.resolve(PARAMS)
    assets = prepare(config, root / "cache", lambda *_: None, num_threads=1)
    run = TrainingRun(config, assets)
    run.advance()
    run.save(root / "0001.pt")
    trial = TrialResult(number=1, state="COMPLETE", params=PARAMS, metrics=run.history[-1].metrics, applied_hash="abc")
    scene = Scene(spec, assets, root / "cache", root / "0001.pt", trial, root / "best", {})
    scene.metrics.update(scene.export(scene.folder))
    return scene
