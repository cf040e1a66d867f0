"""Initial weights from a file, as far as they fit, with a report of what did not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lttune.errors import InputError

# Where training codes keep the weights inside a checkpoint.
_NESTED_KEYS = ("model", "state_dict")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What `load_weights` did, by the module's own names but for `unexpected`.

    Attributes:
        loaded: entries that the file gave.
        missing: entries that the file does not have; they keep their start.
        mismatched: entries of another shape in the file; they keep their start.
        unexpected: names of the file that the module does not have.
        prefix: what was put before the file's names: a file of a backbone alone is loaded into it.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unexpected: tuple[str, ...]
    prefix: str = ""

    @property
    def is_complete(self) -> bool:
        return not (self.missing or self.mismatched or self.unexpected)

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded" + (f" into '{self.prefix}'" if self.prefix else "")]
        for kind in ("missing", "mismatched", "unexpected"):
            names = getattr(self, kind)
            if names:
                shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
                lines.append(f"{len(names)} {kind}: {shown}")
        return "; ".join(lines)


def load_weights(module: nn.Module, path: Path) -> LoadReport:
    """Copy the tensors of a file into `module` where name and shape agree; the rest keeps its start.

    The names may be those of `module` or of one of its submodules, which is found out: the published weights of a
    ResNet go into the backbone's body.

    Args:
        module: what to load into.
        path: `.safetensors`, or `.pth` or `.pt` with tensors only; a file that would run code is refused.

    Raises:
        InputError: the file is absent, of another kind, damaged, or has no tensor that fits.
    """
    tensors = _read(path)
    own = module.state_dict()
    prefix = _best_prefix(module, own, tensors)
    given = {prefix + name: tensor for name, tensor in tensors.items()}
    fitting = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise InputError(
            f"{path}: none of its {len(tensors)} tensors fits the detector. It has {_examples(tensors)}, the detector "
            f"{_examples(own)}; use weights saved by lttune or by torchvision's backbones."
        )
    module.load_state_dict(fitting, strict=False)
    return LoadReport(
        loaded=tuple(fitting),
        missing=tuple(name for name in own if name not in given),
        mismatched=tuple(name for name in given if name in own and name not in fitting),
        unexpected=tuple(name for name in tensors if prefix + name not in own),
        prefix=prefix,
    )


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"detector.weights: {path} is not a file; give the path of a .pth or .safetensors file.")
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(
            f"{path}: '{path.suffix}' files are not read, because some of them can run code when opened. "
            f"Convert it to .safetensors, or to a .pth of plain tensors."
        )
    try:
        stored: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    # What a damaged or unsafe file raises depends on where the damage is.
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: cannot be read as tensors only ({first_line}); save it again.") from error
    for key in _NESTED_KEYS:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
    tensors = {k: v for k, v in stored.items() if isinstance(v, Tensor)} if isinstance(stored, Mapping) else {}
    if not tensors:
        raise InputError(f"{path}: holds no named tensors; save `module.state_dict()`.")
    return tensors


def _best_prefix(module: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """The name of `module` itself or of the submodule that knows most of the file's names, outermost first."""
    prefixes = [f"{name}." if name else "" for name, _ in module.named_modules()]
    return max(prefixes, key=lambda prefix: sum(prefix + name in own for name in tensors))


def _examples(names: Mapping[str, Tensor]) -> str:
    return ", ".join(f"'{name}'" for name in list(names)[:3]) + (", ..." if len(names) > 3 else "")
