"""Weights under the names of other codes reach the right tensors of both backends.

The names here are written from what those codes print, in the direction from ours to theirs, so that no table of the
package is its own judge. Large tensors differ by row alone, which keeps their files small.
"""

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from lttune.detectors import BACKENDS, Detector, DetectorConfig, build_detector, load_weights
from lttune.detectors.weights.names import (
    CAFFE2,
    MMDETECTION,
    MMDETECTION_1,
    TORCHVISION_BODY,
    TORCHVISION_DETECTOR,
    background_last,
)
from lttune.engine.weights import part_state
from lttune.losses import build_loss
from lttune.losses.base import ClassificationLoss
from lttune.types import CategoryFrequencies

NUM_CLASSES = 5
NEEDS_DETECTRON2 = [
    pytest.mark.detectron2,
    pytest.mark.skipif(find_spec("detectron2") is None, reason="detectron2 is not installed; see its own guide"),
]
needs_detectron2 = NEEDS_DETECTRON2[1]
BOTH = ["torchvision", pytest.param("detectron2", marks=NEEDS_DETECTRON2)]
MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
STEMS = {"torchvision": "backbone.body.conv1.weight", "detectron2": "model.backbone.bottom_up.stem.conv1.weight"}
STRIDE_NOTE = r"stride in the (1x1|3x3) convolution, those here in the (1x1|3x3)"


@pytest.fixture(scope="module")
def built() -> Callable[[str], Detector]:
    """A Mask R-CNN R50 of either backend as it is built for given weights, made once."""
    detectors: dict[str, Detector] = {}

    def get(backend: str) -> Detector:
        if backend not in detectors:
            counts = torch.tensor([500, 200, 50, 20, 5])
            frequencies = CategoryFrequencies(
                image_count=counts, instance_count=counts, group=torch.tensor([2, 2, 1, 1, 0])
            )
            detectors[backend] = BACKENDS[backend]()(
                DetectorConfig(name="mask_rcnn_r50_fpn", backend=backend, weights="given.pth"),
                num_classes=NUM_CLASSES,
                make_loss=lambda: build_loss("cross_entropy", num_classes=NUM_CLASSES, frequencies=frequencies),
            )
        return detectors[backend]

    return get


@pytest.fixture
def make(built: Callable[[str], Detector]) -> Callable[[str], Detector]:
    """The same with NaN in every tensor, so that nothing is right by having been so before."""

    def get(backend: str) -> Detector:
        detector = built(backend)
        for tensor in detector.state_dict().values():
            tensor.fill_(torch.nan)
        return detector

    return get


def values_like(detector: Detector, *, seed: int = 0) -> dict[str, Tensor]:
    """Other values for every tensor of a detector, exact in half precision."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randint(-512, 512, shape, generator=generator) / 128

    values = {}
    for name, tensor in detector.state_dict().items():
        rows = draw(*tensor.shape) if tensor.numel() < 50_000 else draw(len(tensor), *(1 for _ in tensor.shape[1:]))
        values[name] = rows.expand(tensor.shape)
    return values


def renamed(values: Mapping[str, Tensor], rules: list[tuple[str, Any]]) -> dict[str, Tensor]:
    """By all rules in turn."""

    def rename(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return {rename(name): value for name, value in values.items()}


def plus(n: int, before: str, after: str) -> Callable[[re.Match[str]], str]:
    """A replacement with the group, counted on by n, in its middle."""
    return lambda match: f"{before}{int(match[1]) + n}{after}"


FROM_TORCHVISION = [
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"^rpn\.head\.conv\.0\.0\.", "rpn_head.rpn_conv."),
    (r"^rpn\.head\.cls_logits\.", "rpn_head.rpn_cls."),
    (r"^rpn\.head\.bbox_pred\.", "rpn_head.rpn_reg."),
    (r"^box_head\.fc6\.", "roi_head.bbox_head.shared_fcs.0."),
    (r"^box_head\.fc7\.", "roi_head.bbox_head.shared_fcs.1."),
    (r"^stage\.classifier\.", "roi_head.bbox_head.fc_cls."),
    (r"^box_regressor\.", "roi_head.bbox_head.fc_reg."),
    (r"^mask_head\.layers\.0\.(\d)\.0\.", r"roi_head.mask_head.convs.\1.conv."),
    (r"^mask_head\.layers\.1\.", "roi_head.mask_head.upsample."),
    (r"^mask_head\.predictor\.", "roi_head.mask_head.conv_logits."),
]
TO_TORCHVISION_BODY = [
    (r"\bstem\.conv1\.norm\.", "bn1."),
    (r"\bstem\.conv1\.", "conv1."),
    (r"\bres(\d)\.", plus(-1, "layer", ".")),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
]
FROM_DETECTRON2 = [
    (r"^model\.", ""),
    (r"^backbone\.bottom_up\.", "backbone."),
    *TO_TORCHVISION_BODY,
    (r"^backbone\.fpn_lateral(\d)\.", plus(-2, "neck.lateral_convs.", ".conv.")),
    (r"^backbone\.fpn_output(\d)\.", plus(-2, "neck.fpn_convs.", ".conv.")),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn_head.rpn_conv."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn_head.rpn_cls."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn_head.rpn_reg."),
    (r"^roi_heads\.box_head\.fc(\d)\.", plus(-1, "roi_head.bbox_head.shared_fcs.", ".")),
    (r"^roi_heads\.box_predictor\.stage\.classifier\.", "roi_head.bbox_head.fc_cls."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi_head.bbox_head.fc_reg."),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", plus(-1, "roi_head.mask_head.convs.", ".conv.")),
    (r"^roi_heads\.mask_head\.deconv\.", "roi_head.mask_head.upsample."),
    (r"^roi_heads\.mask_head\.predictor\.", "roi_head.mask_head.conv_logits."),
]
TO_MMDETECTION = {"torchvision": FROM_TORCHVISION, "detectron2": FROM_DETECTRON2}


def assert_all_loaded(detector: Detector, values: Mapping[str, Tensor], *, but: str = "") -> None:
    for name, tensor in detector.state_dict().items():
        assert name == but or torch.equal(tensor, values[name]), name


def assert_same_on_photographs(weight: Tensor, detector: Detector, *, given: Tensor, is_bgr: bool, std: Tensor) -> None:
    """Two first convolutions give the same, `given` on pixels of its own kind and `weight` on the detector's."""
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randint(0, 256, (1, 3, 9, 9), generator=generator).float()
    centred = rgb - MEAN.view(3, 1, 1)
    theirs = (centred.flip(1) if is_bgr else centred) / std.view(3, 1, 1)
    buffers = {name.rpartition(".")[2]: buffer for name, buffer in detector.named_buffers()}
    mean_is_bgr = buffers["pixel_mean"].flatten()[0] < 110
    ours = ((rgb.flip(1) if mean_is_bgr else rgb) - buffers["pixel_mean"]) / buffers["pixel_std"]
    expected = F.conv2d(theirs, given, padding=3)
    torch.testing.assert_close(F.conv2d(ours, weight, padding=3), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("backend", BOTH)
def test_mmdetection_2(backend: str, make: Callable[[str], Detector], tmp_path: Path) -> None:
    detector = make(backend)
    values = values_like(detector)
    state = renamed(values, TO_MMDETECTION[backend])
    assert {name.partition(".")[0] for name in state} == {"backbone", "neck", "rpn_head", "roi_head"}
    counters = {"backbone.bn1.num_batches_tracked": torch.tensor(9)}
    meta = {"mmdet_version": "2.25.0", "CLASSES": ("a", "b"), "config": "model = dict(type='MaskRCNN')", "epoch": 12}
    torch.save({"meta": meta, "state_dict": {**state, **counters}}, tmp_path / "epoch_12.pth")
    report = load_weights(detector, tmp_path / "epoch_12.pth")
    assert report.naming == "mmdetection"
    assert set(report.loaded) == set(values)
    assert report.missing == report.mismatched == report.unexpected == ()
    assert_all_loaded(detector, values, but=STEMS["detectron2"])
    if backend == "torchvision":
        assert report.is_complete
    else:
        assert re.search(STRIDE_NOTE, report.notes[0])
        stem = detector.state_dict()[STEMS[backend]]
        assert_same_on_photographs(stem, detector, given=values[STEMS[backend]], is_bgr=False, std=STD)


@pytest.mark.parametrize("backend", BOTH)
def test_mmdetection_1_has_no_roi_head_and_background_first(
    backend: str, make: Callable[[str], Detector], tmp_path: Path
) -> None:
    detector = make(backend)
    values = values_like(detector, seed=1)
    state = renamed(values, [*TO_MMDETECTION[backend], (r"^roi_head\.", "")])
    for leaf in ("weight", "bias"):
        scores, deltas, masks = (
            f"{head}.{leaf}" for head in ("bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits")
        )
        state[scores] = torch.cat([state[scores][-1:], state[scores][:-1]])
        state[deltas] = torch.cat([torch.full_like(state[deltas][:4], 9.0), state[deltas]])
        state[masks] = torch.cat([torch.full_like(state[masks][:1], 9.0), state[masks]])
    torch.save({"meta": {"mmdet_version": "1.0rc1"}, "state_dict": state}, tmp_path / "acsl.pth")
    report = load_weights(detector, tmp_path / "acsl.pth")
    assert report.naming == "mmdetection 1"
    assert report.missing == report.mismatched == report.unexpected == ()
    assert_all_loaded(detector, values, but=STEMS["detectron2"])


def test_a_faster_rcnn_of_other_categories_leaves_the_rest_and_names_it(
    make: Callable[[str], Detector], tmp_path: Path
) -> None:
    detector = make("torchvision")
    state = renamed(values_like(detector), FROM_TORCHVISION)
    state = {name: value for name, value in state.items() if "mask_head" not in name}
    for name in list(state):
        if ".fc_cls." in name or ".fc_reg." in name:
            rows = 81 if "fc_cls" in name else 320
            state[name] = torch.zeros(rows, *state[name].shape[1:])
    torch.save({"state_dict": state}, tmp_path / "coco.pth")
    report = load_weights(detector, tmp_path / "coco.pth")
    assert "stage.classifier.weight is (81, 1024) in the file, (6, 1024) here" in str(report)
    assert "box_regressor.bias is (320,) in the file, (20,) here" in str(report)
    assert len(report.mismatched) == 4
    assert {name.partition(".")[0] for name in report.missing} == {"mask_head"}
    assert detector.state_dict()["stage.classifier.weight"].isnan().all()


@pytest.mark.detectron2
@needs_detectron2
@pytest.mark.parametrize("backend", ["torchvision", "detectron2"])
def test_a_final_model_of_detectron2s_zoo(backend: str, make: Callable[[str], Detector], tmp_path: Path) -> None:
    detector = make(backend)
    values = values_like(detector, seed=2)
    # To the zoo's names, through mmdetection's for the torchvision backend.
    back = [
        (r"^neck\.lateral_convs\.(\d)\.conv", plus(2, "backbone.fpn_lateral", "")),
        (r"^neck\.fpn_convs\.(\d)\.conv", plus(2, "backbone.fpn_output", "")),
        (r"^rpn_head\.rpn_conv", "proposal_generator.rpn_head.conv"),
        (r"^rpn_head\.rpn_cls", "proposal_generator.rpn_head.objectness_logits"),
        (r"^rpn_head\.rpn_reg", "proposal_generator.rpn_head.anchor_deltas"),
        (r"^roi_head\.bbox_head\.shared_fcs\.(\d)", plus(1, "roi_heads.box_head.fc", "")),
        (r"^roi_head\.bbox_head\.fc_cls", "roi_heads.box_predictor.cls_score"),
        (r"^roi_head\.bbox_head\.fc_reg", "roi_heads.box_predictor.bbox_pred"),
        (r"^roi_head\.mask_head\.convs\.(\d)\.conv", plus(1, "roi_heads.mask_head.mask_fcn", "")),
        (r"^roi_head\.mask_head\.upsample", "roi_heads.mask_head.deconv"),
        (r"^roi_head\.mask_head\.conv_logits", "roi_heads.mask_head.predictor"),
        (r"^backbone\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
        (r"^backbone\.conv1\.", "backbone.bottom_up.stem.conv1."),
        (r"^backbone\.layer(\d)\.", plus(1, "backbone.bottom_up.res", ".")),
        (r"\.downsample\.1\.", ".shortcut.norm."),
        (r"\.downsample\.0\.", ".shortcut."),
        (r"\.bn(\d)\.", r".conv\1.norm."),
    ]
    rules = (
        [*FROM_TORCHVISION, *back]
        if backend == "torchvision"
        else [(r"^model\.", ""), (r"stage\.classifier", "cls_score")]
    )
    state = renamed(values, rules)
    extras = {"pixel_mean": MEAN.flip(0).view(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    extras["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    torch.save({"model": {**state, **extras}, "iteration": 179999}, tmp_path / "model_final.pth")
    report = load_weights(detector, tmp_path / "model_final.pth")
    assert report.naming == "detectron2's model zoo"
    assert report.missing == report.mismatched == report.unexpected == ()
    assert_all_loaded(detector, values, but=STEMS["torchvision"])
    assert report.is_complete == (backend == "detectron2")
    if backend == "torchvision":
        assert "stride in the 1x1 convolution, those here in the 3x3" in report.notes[0]
        stem = detector.state_dict()[STEMS[backend]]
        assert_same_on_photographs(stem, detector, given=values[STEMS[backend]], is_bgr=True, std=torch.ones(3))


BRANCHES = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
TO_CAFFE2 = [
    (r"^model\.backbone\.bottom_up\.", ""),
    (r"^stem\.conv1\.norm\.", "res_conv1_bn."),
    (r"^stem\.", ""),
    (r"^(res\d)\.(\d+)\.(\w+)", lambda match: f"{match[1]}_{match[2]}_{BRANCHES[match[3]]}"),
    (r"\.norm\.", "_bn."),
    (r"_bn\.weight$", "_bn_s"),
    (r"_bn\.bias$", "_bn_b"),
    (r"\.weight$", "_w"),
]


@pytest.mark.detectron2
@needs_detectron2
def test_a_backbone_of_caffe2_with_folded_normalisation(make: Callable[[str], Detector], tmp_path: Path) -> None:
    """Of its first two stages, the stem and res2: all blocks have the same names."""
    detector = make("detectron2")
    body = {
        name: value
        for name, value in values_like(detector, seed=3).items()
        if re.search(r"bottom_up\.(stem|res2)", name) and "running" not in name
    }
    state: dict[str, Any] = {name: value.numpy() for name, value in renamed(body, TO_CAFFE2).items()}
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch1_w", "res2_2_branch2c_bn_b"} <= state.keys()
    state |= {"conv1_w_momentum": np.ones(3), "fc1000_w": np.ones((10, 2048), np.float32)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": state}, protocol=2))

    report = load_weights(detector, tmp_path / "R-50.pkl")
    assert report.naming == "Caffe2"
    assert report.unexpected == ("fc1000_w",)
    assert report.mismatched == report.notes == ()
    own = detector.state_dict()
    assert all(torch.equal(own[name], value) for name, value in body.items())
    norm = detector.get_submodule("model.backbone.bottom_up.res2.1.conv2.norm")
    x = torch.randn(2, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    weight, bias = norm.weight.view(-1, 1, 1), norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(norm(x), x * weight + bias)

    other = make("torchvision")
    report = load_weights(other, tmp_path / "R-50.pkl")
    assert len(report.loaded) == 5 * (1 + 4 + 3 + 3)
    assert "1x1" in report.notes[0]
    torch.testing.assert_close(other.get_submodule("backbone.body.layer1.1.bn2")(x), x * weight + bias)
    given = body["model.backbone.bottom_up.stem.conv1.weight"]
    stem = other.state_dict()[STEMS["torchvision"]]
    assert_same_on_photographs(stem, other, given=given, is_bgr=True, std=torch.ones(3))


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("is_converted", [False, True], ids=["by torchvision", "converted for detectron2"])
def test_imagenet_weights_of_torchvision(
    is_converted: bool, backend: str, make: Callable[[str], Detector], tmp_path: Path
) -> None:
    detector = make(backend)
    generator = torch.Generator().manual_seed(4)
    with torch.device("meta"):
        body = torchvision.models.resnet50()
    state = {
        name: torch.randn(len(tensor), *(1 for _ in tensor.shape[1:]), generator=generator).expand(tensor.shape)
        for name, tensor in body.state_dict().items()
        if re.match(r"(conv1|bn1|layer1|fc)\.", name) and "num_batches" not in name
    }
    state["conv1.weight"] = torch.randn(64, 3, 7, 7, generator=generator)
    if is_converted:
        rules = [
            (r"^(conv|bn|fc)", r"stem.\1"),
            (r"layer1", "res2"),
            (r"\bbn(\d)", r"conv\1.norm"),
            (r"downsample\.0", "shortcut"),
            (r"downsample\.1", "shortcut.norm"),
        ]
        arrays = {name: value.numpy() for name, value in renamed(state, rules).items()}
        stored = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
        path = tmp_path / "R-50.pkl"
        path.write_bytes(pickle.dumps(stored))
    else:
        path = tmp_path / "resnet50-11ad3fa6.pth"
        torch.save(state, path)
    report = load_weights(detector, path)
    prefix = "stem." if is_converted else ""
    assert set(report.unexpected) == {f"{prefix}fc.weight", f"{prefix}fc.bias"}
    assert len(report.loaded) == len(state) - 2
    assert bool(report.notes) == (backend == "detectron2")
    own = detector.state_dict()
    assert_same_on_photographs(own[STEMS[backend]], detector, given=state["conv1.weight"], is_bgr=False, std=STD)
    names = {
        "torchvision": ("backbone.body.layer1.0.downsample.1.running_var", "backbone.body.layer1.2.conv3.weight"),
        "detectron2": (
            "model.backbone.bottom_up.res2.0.shortcut.norm.running_var",
            "model.backbone.bottom_up.res2.2.conv3.weight",
        ),
    }[backend]
    assert torch.equal(own[names[0]], state["layer1.0.downsample.1.running_var"])
    assert torch.equal(own[names[1]], state["layer1.2.conv3.weight"])


def test_a_detector_of_torchvision(make: Callable[[str], Detector], tmp_path: Path) -> None:
    """The names come from torchvision itself; background is first there."""
    detector = make("torchvision")
    values = values_like(detector, seed=5)
    rules = [
        (r"^box_head\.", "roi_heads.box_head."),
        (r"^stage\.classifier\.", "roi_heads.box_predictor.cls_score."),
        (r"^box_regressor\.", "roi_heads.box_predictor.bbox_pred."),
        (r"^mask_head\.layers\.0\.", "roi_heads.mask_head."),
        (r"^mask_head\.layers\.1\.", "roi_heads.mask_predictor.conv5_mask."),
        (r"^mask_head\.predictor\.", "roi_heads.mask_predictor.mask_fcn_logits."),
    ]
    state = renamed(values, rules)
    with torch.device("meta"):
        published = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    expected = {name for name in published.state_dict() if "num_batches_tracked" not in name}
    assert state.keys() == expected
    heads = {"box_predictor.cls_score": 1, "box_predictor.bbox_pred": 4, "mask_predictor.mask_fcn_logits": 1}
    for head, num_rows in heads.items():
        for leaf in ("weight", "bias"):
            name = f"roi_heads.{head}.{leaf}"
            last = state[name][-num_rows:]
            state[name] = torch.cat([last, state[name][:-1] if "cls_score" in head else state[name]])
    torch.save(state, tmp_path / "maskrcnn_resnet50_fpn_coco.pth")
    report = load_weights(detector, tmp_path / "maskrcnn_resnet50_fpn_coco.pth")
    assert report.naming == "torchvision's detector"
    assert report.is_complete
    assert_all_loaded(detector, values)


def test_names_of_torchvisions_older_detectors() -> None:
    old = {
        "backbone.fpn.inner_blocks.1.weight": "backbone.fpn_lateral3.weight",
        "backbone.fpn.layer_blocks.3.bias": "backbone.fpn_output5.bias",
        "rpn.head.conv.weight": "proposal_generator.rpn_head.conv.weight",
        "roi_heads.mask_head.mask_fcn4.bias": "roi_heads.mask_head.mask_fcn4.bias",
    }
    assert {name: TORCHVISION_DETECTOR.zoo_name(name) for name in old} == old


BY_PART = {
    "torchvision": [(r"^stage\.", "")],
    "detectron2": [
        (r"^model\.(roi_heads\.)?", ""),
        (r"^proposal_generator\.", "rpn."),
        (r"^box_predictor\.stage\.", ""),
        (r"^box_predictor\.bbox_pred\.", "box_regressor."),
    ],
}


@pytest.mark.parametrize("other", BOTH)
@pytest.mark.parametrize("backend", BOTH)
def test_weights_that_lttune_saved_go_into_either_backend(
    backend: str, other: str, make: Callable[[str], Detector], tmp_path: Path
) -> None:
    """Each name starts with its part there."""
    detector = make(backend)
    values = values_like(detector, seed=6)
    state = renamed(values, BY_PART[backend])
    assert state.keys() == part_state(detector, detector.parts).keys()
    torch.save(state, tmp_path / "weights.pt")
    target = make(other)
    report = load_weights(target, tmp_path / "weights.pt")
    assert report.naming == f"lttune's {backend} backend"
    assert report.missing == report.mismatched == report.unexpected == ()
    assert report.is_complete == (backend == other)
    theirs = renamed(values, TO_MMDETECTION[backend])
    ours = renamed(target.state_dict(), TO_MMDETECTION[other])
    assert theirs.keys() == ours.keys()
    stem = () if backend == other else ("backbone.conv1.weight",)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name not in stem)


@pytest.fixture(scope="module")
def zoo_names() -> Callable[[str], set[str]]:
    """Names of the tensors of a model of detectron2's zoo, as detectron2 builds it."""

    def get(recipe: str) -> set[str]:
        import detectron2
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model

        cfg = get_cfg()
        cfg.merge_from_file(str(Path(detectron2.__file__).parent / "model_zoo" / "configs" / recipe))
        cfg.MODEL.DEVICE = "meta"
        with torch.device("meta"):
            return set(build_model(cfg).state_dict())

    BACKENDS["detectron2"]()  # the first import warns of what its users cannot mend
    return get


LVIS = "LVISv1-InstanceSegmentation/mask_rcnn_"


@pytest.mark.detectron2
@needs_detectron2
@pytest.mark.parametrize(
    ("recipe", "build"),
    [
        (f"{LVIS}R_101_FPN_1x.yaml", torchvision.models.resnet101),
        (f"{LVIS}X_101_32x8d_FPN_1x.yaml", torchvision.models.resnext101_32x8d),
    ],
)
def test_every_block_of_a_deeper_body_has_its_name(
    recipe: str, build: Callable[[], torch.nn.Module], zoo_names: Callable[[str], set[str]]
) -> None:
    with torch.device("meta"):
        names = [n for n in build().state_dict() if "num_batches" not in n and not n.startswith("fc.")]
    zoo = {name for name in zoo_names(recipe) if "bottom_up" in name}
    assert {TORCHVISION_BODY.zoo_name(name) for name in names} == zoo
    assert {MMDETECTION.zoo_name(f"backbone.{name}") for name in names} == zoo


@pytest.mark.detectron2
@needs_detectron2
def test_a_cascade_of_mmdetection_has_detectron2s_names(zoo_names: Callable[[str], set[str]]) -> None:
    modules = [f"{i}.{layer}" for i in range(3) for layer in ("shared_fcs.0", "shared_fcs.1", "fc_cls", "fc_reg")]
    heads = {name for name in zoo_names("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml") if "heads.box" in name}
    for naming, prefix in ((MMDETECTION, "roi_head."), (MMDETECTION_1, "")):
        names = [f"{prefix}bbox_head.{module}.{leaf}" for module in modules for leaf in ("weight", "bias")]
        assert {naming.zoo_name(name) for name in names} == heads


@pytest.mark.slow
@pytest.mark.detectron2
@needs_detectron2
def test_a_file_of_mmdetection_fills_a_cascade(tmp_path: Path, make_loss: Callable[..., ClassificationLoss]) -> None:
    config = DetectorConfig(
        name="cascade_mask_rcnn_r50_fpn", backend="detectron2", recipe="mmdet", class_agnostic_box=True
    )
    source, target = (build_detector(config, num_classes=5, make_loss=make_loss, seed=seed) for seed in (1, 2))
    state = {name: value for name, value in source.state_dict().items() if "roi_heads" in name}
    given = {}
    for name, tensor in state.items():
        for ours, theirs in (
            (r"box_head\.(\d)\.fc1", r"bbox_head.\1.shared_fcs.0"),
            (r"box_head\.(\d)\.fc2", r"bbox_head.\1.shared_fcs.1"),
            (r"box_predictor\.(\d)\.stage\.classifier", r"bbox_head.\1.fc_cls"),
            (r"box_predictor\.(\d)\.bbox_pred", r"bbox_head.\1.fc_reg"),
            (r"mask_head\.deconv", "mask_head.0.upsample"),
            (r"mask_head\.predictor", "mask_head.0.conv_logits"),
            *((rf"mask_head\.mask_fcn{i + 1}", f"mask_head.0.convs.{i}.conv") for i in range(4)),
        ):
            name = re.sub(rf"^model\.roi_heads\.{ours}\.", f"roi_head.{theirs}.", name)
        given[name] = tensor
    given["roi_head.mask_head.1.upsample.bias"] = torch.ones(256)
    torch.save({"state_dict": given, "meta": {"epoch": 24}}, tmp_path / "cascade.pth")
    report = load_weights(target, tmp_path / "cascade.pth")
    assert report.naming == "mmdetection"
    assert set(report.loaded) == set(state)
    assert not any("roi_heads" in name for name in report.missing)
    assert report.mismatched == report.notes == ()
    assert report.unexpected == ("roi_head.mask_head.1.upsample.bias",)
    assert all(torch.equal(value, state[name]) for name, value in target.state_dict().items() if name in state)


def caffe2_names() -> Iterator[str]:
    for leaf in ("w", "bn_s", "bn_b", "bn_rm", "bn_riv"):
        yield "conv1_w" if leaf == "w" else f"res_conv1_{leaf}"
        for stage, num_blocks in zip(range(2, 6), (3, 4, 23, 3), strict=True):
            for block in range(num_blocks):
                branches = ("1", "2a", "2b", "2c") if block == 0 else ("2a", "2b", "2c")
                yield from (f"res{stage}_{block}_branch{branch}_{leaf}" for branch in branches)
    for leaf in ("w", "b"):
        yield from (f"fpn_inner_res{stage}_sum_lateral_{leaf}" for stage in ("2_2", "3_3", "4_22"))
        yield f"fpn_inner_res5_2_sum_{leaf}"
        yield from (f"fpn_res{stage}_sum_{leaf}" for stage in ("2_2", "3_3", "4_22", "5_2"))
        yield from (f"{layer}_fpn2_{leaf}" for layer in ("conv_rpn", "rpn_cls_logits", "rpn_bbox_pred"))
        yield from (f"{layer}_{leaf}" for layer in ("fc6", "fc7", "cls_score", "bbox_pred"))
        yield from (f"_[mask]_fcn{i}_{leaf}" for i in range(1, 5))
        yield from (f"{layer}_{leaf}" for layer in ("conv5_mask", "mask_fcn_logits"))


@pytest.mark.detectron2
@needs_detectron2
def test_names_of_caffe2_are_those_that_detectron2_gives_them(zoo_names: Callable[[str], set[str]]) -> None:
    from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names

    stored = {name: torch.arange(12.0) + i for i, name in enumerate(caffe2_names())}
    theirs, _ = convert_c2_detectron_names(stored)
    ours = {CAFFE2.zoo_name(name): value for name, value in stored.items()}
    assert ours.keys() == zoo_names(f"{LVIS}R_101_FPN_1x.yaml")
    # detectron2 finds the model's name by the end of it, and moves background as we do.
    by_end = {name: next(n for n in ours if n == name or n.endswith(f".{name}")) for name in theirs}
    assert len(set(by_end.values())) == len(ours)
    for name, zoo in by_end.items():
        assert torch.equal(background_last(zoo, ours[zoo]), theirs[name]), name
