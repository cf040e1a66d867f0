"""A frozen trunk whose boxes and masks depend on the category: trained on cached features, judged as on images."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lttune.engine.assets import Assets
from lttune.engine.cache import entries
from lttune.engine.category_judge import CategoryJudge
from lttune.engine.columns import are_intact
from lttune.engine.config import DataConfig, SplitPaths, TrainConfig
from lttune.engine.images import ImageSource, to_file_pixels
from lttune.engine.judge import LiveJudge
from lttune.engine.prepare import prepare
from lttune.engine.run import TrainingRun
from lttune.errors import LttuneError
from lttune.evaluation.report import EvaluationReport
from lttune.masks import encode_pasted, rle_areas

DETECTRON2 = [
    pytest.mark.slow,  # a ResNet-50, with a stage 1 of its own
    pytest.mark.detectron2,
    pytest.mark.skipif(find_spec("detectron2") is None, reason="detectron2 is not installed; see its own guide"),
]
SEEDS = (1, 2, 3)
Setting = tuple[TrainConfig, Assets]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("tiny_mask_rcnn_fpn, box, mask", id="tiny"),
        pytest.param("tiny_mask_rcnn_fpn, mask", id="tiny-masks-alone"),
        pytest.param("tiny_mask_rcnn_fpn, box", id="tiny-boxes-alone"),
        pytest.param("faster_rcnn_r50_fpn, box, torchvision", id="faster_r50", marks=pytest.mark.slow),
        pytest.param("mask_rcnn_r50_fpn, box, mask, detectron2", id="mask_r50-detectron2", marks=DETECTRON2),
        pytest.param("cascade_mask_rcnn_r50_fpn, mask, detectron2", id="cascade_mask_r50", marks=DETECTRON2),
    ],
)
def setting(
    request: pytest.FixtureRequest, train_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Setting:
    """The named detector, whose boxes or masks are of each category, and a setting made for it."""
    name, *words = request.param.split(", ")
    detector = replace(
        train_config.detector,
        name=name,
        backend="detectron2" if "detectron2" in words else "torchvision",
        class_agnostic_box="box" not in words,
        class_agnostic_mask="mask" not in words,
    )
    config = replace(train_config, detector=detector, input=replace(train_config.input, short_px=(80,)))
    cache = tmp_path_factory.mktemp("cache")
    stage1 = prepare(replace(config, fidelity="full"), cache, lambda *_: None, num_threads=1)
    assert stage1.stage1_weights is not None
    data = DataConfig(
        train=SplitPaths(annotations=stage1.train_annotations, images=stage1.train_images),
        val=SplitPaths(annotations=str(found_objects(config, stage1, cache)), images=stage1.val_images),
    )
    config = replace(config, data=data, stage1=replace(config.stage1, checkpoint=stage1.stage1_weights))
    return config, prepare(config, cache, lambda *_: None, num_threads=1)


def found_objects(config: TrainConfig, assets: Assets, folder: Path) -> Path:
    """Annotations of what a trial finds, every third detection: hardly trained, it finds nothing else."""
    run = TrainingRun(replace(config, fidelity="full", seed=SEEDS[0]), assets, judged_on=None)
    run.advance()
    source = ImageSource(assets.val, Path(assets.val_images), config.input, seed=None)
    document = json.loads(Path(assets.val_annotations).read_text())
    annotations: list[dict[str, Any]] = []
    for image in range(len(source)):
        pixels, _ = source.load(image)
        run.detector.eval()
        (found,) = run.detector.detect([pixels], max_dets=config.evaluation.max_dets)
        boxes = to_file_pixels(found.boxes, pixels.shape[-2:], 64, 64)
        whole = torch.ones(len(boxes), 28, 28)
        rles = encode_pasted(whole if found.masks is None else found.masks, boxes, 64, 64)
        for i, area in enumerate(rle_areas(rles).tolist()):
            if i % 3 == 0 and area > 0:
                x, y, right, bottom = boxes[i].tolist()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": int(assets.val.image_ids[image]),
                        "category_id": int(assets.val.category_ids[found.labels[i]]),
                        "bbox": [x, y, right - x, bottom - y],
                        "area": area,
                        "segmentation": {"size": [64, 64], "counts": rles[i]["counts"].decode()},
                    }
                )
    for image in document["images"]:
        own = {entry["category_id"] for entry in annotations if entry["image_id"] == image["id"]}
        image["neg_category_ids"] = [i for i in image["neg_category_ids"] if i not in own]
    path = folder / "found.json"
    path.write_text(json.dumps({**document, "annotations": annotations}))
    return path


def has_masks(config: TrainConfig) -> bool:
    return config.detector.has_masks


def forget(assets: Assets) -> Path:
    """Where masks are remembered, none of them yet."""
    folder = assets.feature_folder("tune") / "masks"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def trained(setting: Setting, seed: int) -> TrainingRun:
    run = TrainingRun(replace(setting[0], seed=seed), setting[1], judged_on=None)
    run.advance()
    return run


def cached_report(run: TrainingRun, *, images: str | None = None) -> EvaluationReport:
    if images is not None:
        run.assets = replace(run.assets, val_images=images)
    judge = run.judge("tune")
    assert isinstance(judge, CategoryJudge)
    return run.evaluate(judge)


def live_report(run: TrainingRun) -> EvaluationReport:
    assets = run.assets
    source = ImageSource(assets.half("tune"), Path(assets.val_images), run.config.input, seed=None, with_masks=False)
    return run.evaluate(LiveJudge(source, assets.ground_truth("tune")))


def assert_same(first: EvaluationReport, second: EvaluationReport) -> None:
    assert first.metrics.keys() == second.metrics.keys()
    np.testing.assert_array_equal(list(first.metrics.values()), list(second.metrics.values()))
    assert repr(first.per_category) == repr(second.per_category)


def test_cached_reports_are_those_of_the_whole_detector(setting: Setting) -> None:
    forget(setting[1])
    reports = []
    for seed in SEEDS:  # the later ones find some masks remembered, and some not
        run = trained(setting, seed)
        reports.append(cached_report(run))
        assert_same(reports[-1], live_report(run))
    for kind in ("bbox", "segm") if has_masks(setting[0]) else ("bbox",):
        assert 1 < reports[0].metrics[f"{kind}/AP"] < 99
        assert len({report.metrics[f"{kind}/AP"] for report in reports}) > 1


def test_known_masks_need_no_image(setting: Setting, tmp_path: Path) -> None:
    folder = forget(setting[1])
    gone = str(tmp_path / "gone")
    run = trained(setting, 1)
    if has_masks(setting[0]):
        with pytest.raises((LttuneError, OSError), match="gone"):
            cached_report(trained(setting, 1), images=gone)
    first = cached_report(run)
    files = sorted(folder.glob("*"))
    assert len(files) == has_masks(setting[0])
    sizes = [file.stat().st_size for file in files]
    assert_same(first, cached_report(trained(setting, 1), images=gone))
    assert sorted(folder.glob("*")) == files
    assert [file.stat().st_size for file in files] == sizes


def test_the_feature_folder_stays_whole_and_its_size_tells_the_masks(setting: Setting) -> None:
    assets = setting[1]
    assert assets.features is not None
    folder, features = forget(assets), Path(assets.features)

    def size() -> int:
        (entry,) = (entry for entry in entries(features.parent) if entry.path == features)
        return entry.num_bytes

    before = size()
    cached_report(trained(setting, 1))
    assert size() - before == sum(file.stat().st_size for file in folder.glob("*"))
    assert (size() > before) == has_masks(setting[0])
    assert all(are_intact(features / part) for part in ("train", "tune", "report"))
    assert prepare(setting[0], features.parent, lambda *_: None, num_threads=1) == assets


@pytest.mark.parametrize("harm", ["cut", "flip", "write zeros over", "make a file of"])
def test_harm_to_what_is_remembered_changes_nothing(setting: Setting, harm: str) -> None:
    folder = forget(setting[1])
    expected = cached_report(trained(setting, 1))
    if not has_masks(setting[0]):
        assert not folder.exists()
        return
    (path,) = folder.glob("*")
    data = path.read_bytes()
    if harm == "make a file of":
        shutil.rmtree(folder)
        folder.write_bytes(data)
    else:
        middle = len(data) // 2
        harmed = {
            "cut": data[:middle],
            "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "write zeros over": bytes(len(data)),
        }
        path.write_bytes(harmed[harm])
    try:
        assert_same(cached_report(trained(setting, 1)), expected)
    finally:
        if folder.is_file():
            folder.unlink()


def test_a_trial_on_cached_features_is_the_trial_on_images(setting: Setting) -> None:
    config, assets = setting
    cached = TrainingRun(config, assets, judged_on=None)
    live = TrainingRun(replace(config, fidelity="full"), assets, judged_on=None)
    start = [value.clone() for value in cached.detector.parts["classifier"].parameters()]
    cached.advance()
    live.advance()
    both = [list(run.detector.parts["classifier"].parameters()) for run in (cached, live)]
    for before, own, other in zip(start, *both, strict=True):
        assert not torch.equal(before, own)
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)
