"""A trial's tags say on what it stands."""

import hashlib
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from lttune.engine.assets import Assets
from lttune.tuning import facts
from lttune.tuning.facts import code_version, config_tags
from lttune.tuning.jobs import TrialJob


@pytest.fixture
def job(make_job: Callable[..., TrialJob]) -> TrialJob:
    return make_job(0, {})


def test_a_trial_of_a_cached_setting(job: TrialJob, assets: Assets) -> None:
    tags = config_tags(job.config, assets)
    assert tags["data"] == hashlib.sha256(Path(assets.train_annotations).read_bytes()).hexdigest()[:12]
    assert assets.stage1_weights is not None
    assert Path(assets.stage1_weights).parent.name == f"stage1-{tags['stage1']}"
    assert (tags["method"], tags["fidelity"]) == ("acsl", "cached")
    assert (tags["backend"], tags["detector"]) == ("torchvision", "tiny_mask_rcnn_fpn")
    assert tags["differs"] == "; ".join(job.config.differs_from_published)


def test_a_given_stage_1_is_known_by_its_file(job: TrialJob, assets: Assets, tmp_path: Path) -> None:
    weights = tmp_path / "given.pth"
    weights.write_bytes(b"weights")
    config = replace(job.config, stage1=replace(job.config.stage1, checkpoint=str(weights)))
    tags = config_tags(config, replace(assets, stage1_weights=str(weights)))
    assert tags["stage1"] == hashlib.sha256(b"weights").hexdigest()[:12]


def test_what_is_not_there_has_no_tag(job: TrialJob, assets: Assets) -> None:
    assert "stage1" not in config_tags(job.config, replace(assets, stage1_weights=None))
    assert not {"data", "stage1"} & set(config_tags(job.config))


def test_the_version_holds_the_commit_of_a_checkout_alone(tmp_path: Path) -> None:
    assert code_version().partition("+")[0] == version("lttune")
    assert facts._commit(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "first"], check=True)
    assert re.fullmatch("[0-9a-f]{7}", facts._commit(tmp_path))
