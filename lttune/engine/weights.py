"""Weights by part: names start with the part, so a file does not depend on how a backend nests its modules."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lttune.detectors.base import Detector, PartName
from lttune.engine.checkpoint import replacing
from lttune.errors import CacheError


def part_state(detector: Detector, parts: Iterable[PartName]) -> dict[str, Tensor]:
    """Parameters and buffers of the named parts, as `PART.NAME` -> tensor (not copied)."""
    return {
        f"{part}.{name}": tensor.detach()
        for part in parts
        for name, tensor in detector.parts[part].state_dict().items()
    }


def load_part_state(detector: Detector, state: Mapping[str, Tensor]) -> list[str]:
    """Copy what fits into the detector.

    Returns:
        One line per tensor that did not: absent from the state, or of another shape. Those keep their start.
    """
    left: list[str] = []
    for part, module in detector.parts.items():
        own = module.state_dict()
        fitting: dict[str, Tensor] = {}
        for name, tensor in own.items():
            given = state.get(f"{part}.{name}")
            if given is None:
                left.append(f"{part}.{name}: not in the weights")
            elif given.shape != tensor.shape:
                left.append(f"{part}.{name}: shape {tuple(given.shape)} in the weights, {tuple(tensor.shape)} here")
            else:
                fitting[name] = given
        module.load_state_dict({**own, **fitting})
    return left


def save_weights(detector: Detector, path: Path) -> None:
    """Write every part as one safetensors file, atomically."""
    state = {name: tensor.cpu().contiguous() for name, tensor in part_state(detector, detector.parts).items()}
    with replacing(path) as temporary:
        save_file(state, temporary)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; nothing in it is executed.

    Raises:
        CacheError: the file is absent or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CacheError(f"{path}: not a readable safetensors file ({error}).") from error
