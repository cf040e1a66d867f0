"""What is known of a trial beyond its values, as tags."""

import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from lttune.detectors import resolve_backend
from lttune.engine.assets import Assets, file_digest_once
from lttune.engine.config import TrainConfig

# Characters of a digest: as many as the names of cache folders have.
_LENGTH = 12


def config_tags(config: TrainConfig, assets: Assets | None = None) -> dict[str, str]:
    """What a trial runs.

    Args:
        assets: what it stands on; `data` and `stage1` are left out where it is not known.

    Returns:
        `method`, `fidelity`, `differs` (what it leaves out of the published method), `backend`, `detector` and
        `version`; `data`, a digest of the training annotations; `stage1`, the digest in the name of the model's folder
        in the cache, or that of a given file, where there is such a model.
    """
    tags = {
        "method": config.method,
        "fidelity": config.fidelity,
        "differs": "; ".join(config.differs_from_published),
        "backend": resolve_backend(config.detector),
        "detector": config.detector.name,
        "version": code_version(),
    }
    if assets is not None:
        if Path(assets.train_annotations).exists():  # a cluster's node may have drawn them on its own disk
            tags["data"] = assets.train_digest[:_LENGTH]
        if assets.stage1_weights is not None:
            tags["stage1"] = _stage1_digest(config, assets.stage1_weights)
    return tags


def _stage1_digest(config: TrainConfig, weights: str) -> str:
    if config.stage1.checkpoint is not None:
        return file_digest_once(weights)[:_LENGTH]
    return Path(weights).parent.name.removeprefix("stage1-")


@lru_cache
def code_version() -> str:
    """lttune's version, with the commit where it runs from a git checkout."""
    root = Path(__file__).parents[2]
    commit = _commit(root) if (root / ".git").exists() else ""
    return f"{version('lttune')}+{commit}" if commit else version("lttune")


def _commit(root: Path) -> str:
    """The short commit of a checkout; empty where git does not tell."""
    command = ["git", "-C", str(root), "rev-parse", "--short=7", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
