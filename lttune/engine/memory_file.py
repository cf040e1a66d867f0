"""What RoI augmenters hold, in a file of its own beside the checkpoint, since it may be larger than the detector.

The file carries the iteration in its name and is written before the checkpoint that belongs to it, so a process killed
in between leaves the older pair whole. Afterwards only the newest stays.
"""

from pathlib import Path

from lttune.detectors.base import Detector
from lttune.engine.checkpoint import load_state, save_state
from lttune.losses.base import RoiAugmenter


def memory_file(checkpoint: Path, step: int) -> Path:
    """Where the memory that belongs to the checkpoint of this iteration lies."""
    return checkpoint.with_name(f"{checkpoint.stem}.memory-{step}.pt")


def save_memory(detector: Detector, checkpoint: Path, step: int) -> None:
    """Write what the augmenters hold, atomically; nothing where there are none."""
    if augmenters := _augmenters(detector):
        state = {stage: augmenter.state_dict() for stage, augmenter in augmenters.items()}
        save_state(state, memory_file(checkpoint, step))


def remove_older_memory(checkpoint: Path, step: int) -> None:
    """Remove what belongs to other iterations; the checkpoint of this one must have been written."""
    for path in checkpoint.parent.glob(f"{checkpoint.stem}.memory-*.pt"):
        if path != memory_file(checkpoint, step):
            path.unlink(missing_ok=True)


def load_memory(detector: Detector, checkpoint: Path, step: int) -> None:
    """Give the augmenters what they held.

    Raises:
        CacheError: the file is absent or damaged; nothing was changed.
    """
    if augmenters := _augmenters(detector):
        state = load_state(memory_file(checkpoint, step))
        for stage, augmenter in augmenters.items():
            augmenter.load_state_dict(state[stage])


def _augmenters(detector: Detector) -> dict[str, RoiAugmenter]:
    """By the number of their stage."""
    return {str(i): stage.loss.augmenter for i, stage in enumerate(detector.stages) if stage.loss.augmenter is not None}
