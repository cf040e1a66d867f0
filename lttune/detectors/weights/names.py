"""The same tensors under the names of different training codes.

Every name is translated into that of detectron2's model zoo, those of a file and those of the detector alike, and what
meets there belongs together. A table holds names of modules; what follows the last dot of a tensor's name is everywhere
`weight`, `bias` or the like.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from lttune.detectors.weights.recipes import BODY, MSRA, TORCHVISION, Recipe

Rows = dict[str, str]

_LATERAL, _OUTPUT = "backbone.fpn_lateral{}", "backbone.fpn_output{}"
_RPN = "proposal_generator.rpn_head."
_MASK = "roi_heads.mask_head."
_MASK_CONV = _MASK + "mask_fcn{}"
# Of a detector with one classification stage, and of the three of a cascade.
_STAGES = ("", "0.", "1.", "2.")
_MOST_BLOCKS = 36  # in a stage of ResNet-152


@dataclass(frozen=True, kw_only=True, eq=False)
class Naming:
    """How one training code names the tensors of a detector.

    Attributes:
        title: for messages.
        rows: a module's name in that code -> in the zoo; one without a row is not known there and keeps its name.
        recipe: of files with such names, unless they say otherwise; None is the detector's own.
        is_background_first: the classifier's first row is background, and regressor and mask predictor have a slot for
            it that is never used.
        endings: how that code ends a tensor's name -> how the zoo does, where it writes no dots.
    """

    title: str
    rows: Mapping[str, str]
    recipe: Recipe | None
    is_background_first: bool = False
    endings: Mapping[str, str] = field(default_factory=dict)

    def knows(self, name: str) -> bool:
        return self._split(name)[0] in self.rows

    def zoo_name(self, name: str) -> str:
        module, leaf = self._split(name)
        return self.rows.get(module, module) + leaf

    def _split(self, name: str) -> tuple[str, str]:
        """The module's name and how the zoo ends that of its tensor."""
        for ending, leaf in self.endings.items():
            if name.endswith(ending):
                return name.removesuffix(ending), leaf
        module, dot, leaf = name.rpartition(".")
        return module, dot + leaf


def background_last(zoo_name: str, tensor: Tensor) -> Tensor:
    """A head's tensor with background moved from the first row to the last, or without its unused slot."""
    module = zoo_name.rpartition(".")[0]
    if tensor.ndim == 0:
        return tensor
    if module.endswith("cls_score"):
        return torch.cat([tensor[1:], tensor[:1]])
    if module.endswith("bbox_pred") and len(tensor) > 4:  # class-agnostic ones may have no slot
        return tensor[4:]
    if module == f"{_MASK}predictor" and len(tensor) > 1:
        return tensor[1:]
    return tensor


def naming_of(names: Mapping[str, object]) -> Naming:
    """Which of our backends' namings a detector has; any module that neither knows keeps its names in both."""

    return max((TORCHVISION_BACKEND, DETECTRON2_BACKEND), key=lambda naming: sum(map(naming.knows, names)))


def _counted(theirs: str, zoo: str, *, start: int) -> Rows:
    """Four modules in a row: `{}` counts from 0 in their names, from `start` in the zoo's."""
    return {theirs.format(i): zoo.format(i + start) for i in range(4)}


def _blocks() -> Iterator[tuple[int, int]]:
    """Stage, counted from 1, and block, counted from 0, of any residual body."""
    return product(range(1, 5), range(_MOST_BLOCKS))


def _resnet(prefix: str) -> Rows:
    """A residual body with torchvision's names."""
    rows = {f"{prefix}conv1": f"{BODY}stem.conv1", f"{prefix}bn1": f"{BODY}stem.conv1.norm"}
    for stage, block in _blocks():
        theirs, zoo = f"{prefix}layer{stage}.{block}.", f"{BODY}res{stage + 1}.{block}."
        rows |= {f"{theirs}downsample.0": f"{zoo}shortcut", f"{theirs}downsample.1": f"{zoo}shortcut.norm"}
        for i in (1, 2, 3):
            rows |= {f"{theirs}conv{i}": f"{zoo}conv{i}", f"{theirs}bn{i}": f"{zoo}conv{i}.norm"}
    return rows


def _mmdetection(*, heads: str) -> Rows:
    """Faster, Mask and Cascade R-CNN; `heads` comes before the names of the heads."""
    rows = {
        **_resnet("backbone."),
        **_counted("neck.lateral_convs.{}.conv", _LATERAL, start=2),
        **_counted("neck.fpn_convs.{}.conv", _OUTPUT, start=2),
        "rpn_head.rpn_conv": f"{_RPN}conv",
        "rpn_head.rpn_cls": f"{_RPN}objectness_logits",
        "rpn_head.rpn_reg": f"{_RPN}anchor_deltas",
    }
    for first in ("", "0."):  # a cascade there has a mask head per stage; one that serves all takes the first stage's
        theirs = f"{heads}mask_head.{first}"
        rows |= {
            **_counted(f"{theirs}convs.{{}}.conv", _MASK_CONV, start=1),
            f"{theirs}upsample": f"{_MASK}deconv",
            f"{theirs}conv_logits": f"{_MASK}predictor",
        }
    for stage in _STAGES:
        theirs = f"{heads}bbox_head.{stage}"
        rows |= {
            f"{theirs}shared_fcs.0": f"roi_heads.box_head.{stage}fc1",
            f"{theirs}shared_fcs.1": f"roi_heads.box_head.{stage}fc2",
            f"{theirs}fc_cls": f"roi_heads.box_predictor.{stage}cls_score",
            f"{theirs}fc_reg": f"roi_heads.box_predictor.{stage}bbox_pred",
        }
    return rows


def _torchvision(*, box_head: str) -> Rows:
    """What torchvision's detectors and our backend of its parts name alike; older versions had no `.0` at the end."""
    return {
        **_resnet("backbone.body."),
        **_counted("backbone.fpn.inner_blocks.{}", _LATERAL, start=2),
        **_counted("backbone.fpn.inner_blocks.{}.0", _LATERAL, start=2),
        **_counted("backbone.fpn.layer_blocks.{}", _OUTPUT, start=2),
        **_counted("backbone.fpn.layer_blocks.{}.0", _OUTPUT, start=2),
        "rpn.head.conv": f"{_RPN}conv",
        "rpn.head.conv.0.0": f"{_RPN}conv",
        "rpn.head.cls_logits": f"{_RPN}objectness_logits",
        "rpn.head.bbox_pred": f"{_RPN}anchor_deltas",
        f"{box_head}fc6": "roi_heads.box_head.fc1",
        f"{box_head}fc7": "roi_heads.box_head.fc2",
    }


def _detectron2_backend() -> Rows:
    """The zoo's names within our wrapper, and as a file that starts each name with its part has them."""
    zoo_modules = set(MMDETECTION.rows.values())
    rows = {f"model.{zoo}": zoo for zoo in zoo_modules}
    for zoo in zoo_modules:
        rows[zoo.replace("proposal_generator.", "rpn.").removeprefix("roi_heads.")] = zoo
    for stage in _STAGES:
        predictor = f"roi_heads.box_predictor.{stage}"
        rows[f"model.{predictor}stage.classifier"] = f"{predictor}cls_score"
        if number := stage.removesuffix("."):
            rows[f"classifier.{number}"] = f"{predictor}cls_score"
            rows[f"box_regressor.{number}"] = f"{predictor}bbox_pred"
    return rows | _ONE_STAGE


def _caffe2() -> Rows:
    """Detectron's names in Caffe2, of backbones and of detectors."""
    rows = {
        "conv1": f"{BODY}stem.conv1",
        "res_conv1": f"{BODY}stem.conv1",
        "conv_rpn_fpn2": f"{_RPN}conv",
        "rpn_cls_logits_fpn2": f"{_RPN}objectness_logits",
        "rpn_bbox_pred_fpn2": f"{_RPN}anchor_deltas",
        "fc6": "roi_heads.box_head.fc1",
        "fc7": "roi_heads.box_head.fc2",
        "cls_score": "roi_heads.box_predictor.cls_score",
        "bbox_pred": "roi_heads.box_predictor.bbox_pred",
        **{f"_[mask]_fcn{i}": _MASK_CONV.format(i) for i in range(1, 5)},
        "conv5_mask": f"{_MASK}deconv",
        "mask_fcn_logits": f"{_MASK}predictor",
    }
    branches = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
    for stage, block in _blocks():
        theirs, zoo = f"res{stage + 1}_{block}", f"{BODY}res{stage + 1}.{block}."
        rows |= {f"{theirs}_{branch}": zoo + conv for branch, conv in branches.items()}
        # The pyramid takes each stage's last block, whichever that is; the topmost one has no `lateral` in its name.
        rows[f"fpn_inner_{theirs}_sum_lateral"] = rows[f"fpn_inner_{theirs}_sum"] = _LATERAL.format(stage + 1)
        rows[f"fpn_{theirs}_sum"] = _OUTPUT.format(stage + 1)
    return rows


# Our classifier and regressor, as a detector and as a file by part name them.
_ONE_STAGE: Rows = {
    "stage.classifier": "roi_heads.box_predictor.cls_score",
    "classifier": "roi_heads.box_predictor.cls_score",
    "box_regressor": "roi_heads.box_predictor.bbox_pred",
}

MMDETECTION = Naming(title="mmdetection", rows=_mmdetection(heads="roi_head."), recipe=TORCHVISION)
MMDETECTION_1 = Naming(title="mmdetection 1", rows=_mmdetection(heads=""), recipe=TORCHVISION, is_background_first=True)
TORCHVISION_BODY = Naming(title="torchvision's ResNet", rows=_resnet(""), recipe=TORCHVISION)
TORCHVISION_DETECTOR = Naming(
    title="torchvision's detector",
    rows={
        **_torchvision(box_head="roi_heads.box_head."),
        **_counted("roi_heads.mask_head.{}.0", _MASK_CONV, start=1),  # older versions had the zoo's name
        "roi_heads.mask_predictor.conv5_mask": f"{_MASK}deconv",
        "roi_heads.mask_predictor.mask_fcn_logits": f"{_MASK}predictor",
    },
    recipe=TORCHVISION,
    is_background_first=True,
)
TORCHVISION_BACKEND = Naming(
    title="lttune's torchvision backend",
    rows={
        **_torchvision(box_head="box_head."),
        **_counted("mask_head.layers.0.{}.0", _MASK_CONV, start=1),
        "mask_head.layers.1": f"{_MASK}deconv",
        "mask_head.predictor": f"{_MASK}predictor",
        **_ONE_STAGE,
    },
    recipe=TORCHVISION,
)
DETECTRON2_BACKEND = Naming(title="lttune's detectron2 backend", rows=_detectron2_backend(), recipe=MSRA)
DETECTRON2_ZOO = Naming(
    title="detectron2's model zoo",
    # A backbone alone is without its prefix.
    rows={name: zoo for zoo in MMDETECTION.rows.values() for name in (zoo, zoo.removeprefix(BODY))},
    recipe=MSRA,
)
CAFFE2 = Naming(
    title="Caffe2",
    rows=_caffe2(),
    recipe=MSRA,
    is_background_first=True,
    endings={
        "_bn_s": ".norm.weight",
        "_bn_b": ".norm.bias",
        "_bn_rm": ".norm.running_mean",
        "_bn_riv": ".norm.running_var",
        "_w": ".weight",
        "_b": ".bias",
    },
)

NAMINGS = (
    TORCHVISION_BACKEND,
    DETECTRON2_BACKEND,
    DETECTRON2_ZOO,
    TORCHVISION_BODY,
    TORCHVISION_DETECTOR,
    MMDETECTION,
    MMDETECTION_1,
    CAFFE2,
)
