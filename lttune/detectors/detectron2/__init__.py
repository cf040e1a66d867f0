"""detectron2's Faster, Mask and Cascade R-CNN with our classification losses: the full-strength backend.

recipe.py    an architecture and a recipe as detectron2's configuration
heads.py     output layers with a classification stage of ours, and the pooler of mmdetection 1
detector.py  the detector
"""

from lttune.errors import MissingExtraError

try:
    import detectron2  # noqa: F401 - so that an absent one is told of, whatever of this package is loaded already

    from lttune.detectors.detectron2.detector import Detectron2Detector
    from lttune.detectors.detectron2.recipe import ARCHITECTURES
except ImportError as error:
    raise MissingExtraError(
        f"the detectron2 backend cannot be imported ({error}). Install the packages it needs with "
        "`pip install 'lttune[detectron2]'` and detectron2 itself as its own installation guide says, or choose "
        "detector.backend: torchvision."
    ) from error

__all__ = ["ARCHITECTURES", "Detectron2Detector"]
