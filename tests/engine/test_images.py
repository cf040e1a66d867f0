"""Images arrive as the detector meets them, whoever loads them and wherever a run goes on."""

from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from lttune.engine.assets import Assets
from lttune.engine.config import InputConfig, TrainConfig
from lttune.engine.images import ImageSource
from lttune.engine.loaders import Loaders
from lttune.engine.run import TrainingRun
from lttune.errors import InputError, WorkerLostError

VARIED = InputConfig(short_px=(40, 48, 56), flip=0.5)


def source_of(assets: Assets, config: InputConfig, *, seed: int | None = 3) -> ImageSource:
    reopen = partial(getattr, assets, "train")
    return ImageSource(assets.train, Path(assets.train_images), config, seed=seed, reopen=reopen)


def test_sizes_and_flips_are_drawn_by_image_and_epoch(assets: Assets) -> None:
    source = source_of(assets, VARIED)
    seen = set()
    for epoch in range(24):
        image, target = source.load(0, epoch)
        again, _ = source_of(assets, VARIED).load(0, epoch)
        assert torch.equal(image, again)
        assert target.masks is not None
        assert target.masks.shape[1:] == image.shape[1:]
        for box, mask in zip(target.boxes, target.masks, strict=True):
            rows, columns = mask.nonzero().unbind(dim=1)
            # Boxes and masks move alike; a resized mask is rounded to pixels.
            edges = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (box - edges).abs().max() < 3
        seen.add((image.shape[1], target.boxes[0, 0].item() > image.shape[2] / 2))
    assert {size for size, _ in seen} == set(VARIED.short_px)
    assert len(seen) > 3  # each size, and both sides
    assert source_of(assets, VARIED, seed=None).load(0)[0].shape[1] == 56


def test_processes_give_the_batches_of_a_thread(assets: Assets) -> None:
    order = np.array([3, 1, 4, 1, 5, 9, 2, 6, 0, 7, 8])
    plain, loading = source_of(assets, VARIED), source_of(assets, replace(VARIED, num_loaders=1))
    for start in (0, 2):
        batches = list(plain.batches(order, 2, epoch=1, start=start))
        assert len(batches) == 5 - start
        for own, other in zip(batches, loading.batches(order, 2, epoch=1, start=start), strict=True):
            assert np.array_equal(own[0], other[0])
            for image, same in zip(own[1], other[1], strict=True):
                assert torch.equal(image, same)
            for target, same_target in zip(own[2], other[2], strict=True):
                assert torch.equal(target.boxes, same_target.boxes)
                assert target.masks is not None
                assert same_target.masks is not None
                assert torch.equal(target.masks, same_target.masks)
    # What is dropped halfway leaves nothing that another epoch would meet.
    with closing(loading.batches(order, 2, epoch=2)) as halfway:
        next(halfway)
    (first, *_), (second, *_) = next(loading.batches(order, 2, epoch=3))[1], next(plain.batches(order, 2, epoch=3))[1]
    assert torch.equal(first, second)

    assert isinstance(loading.loaders, Loaders)
    next(iter(loading.loaders._pool._processes.values())).kill()
    with pytest.raises(WorkerLostError, match="a process that loads images died"):
        list(loading.batches(order, 2, epoch=4))


def test_num_loaders_do_not_shape_what_is_cached() -> None:
    assert replace(VARIED, num_loaders=4).identity() == VARIED.identity()
    assert VARIED.identity() != replace(VARIED, flip=0.0).identity()
    with pytest.raises(InputError, match=r"input.num_loaders is -1; use 0 to 64 processes"):
        InputConfig(num_loaders=-1)


def test_a_run_on_varied_images_goes_on_bit_for_bit(train_config: TrainConfig, assets: Assets, tmp_path: Path) -> None:
    schedule = replace(train_config.schedule, epochs=1)
    recipe = replace(train_config.recipe, parts="all", fidelity="full")
    config = replace(train_config, recipe=recipe, fidelity="full", input=VARIED, schedule=schedule)
    unbroken = TrainingRun(config, assets, judged_on=None)
    unbroken.advance()
    broken = TrainingRun(config, assets, judged_on=None)
    broken.advance(max_iters=1)
    broken.save(tmp_path / "run.pt")
    resumed = TrainingRun(config, assets, judged_on=None)
    resumed.restore(tmp_path / "run.pt")
    resumed.advance()

    own = resumed.detector.state_dict()
    for name, tensor in unbroken.detector.state_dict().items():
        assert torch.equal(tensor, own[name]), name


@pytest.mark.detectron2
@pytest.mark.skipif(find_spec("detectron2") is None, reason="detectron2 is not installed")
def test_detectron2_trains_on_varied_images_in_parts_and_in_half_precision(
    train_config: TrainConfig, assets: Assets
) -> None:
    detector = replace(train_config.detector, name="mask_rcnn_r50_fpn", backend="detectron2")
    schedule = replace(train_config.schedule, epochs=1, batch_size=2, epoch_images=2)
    recipe = replace(train_config.recipe, parts="all", fidelity="full", start="weights")
    config = replace(train_config, detector=detector, recipe=recipe, fidelity="full", input=VARIED, schedule=schedule)
    without_weights = replace(assets, stage1_weights=None)
    found = {}
    for precision, accumulate in (("float32", 1), ("bf16", 1), ("float32", 2)):
        own = replace(config, precision=precision, schedule=replace(schedule, accumulate=accumulate))
        (record,) = TrainingRun(own, without_weights, judged_on=None).advance()
        found[precision, accumulate] = record.losses
    exact = found["float32", 1]
    for losses in found.values():
        assert losses.keys() == exact.keys()
        assert losses["loss_cls"] == pytest.approx(exact["loss_cls"], rel=0.1)
    assert found["bf16", 1] != exact
