"""Detectors by name, each from the backend that knows it."""

import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from lttune.detectors.base import Detector, DetectorConfig
from lttune.detectors.scopes import seeded
from lttune.detectors.weights import LoadReport, load_weights
from lttune.errors import InputError, did_you_mean
from lttune.losses.base import ClassificationLoss

__all__ = [
    "ARCHITECTURES",
    "BACKENDS",
    "Detector",
    "DetectorConfig",
    "LoadReport",
    "build_detector",
    "load_weights",
    "resolve_backend",
]

logger = logging.getLogger(__name__)


class DetectorBuilder(Protocol):
    """What a backend gives: a detector with fresh weights from the global generator."""

    def __call__(
        self, config: DetectorConfig, *, num_classes: int, make_loss: Callable[[], ClassificationLoss]
    ) -> Detector: ...


def _torchvision() -> DetectorBuilder:
    from lttune.detectors.torchvision import TorchvisionDetector

    return TorchvisionDetector


def _detectron2() -> DetectorBuilder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # detectron2 uses parts of torch that are deprecated; its users cannot mend it
        logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
        from lttune.detectors.detectron2 import Detectron2Detector

    return Detectron2Detector


# Each loads its backend when called, so that an absent one costs nothing.
BACKENDS: dict[str, Callable[[], DetectorBuilder]] = {"torchvision": _torchvision, "detectron2": _detectron2}

ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "torchvision": (
        "tiny_mask_rcnn_fpn",
        "mask_rcnn_r50_fpn",
        "mask_rcnn_r101_fpn",
        "mask_rcnn_x101_64x4d_fpn",
        "faster_rcnn_r50_fpn",
        "faster_rcnn_r101_fpn",
        "faster_rcnn_x101_64x4d_fpn",
    ),
    "detectron2": (
        "tiny_mask_rcnn_fpn",
        "mask_rcnn_r50_fpn",
        "mask_rcnn_r101_fpn",
        "mask_rcnn_x101_64x4d_fpn",
        "faster_rcnn_r50_fpn",
        "faster_rcnn_r101_fpn",
        "faster_rcnn_x101_64x4d_fpn",
        "cascade_mask_rcnn_r50_fpn",
        "cascade_mask_rcnn_r101_fpn",
        "cascade_mask_rcnn_x101_64x4d_fpn",
        "cascade_rcnn_r50_fpn",
        "cascade_rcnn_r101_fpn",
        "cascade_rcnn_x101_64x4d_fpn",
    ),
}


def resolve_backend(config: DetectorConfig) -> str:
    """The backend that builds `config`; `auto` takes detectron2 where it is installed and knows the name, and where
    torchvision cannot build it.

    Raises:
        InputError: no backend, or not the one asked for, knows the name, or it cannot follow the recipe.
    """
    if config.backend == "auto":
        known = list(dict.fromkeys(name for names in ARCHITECTURES.values() for name in names))
        by_whom = "any backend"
    else:
        known, by_whom = list(ARCHITECTURES[config.backend]), f"the {config.backend} backend"
    if config.name not in known:
        raise InputError(f"detector.name: '{config.name}' is not known to {by_whom}.{did_you_mean(config.name, known)}")
    # torchvision has neither a residual block that strides in its 1x1 convolution nor a cascade; its small detector is
    # made for no recipe but its own.
    is_tiny = config.name.startswith("tiny_")
    if is_tiny and (config.recipe, config.roi_align) != ("backend", "backend"):
        raise InputError(
            f"detector.name: '{config.name}' follows no recipe; leave out detector.recipe and detector.roi_align."
        )
    if config.backend == "torchvision" and config.recipe == "d2":
        raise InputError(
            "detector.recipe is d2, which strides in the 1x1 convolution, as torchvision's ResNets cannot; use "
            "detector.backend: detectron2, or detector.recipe: mmdet."
        )
    if config.backend != "auto":
        return config.backend
    can_torchvision = config.name in ARCHITECTURES["torchvision"] and config.recipe != "d2"
    has_detectron2 = find_spec("detectron2") is not None
    return "torchvision" if is_tiny or (can_torchvision and not has_detectron2) else "detectron2"


def build_detector(
    config: DetectorConfig, *, num_classes: int, make_loss: Callable[[], ClassificationLoss], seed: int
) -> Detector:
    """A detector with fresh weights drawn from `seed`, then those of `config.weights` as far as they fit.

    The global generator is left as it was.

    Args:
        config: architecture and RoI rules.
        num_classes: C, foreground categories.
        make_loss: gives one loss per classification stage.
        seed: of the fresh weights.

    Raises:
        InputError: the name is not known, or nothing of the weights file fits.
        MissingExtraError: detectron2 is asked for and not installed.
    """
    builder = BACKENDS[resolve_backend(config)]()
    with seeded(seed):
        detector = builder(config, num_classes=num_classes, make_loss=make_loss)
    if config.weights is not None:
        report = load_weights(detector, Path(config.weights))
        logger.log(logging.INFO if report.is_complete else logging.WARNING, "%s: %s", config.weights, report)
    return detector
