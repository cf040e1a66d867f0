"""Loading initial weights: formats, what fits, what is reported."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lttune.detectors.weights import load_weights
from lttune.errors import InputError


class Net(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"body": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))})
        self.classifier = nn.Linear(4, outputs)


@pytest.mark.parametrize("kind", ["plain.pth", "nested.pth", "nested_twice.pt", "plain.safetensors", "zoo.pkl"])
def test_a_whole_detector_is_loaded_to_the_bit(kind: str, tmp_path: Path) -> None:
    path, source, module = tmp_path / kind, Net(), Net()
    state = source.state_dict()
    if kind.endswith(".safetensors"):
        save_file(state, path)
    elif kind.endswith(".pkl"):
        path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "test"}))
    elif kind == "plain.pth":
        torch.save(state, path)
    elif kind == "nested.pth":
        torch.save({"model": state, "epoch": 3}, path)
    else:
        torch.save({"model": {"state_dict": {f"module.{name}": v for name, v in state.items()}}}, path)
    report = load_weights(module, path)
    assert report.is_complete
    assert set(report.loaded) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_what_does_not_fit_is_named_with_both_shapes_and_keeps_its_start(tmp_path: Path) -> None:
    source, module = Net(outputs=7), Net()
    state = source.state_dict()
    del state["backbone.body.1.weight"]
    state["mask_head.weight"] = torch.zeros(2)
    torch.save(state, tmp_path / "stage1.pth")
    start = module.classifier.weight.clone()
    report = load_weights(module, tmp_path / "stage1.pth")
    assert report.missing == ("backbone.body.1.weight",)
    assert [(own.name, own.given, own.own) for own in report.mismatched] == [
        ("classifier.weight", (7, 4), (3, 4)),
        ("classifier.bias", (7,), (3,)),
    ]
    assert report.unexpected == ("mask_head.weight",)
    assert not report.is_complete
    assert torch.equal(module.classifier.weight, start)
    assert torch.equal(module.backbone["body"][0].weight, source.backbone["body"][0].weight)
    assert "2 mismatched: classifier.weight is (7, 4) in the file, (3, 4) here, classifier.bias" in str(report)
    assert "1 unexpected: mask_head.weight" in str(report)
    assert "1 missing: backbone.body.1.weight" in str(report)


def test_weights_of_a_backbone_alone_go_into_it(tmp_path: Path) -> None:
    source, module = Net(), Net()
    torch.save({**source.backbone["body"].state_dict(), "head.weight": torch.zeros(9)}, tmp_path / "backbone.pth")
    report = load_weights(module, tmp_path / "backbone.pth")
    assert report.naming == "its part 'backbone.body'"
    assert report.unexpected == ("head.weight",)
    assert set(report.missing) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(module.backbone["body"][0].weight, source.backbone["body"][0].weight)


def test_counters_of_batches_are_not_missed(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in Net().state_dict().items() if "num_batches_tracked" not in name}
    torch.save({**state, "old_norm.num_batches_tracked": torch.tensor(7)}, tmp_path / "frozen.pth")
    assert load_weights(Net(), tmp_path / "frozen.pth").is_complete


def test_notes_beside_the_weights_may_hold_numbers_of_numpy(tmp_path: Path) -> None:
    """mmdetection's do: the classes' names, the configuration as text, the best score."""
    meta = {"CLASSES": ("cat", "dog"), "config": "model = dict()", "best": np.float64(0.5), "lrs": np.arange(3.0)}
    state = Net().state_dict()
    torch.save({"meta": meta, "state_dict": state, "optimizer": {"lr": np.float32(0.1)}}, tmp_path / "mmdet.pth")
    module = Net()
    assert load_weights(module, tmp_path / "mmdet.pth").is_complete
    assert torch.equal(module.classifier.weight, state["classifier.weight"])


class Calls:
    """Pickled, this is a call of `function` when the file is opened."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("call", "wanted"),
    [(Calls(os.system, "touch pwned"), r"\w+\.system"), (Calls(Path.touch, Path("pwned")), r"[\w.]*getattr")],
)
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_pth_that_could_run_code_is_refused(
    call: Calls, wanted: str, is_nested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"meta": call, "state_dict": Net().state_dict()} if is_nested else call, "evil.pth")
    with pytest.raises(InputError, match=rf"evil\.pth: refused, nothing of it was run: it asks for '{wanted}'"):
        load_weights(Net(), Path("evil.pth"))
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.pth", None, "is not a file"),
        ("weights.onnx", b"", r"'\.onnx' files are not read"),
        ("damaged.pth", b"not a checkpoint", "cannot be read"),
        ("damaged.safetensors", b"not a checkpoint", "cannot be read"),
        ("damaged.pkl", b"not a checkpoint", "not a readable pickle"),
        ("cut.pkl", pickle.dumps({"w": np.ones(9)})[:-30], "not a readable pickle"),
        ("empty.pth", {"epoch": 3}, "no named tensors"),
        ("list.pkl", pickle.dumps([1, 2]), "no named tensors"),
        ("other.pth", {"encoder.weight": torch.zeros(3)}, "'encoder.weight'.*'backbone.body.0.weight'"),
    ],
)
def test_a_file_without_fitting_weights_is_an_input_error(
    name: str, content: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=message):
        load_weights(Net(), path)
