"""Initial weights from a file, as far as they fit, with a report of what did not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lttune.detectors.weights.files import read_weights_file
from lttune.detectors.weights.names import NAMINGS, Naming, background_last, naming_of
from lttune.detectors.weights.recipes import STEM, Recipe, adapt_stem, recipe_of_file, recipe_of_module
from lttune.detectors.weights.urls import local_file
from lttune.errors import InputError

# What files hold besides weights, and what a frozen normalisation has no use for.
_CONSTANTS = ("pixel_mean", "pixel_std", "num_batches_tracked", "anchor_generator.cell_anchors.")


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """A tensor whose shape in the file is not the module's."""

    name: str
    given: tuple[int, ...]
    own: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} is {self.given} in the file, {self.own} here"


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What `load_weights` did, by the module's own names but for `unexpected`.

    Attributes:
        naming: whose names the file has.
        loaded: entries that the file gave.
        missing: entries that the file does not have; they keep their start.
        mismatched: entries of another shape in the file; they keep their start.
        unexpected: names of the file that the module does not have.
        notes: where the weights mean something else here although names and shapes agree.
    """

    naming: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    unexpected: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        return not (self.missing or self.mismatched or self.unexpected or self.notes)

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded by the names of {self.naming}"]
        for kind, entries in (
            ("mismatched", self.mismatched),
            ("missing", self.missing),
            ("unexpected", self.unexpected),
        ):
            if entries:
                shown = ", ".join(str(entry) for entry in entries[:8]) + (", ..." if len(entries) > 8 else "")
                lines.append(f"{len(entries)} {kind}: {shown}")
        return "; ".join([*lines, *self.notes])


def load_weights(module: nn.Module, path: str | Path) -> LoadReport:
    """Copy the tensors of a file into `module` where name and shape agree; the rest keeps its start.

    The file may have the names of lttune, of one of the module's submodules, of detectron2's model zoo, Caffe2,
    torchvision or mmdetection; whose they are is found out. Where the file's code counts background first, its rows are
    moved, and a first convolution made for other pixels is changed to give the same on the detector's.

    Args:
        module: what to load into.
        path: `.safetensors`; `.pth` or `.pt` with tensors only; `.pkl` with arrays only; or a `detectron2://` address
            of one. A file that would run code is refused.

    Raises:
        InputError: the file is absent, of another kind, damaged, or has no tensor that fits.
    """
    file = local_file(path)
    stored = read_weights_file(file)
    own = module.state_dict()
    own_naming = naming_of(own)
    own_names = {own_naming.zoo_name(name): name for name in own}
    naming, zoo_names = _best_naming(module, own, own_naming, stored.tensors)
    given = {zoo: stored.tensors[name] for name, zoo in zoo_names.items()}
    if naming.is_background_first:
        given = {zoo: background_last(zoo, tensor) for zoo, tensor in given.items()}
    given |= _folded_statistics(module, own_names, given)
    notes: list[str] = []
    target = recipe_of_module(module, own_names)
    if naming is not own_naming and naming.recipe is not None and target is not None:
        given |= _adapted(given, recipe_of_file(given, naming.recipe, author=stored.author), target, notes)

    here = {own_names[zoo]: tensor for zoo, tensor in given.items() if zoo in own_names}
    fitting = {name: tensor for name, tensor in here.items() if own[name].shape == tensor.shape}
    if not fitting:
        raise InputError(
            f"{file}: none of its {len(stored.tensors)} tensors fits the detector. It has {_examples(stored.tensors)}, "
            f"the detector {_examples(own)}; give weights of this architecture."
        )
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    return LoadReport(
        naming=naming.title,
        loaded=tuple(fitting),
        missing=_but_constants(name for name in own if name not in here),
        mismatched=tuple(
            Mismatch(name=name, given=tuple(tensor.shape), own=tuple(own[name].shape))
            for name, tensor in here.items()
            if name not in fitting
        ),
        unexpected=_but_constants(name for name, zoo in zoo_names.items() if zoo not in own_names),
        notes=tuple(notes),
    )


def _best_naming(
    module: nn.Module, own: Mapping[str, Tensor], own_naming: Naming, tensors: Mapping[str, Tensor]
) -> tuple[Naming, dict[str, str]]:
    """The naming by which most of the file's names are the module's, and the file's names -> the zoo's."""
    own_zoo_names = {own_naming.zoo_name(name) for name in own}

    def num_fitting(naming: Naming) -> tuple[int, int]:
        """A name that a naming does not know stays the same, which may fit by chance: the one that knows more wins."""
        fitting = own_zoo_names.intersection(map(naming.zoo_name, tensors))
        return len(fitting), sum(map(naming.knows, tensors))

    prefix = _best_prefix(module, own, tensors)
    naming = max(NAMINGS, key=num_fitting)
    if prefix and sum(prefix + name in own for name in tensors) > num_fitting(naming)[0]:
        within = replace(own_naming, title=f"its part '{prefix[:-1]}'", recipe=None)
        return within, {name: own_naming.zoo_name(prefix + name) for name in tensors}
    return naming, {name: naming.zoo_name(name) for name in tensors}


def _best_prefix(module: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """The name of `module` itself or of the submodule that knows most of the file's names, outermost first."""
    prefixes = [f"{name}." if name else "" for name, _ in module.named_modules()]
    return max(prefixes, key=lambda prefix: sum(prefix + name in own for name in tensors))


def _folded_statistics(
    module: nn.Module, own_names: Mapping[str, str], given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Statistics that do nothing, for normalisations that a file has as scale and shift alone, as Caffe2's have it."""
    statistics: dict[str, Tensor] = {}
    for zoo, scale in given.items():
        layer = zoo.removesuffix(".weight")
        mean, variance = f"{layer}.running_mean", f"{layer}.running_var"
        if layer == zoo or f"{layer}.bias" not in given or mean in given or variance in given:
            continue
        if variance in own_names:
            norm = module.get_submodule(own_names[variance].rpartition(".")[0])
            eps = getattr(norm, "eps", 0.0)
            statistics |= {mean: torch.zeros(scale.shape), variance: torch.full(scale.shape, 1.0 - eps)}
    return statistics


def _adapted(given: Mapping[str, Tensor], source: Recipe, target: Recipe, notes: list[str]) -> dict[str, Tensor]:
    """The first convolution for the detector's pixels; what cannot be adapted is noted."""
    if STEM not in given or given[STEM].shape[1:2] != (3,):
        return {}
    if source.strides_in_1x1 != target.strides_in_1x1:
        kernels = {True: "1x1", False: "3x3"}
        notes.append(
            f"its residual blocks stride in the {kernels[source.strides_in_1x1]} convolution, those here in the "
            f"{kernels[target.strides_in_1x1]}: features differ until the backbone is trained"
        )
    if source.sees_pixels_of(target):
        return {}
    return {STEM: adapt_stem(given[STEM], source=source, target=target)}


def _but_constants(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not any(constant in name for constant in _CONSTANTS))


def _examples(names: Mapping[str, Tensor]) -> str:
    return ", ".join(f"'{name}'" for name in list(names)[:3]) + (", ..." if len(names) > 3 else "")
