"""The cache of jittered boxes holds what the live path would pool, of the first instances of each category."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lttune.detectors.augment import copies_with_area
from lttune.engine import jittered
from lttune.engine.assets import Assets
from lttune.engine.columns import read_columns
from lttune.engine.config import TrainConfig
from lttune.engine.images import ImageSource
from lttune.engine.jittered import JitteredRois, build_jittered
from lttune.engine.prepare import prepare
from lttune.engine.seeds import reseed
from lttune.engine.stage1 import frozen_detector
from lttune.losses.base import uniform
from lttune.losses.feature_memory import jitter_boxes


@pytest.fixture
def source(train_config: TrainConfig, assets: Assets) -> ImageSource:
    return ImageSource(assets.train, Path(assets.train_images), train_config.input, seed=None, with_masks=False)


def test_a_batch_holds_the_jittered_boxes_of_its_images(
    train_config: TrainConfig, assets: Assets, source: ImageSource
) -> None:
    assert assets.memory is not None
    detector = frozen_detector(train_config, assets)
    rois = JitteredRois(Path(assets.memory), torch.device("cpu"))
    for image in (7, 2):
        pixels, target = source.load(image)
        draws = uniform(4, 16, generator=reseed(torch.Generator(), 0, "jitter", image), device=torch.device("cpu"))
        boxes, instance = copies_with_area(
            jitter_boxes(target.boxes, (pixels.shape[1], pixels.shape[2]), draws), len(target.boxes)
        )
        features, labels, box_targets = rois.batch([image])
        torch.testing.assert_close(features, detector.box_features([pixels], [boxes])[0], rtol=0, atol=1e-5)
        assert torch.equal(labels, target.labels[instance])
        assert torch.equal(box_targets, detector.encode_boxes(target.boxes[instance], boxes))
    single = [rois.batch([image])[1] for image in (7, 2, 7)]
    assert torch.equal(rois.batch(np.array([7, 2, 7]))[1], torch.cat(single))


def test_the_first_instances_of_each_category_are_kept(
    train_config: TrainConfig,
    assets: Assets,
    source: ImageSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jittered, "NUM_INSTANCES", 2)
    detector = frozen_detector(train_config, assets)
    build_jittered(detector, source, np.arange(len(source)), tmp_path, lambda *_: None)
    expected: list[list[int]] = []
    seen = dict.fromkeys(range(assets.train.num_categories), 0)
    for image in range(len(source)):
        own = []
        for label in source.load(image)[1].labels.tolist():
            seen[label] += 1
            own += [label] * (seen[label] <= 2)
        expected.append(own)
    assert max(seen.values()) > 2
    rois = JitteredRois(tmp_path, torch.device("cpu"))
    for image, labels in enumerate(expected):
        # Copies of an instance lie in a row; a few may have been clamped to nothing.
        found = rois.batch([image])[1].tolist()
        assert len(found) <= 16 * len(labels)
        assert sorted(set(found)) == sorted(set(labels))
    assert rois.batch([image for image, labels in enumerate(expected) if not labels])[0].shape == (0, 256)


def test_the_memory_is_apart_from_the_features_and_rebuilt_when_damaged(
    train_config: TrainConfig, loce_config: TrainConfig, assets: Assets
) -> None:
    assert assets.memory is not None
    cache = Path(assets.memory).parent

    def prepared(config: TrainConfig) -> Assets:
        return prepare(config, cache, lambda *_: None, num_threads=1)

    assert prepared(train_config) == replace(assets, memory=None)
    assert prepared(loce_config) == assets
    assert prepared(replace(loce_config, fidelity="full")) == replace(assets, memory=None, features=None)
    before = {name: np.array(column) for name, column in read_columns(Path(assets.memory)).items()}
    file = Path(assets.memory) / "labels.bin"
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    assert prepared(loce_config) == assets
    after = read_columns(Path(assets.memory))
    assert all(np.array_equal(before[name], after[name]) for name in before)
