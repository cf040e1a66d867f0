"""What every backend and architecture promises (`lttune/detectors/base.py`)."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lttune.detectors import Detector, DetectorConfig, build_detector
from lttune.detectors.base import NO_AREA, PARTS, PartName, TrainRois
from lttune.detectors.postprocess import select_detections
from lttune.errors import InputError
from lttune.losses import build_loss
from lttune.losses.base import ClassificationLoss
from lttune.types import CategoryFrequencies, Target

NUM_CLASSES = 5
IMAGES = [(64, 96), (48, 64)]
MASK_SIDE = 28

# More RoIs than proposals and ground truth together: a step trains on all of them, whatever it draws.
SMALL = DetectorConfig(
    name="tiny_mask_rcnn_fpn", num_train_proposals=24, num_test_proposals=16, num_rois=64, positive_fraction=1.0
)
AGNOSTIC = replace(SMALL, class_agnostic_box=True, class_agnostic_mask=True)
RESNET = replace(SMALL, name="mask_rcnn_r50_fpn", backend="torchvision", num_train_proposals=10, num_test_proposals=10)
CASCADE = replace(RESNET, name="cascade_mask_rcnn_r50_fpn", backend="detectron2", class_agnostic_box=True)
NEEDS_DETECTRON2 = [
    pytest.mark.detectron2,
    pytest.mark.skipif(find_spec("detectron2") is None, reason="detectron2 is not installed; see its own guide"),
]
CASES = [
    pytest.param(AGNOSTIC, id="tiny-torchvision-agnostic"),
    pytest.param(SMALL, id="tiny-torchvision"),
    pytest.param(replace(SMALL, normed_classifier=True, normed_mask=True), id="tiny-torchvision-normed"),
    pytest.param(RESNET, id="mask_r50-torchvision"),
    pytest.param(
        replace(RESNET, name="faster_rcnn_r50_fpn", class_agnostic_box=True),
        id="faster_r50-torchvision",
        marks=pytest.mark.slow,  # the same code as above without masks
    ),
    pytest.param(replace(AGNOSTIC, backend="detectron2"), id="tiny-detectron2-agnostic", marks=NEEDS_DETECTRON2),
    pytest.param(
        replace(RESNET, backend="detectron2", class_agnostic_box=True, class_agnostic_mask=True),
        id="mask_r50-detectron2-agnostic",
        marks=NEEDS_DETECTRON2,
    ),
    pytest.param(
        replace(CASCADE, class_agnostic_mask=True),
        id="cascade_mask_r50-detectron2-agnostic",
        marks=NEEDS_DETECTRON2,
    ),
    pytest.param(
        replace(CASCADE, recipe="mmdet", normed_classifier=True, normed_mask=True),
        id="cascade_mask_r50-detectron2-mmdet",
        marks=[*NEEDS_DETECTRON2, pytest.mark.slow],
    ),
    pytest.param(
        replace(CASCADE, name="cascade_rcnn_r50_fpn", recipe="mmdet", roi_align="legacy", box_loss_beta=1.0),
        id="cascade_r50-detectron2-mmdet",
        marks=[*NEEDS_DETECTRON2, pytest.mark.slow],
    ),
    pytest.param(
        replace(RESNET, recipe="mmdet", roi_align="aligned", box_loss_beta=0.0, rpn_loss_beta=0.0),
        id="mask_r50-torchvision-mmdet",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        replace(RESNET, backend="detectron2", recipe="mmdet", roi_align="legacy", box_loss_beta=1.0),
        id="mask_r50-detectron2-mmdet",
        marks=[*NEEDS_DETECTRON2, pytest.mark.slow],
    ),
    pytest.param(
        replace(RESNET, backend="detectron2", name="faster_rcnn_r50_fpn"),
        id="faster_r50-detectron2",
        marks=[*NEEDS_DETECTRON2, pytest.mark.slow],
    ),
]


def make_loss() -> ClassificationLoss:
    counts = torch.tensor([500, 200, 50, 20, 5])
    frequencies = CategoryFrequencies(
        image_count=counts, instance_count=2 * counts, group=torch.tensor([2, 2, 1, 1, 0])
    )
    return build_loss("cross_entropy", num_classes=NUM_CLASSES, frequencies=frequencies)


def make_batch() -> tuple[list[Tensor], list[Target]]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in IMAGES]
    boxes = [torch.tensor([[4.0, 6.0, 40.0, 38.0], [50.0, 20.0, 90.0, 60.0]]), torch.tensor([[10.0, 8.0, 44.0, 40.0]])]
    targets = []
    for (height, width), own, labels in zip(IMAGES, boxes, ([3, 0], [1]), strict=True):
        masks = torch.zeros(len(own), height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, own.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        targets.append(Target(boxes=own, labels=torch.tensor(labels), masks=masks))
    return images, targets


def empty_targets() -> list[Target]:
    return [
        Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), masks=torch.zeros(0, *size).byte())
        for size in IMAGES
    ]


def stage_names(detector: Detector, name: str) -> set[str]:
    """A term's name in each stage."""
    return set(detector.of_stage(0, {name: torch.zeros(())})) | {
        key for stage in range(1, len(detector.stages)) for key in detector.of_stage(stage, {name: torch.zeros(())})
    }


def classification_terms(detector: Detector, all_rois: list[TrainRois]) -> dict[str, Tensor]:
    """Every stage's terms from all rows of all images, as a step on images would have them."""
    terms: dict[str, Tensor] = {}
    for stage, rows in enumerate(zip(*((rois, *rois.later) for rois in all_rois), strict=True)):
        labels = torch.cat([own.labels for own in rows])
        kept = labels != NO_AREA
        own = detector.stages[stage]
        logits = own.classifier(torch.cat([one.features for one in rows])[kept])
        terms |= detector.of_stage(stage, own.loss(logits, labels[kept]))
    return terms


def in_order(rows: Tensor) -> Tensor:
    """Rows sorted by their values, for comparing sets of them."""
    return rows[torch.from_numpy(np.lexsort(rows.numpy().T))]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=CASES)
def built(request: pytest.FixtureRequest) -> Detector:
    """A detector whose normalisation layers know the statistics of the batch."""
    detector = build_detector(request.param, num_classes=NUM_CLASSES, make_loss=make_loss, seed=0).train()
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    detector.losses(*make_batch(), generator=seeded(0))
    for norm in norms:
        norm.momentum = 0.1
    return detector


@pytest.fixture
def detector(built: Detector) -> Iterator[Detector]:
    config = built.config
    built.freeze_except(built.parts)
    built.train().zero_grad()
    yield built
    built.config = config


def test_parts_hold_every_parameter_once(detector: Detector) -> None:
    assert [name for name in PARTS if name in detector.parts] == list(detector.parts)
    assert detector.has_masks == detector.config.has_masks == ("mask" in detector.config.name)
    in_parts = [id(parameter) for part in detector.parts.values() for parameter in part.parameters()]
    assert sorted(in_parts) == sorted(id(parameter) for parameter in detector.parameters())
    classifier = detector.parts["classifier"]
    classifiers = list(classifier) if isinstance(classifier, nn.ModuleList) else [classifier]
    assert classifiers == [stage.classifier for stage in detector.stages]
    assert len(detector.stages) == len(detector.stage_weights) == (3 if detector.config.is_cascade else 1)
    losses = [id(stage.loss) for stage in detector.stages]
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize(
    "trained",
    [PARTS, ("classifier",), ("classifier", "box_regressor", "rpn", "mask_head")],
    ids=["all", "one", "heads"],
)
def test_losses_are_finite_and_reach_exactly_the_parts_that_train(
    detector: Detector, trained: tuple[PartName, ...]
) -> None:
    trained = tuple(name for name in trained if name in detector.parts)
    detector.freeze_except(trained)
    losses = detector.losses(*make_batch(), generator=seeded(1))
    expected = stage_names(detector, "loss_cls")
    if "rpn" in trained:
        expected |= {"loss_rpn_cls", "loss_rpn_box"} | stage_names(detector, "loss_box")
        expected |= {"loss_mask"} if detector.has_masks else set()
    assert set(losses) == expected
    assert all(loss.shape == () and loss.isfinite() and loss > 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, part in detector.parts.items():
        for parameter_name, parameter in part.named_parameters():
            gradient = parameter.grad
            assert (gradient is not None) == (name in trained), (name, parameter_name)
            assert gradient is None or gradient.isfinite().all()


def test_a_step_is_a_function_of_the_generator(detector: Detector) -> None:
    detector.config = replace(detector.config, num_rois=8, positive_fraction=0.5)
    before = torch.get_rng_state()
    first = detector.losses(*make_batch(), generator=seeded(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again = detector.losses(*make_batch(), generator=seeded(1))
    other = detector.losses(*make_batch(), generator=seeded(2))
    assert first == again
    assert first != other


def test_frozen_parts_stand_still_in_training(detector: Detector) -> None:
    detector.freeze_except(["classifier"])
    detector.train()
    trunk = {name: value.clone() for name, value in detector.state_dict().items() if "classifier" not in name}
    losses = detector.losses(*make_batch(), generator=seeded(1))
    torch.stack([losses[name] for name in stage_names(detector, "loss_cls")]).sum().backward()
    assert all(torch.equal(value, trunk[name]) for name, value in detector.state_dict().items() if name in trunk)


def test_training_moves_the_statistics_of_parts_that_train(detector: Detector) -> None:
    before = {name: value.clone() for name, value in detector.named_buffers() if name.endswith("running_mean")}
    images, targets = make_batch()
    detector.losses([255 - image for image in images], targets, generator=seeded(1))
    assert before
    assert all(not torch.equal(value, before[name]) for name, value in detector.named_buffers() if name in before)


def test_an_unknown_part_is_named(detector: Detector) -> None:
    with pytest.raises(InputError, match=r"'box_regresor' is not a part.*'box_regressor'"):
        detector.freeze_except(["box_regresor"])  # type: ignore[list-item]


def test_images_without_instances_train_on_background_alone(detector: Detector) -> None:
    losses = detector.losses(make_batch()[0], empty_targets(), generator=seeded(1))
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(losses[name] > 0 for name in stage_names(detector, "loss_cls"))
    assert all(losses[name] == 0 for name in stage_names(detector, "loss_box"))
    assert losses["loss_rpn_box"] == 0
    assert losses.get("loss_mask", 0) == 0
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in detector.parameters())


def test_detections_are_in_range_and_in_order(detector: Detector) -> None:
    images, _ = make_batch()
    detector.eval()
    all_found = detector.detect(images, max_dets=12)
    assert len(all_found) == len(images)
    for found, (height, width) in zip(all_found, IMAGES, strict=True):
        assert found.boxes.shape == (len(found.scores), 4)
        assert 1 <= len(found.scores) <= 12
        assert found.boxes.min() >= 0
        assert (found.boxes <= torch.tensor([width, height, width, height])).all()
        assert found.labels.dtype == torch.int64
        assert found.labels.min() >= 0
        assert found.labels.max() < NUM_CLASSES
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        assert found.scores.min() >= detector.config.score_threshold
        assert found.scores.max() <= 1
        assert not found.scores.requires_grad
        if not detector.has_masks:
            assert found.masks is None
            continue
        assert found.masks is not None
        assert found.masks.shape == (len(found.scores), MASK_SIDE, MASK_SIDE)
        assert found.masks.dtype == torch.float32
        assert found.masks.min() >= 0
        assert found.masks.max() <= 1


def test_no_score_above_the_threshold_gives_no_detection(detector: Detector) -> None:
    detector.config = replace(detector.config, score_threshold=0.999)
    detector.eval()
    for found in detector.detect(make_batch()[0], max_dets=12):
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == found.labels.shape == (0,)
        assert found.masks is None or found.masks.shape == (0, MASK_SIDE, MASK_SIDE)


def test_no_proposal_gives_no_detection_and_trains_on_ground_truth(detector: Detector) -> None:
    biases = [value for name, value in detector.parts["rpn"].named_parameters() if is_delta_bias(name)]
    assert biases
    before = [value.detach().clone() for value in biases]
    try:
        with torch.no_grad():
            for value in biases:
                value.view(-1, 4)[:, 2:] = -200.0  # log of width and height: proposals shrink to nothing
        losses = detector.losses(*make_batch(), generator=seeded(1))
        assert all(loss.isfinite() for loss in losses.values())
        detector.eval()
        for found, rois in zip(
            detector.detect(make_batch()[0], max_dets=3), detector.test_rois(make_batch()[0]), strict=True
        ):
            assert found.boxes.shape == (0, 4)
            assert len(rois.features) == 0
    finally:
        with torch.no_grad():
            for value, old in zip(biases, before, strict=True):
                value.copy_(old)


def test_detections_follow_from_cached_rois_to_the_bit(detector: Detector) -> None:
    images, _ = make_batch()
    detector.freeze_except(["classifier"])
    detector.train()
    config = detector.config
    for found, rois in zip(detector.detect(images, max_dets=9), detector.test_rois(images), strict=True):
        assert rois.boxes.shape[1:] == ((4,) if config.class_agnostic_box else (NUM_CLASSES, 4))
        scores = detector.scores([rois.features, *rois.later])
        rows, labels, best = select_detections(
            rois.boxes, scores, score_threshold=config.score_threshold, nms_iou=config.nms_iou, max_dets=9
        )
        assert torch.equal(found.scores, best)
        assert torch.equal(found.labels, labels)
        assert torch.equal(found.boxes, rois.boxes[rows] if config.class_agnostic_box else rois.boxes[rows, labels])
        assert (rois.masks is not None) == (detector.has_masks and detector.config.has_class_agnostic_heads)
        if rois.masks is not None:
            assert rois.masks.shape == (len(rois.boxes), MASK_SIDE, MASK_SIDE)
            # The number of masks in one call may choose another convolution routine.
            torch.testing.assert_close(found.masks, rois.masks[rows], atol=1e-6, rtol=0)


def test_boxes_and_masks_follow_from_cached_proposals_and_maps_to_the_bit(detector: Detector) -> None:
    images, _ = make_batch()
    detector.freeze_except(["classifier"])
    detector.eval()
    all_rois, maps = detector.test_rois(images), detector.maps(images)
    all_found = detector.detect(images, max_dets=9, has_like_masks=True)
    for i, (image, rois, found) in enumerate(zip(images, all_rois, all_found, strict=True)):
        features = (rois.features, *rois.later)[-1]
        size = (int(image.shape[-2]), int(image.shape[-1]))
        assert torch.equal(detector.refine(features.clone(), rois.proposals, size), rois.boxes)
        if found.masks is None:
            continue
        assert len(found.masks) == 9
        for rows in (torch.arange(9), torch.tensor([7, 2]), torch.tensor([4]), torch.arange(0)):
            alone = detector.masks(maps, i, found.boxes[rows], found.labels[rows])
            assert torch.equal(alone, found.masks[rows])
        many = torch.arange(9).repeat(8)  # more than one call of the mask head
        assert torch.equal(detector.masks(maps, i, found.boxes[many], found.labels[many]), found.masks[many])


def test_the_training_loss_follows_from_cached_rois(detector: Detector) -> None:
    images, targets = make_batch()
    detector.freeze_except(["classifier"])
    detector.train()
    all_rois = detector.train_rois(images, [replace(target, masks=None) for target in targets])  # needs no masks
    for rois, target in zip(all_rois, targets, strict=True):
        num = len(target.boxes)
        assert torch.equal(rois.boxes[-num:], target.boxes)
        assert torch.equal(rois.labels[-num:], target.labels)
        assert torch.equal(rois.instance_ids[-num:], torch.arange(num))
        assert num < len(rois.boxes) <= num + detector.config.num_train_proposals
        is_background = rois.labels == NUM_CLASSES
        assert torch.equal(rois.instance_ids == -1, is_background)
        assert torch.equal(target.labels[rois.instance_ids[~is_background]], rois.labels[~is_background])
        assert not rois.features.requires_grad
    cached = classification_terms(detector, all_rois)
    live = detector.losses(images, targets, generator=seeded(1))
    assert cached.keys() == live.keys() == stage_names(detector, "loss_cls")
    for name, term in cached.items():
        torch.testing.assert_close(term, live[name])


def test_what_the_classifiers_meet_in_a_full_step_is_cached_to_the_bit(detector: Detector) -> None:
    images, targets = make_batch()
    detector.freeze_except(["classifier"])
    detector.train()
    met: list[Tensor] = []
    hooks = [
        stage.classifier.register_forward_hook(lambda module, given, output: met.append(given[0].detach()))
        for stage in detector.stages
    ]
    try:
        for image, target in zip(images, targets, strict=True):  # a product of another height may round differently
            met.clear()
            (rois,) = detector.train_rois([image], [target])
            detector.losses([image], [target], generator=seeded(1))
            for own, full in zip((rois, *rois.later), met, strict=True):
                kept = own.features[own.labels != NO_AREA]
                assert len(kept) > len(target.boxes)
                assert torch.equal(in_order(kept), in_order(full))
    finally:
        for hook in hooks:
            hook.remove()


def test_a_step_of_both_heads_follows_from_cached_rois(detector: Detector) -> None:
    images, targets = make_batch()
    # In a cascade a regressor that moves changes what later stages meet, so it is never trained on cached features.
    heads: tuple[PartName, ...] = ("classifier",) if detector.config.is_cascade else ("classifier", "box_regressor")
    detector.freeze_except(heads)
    all_rois = detector.eval().train_rois(images, targets)
    detector.train()
    cached = classification_terms(detector, all_rois)
    box_targets = [
        detector.encode_boxes(target.boxes[rois.instance_ids[positive]], rois.boxes[positive])
        for rois, target in zip(all_rois, targets, strict=True)
        for positive in [rois.labels < NUM_CLASSES]
    ]
    features = torch.cat([rois.features for rois in all_rois])
    labels = torch.cat([rois.labels for rois in all_rois])
    if "box_regressor" in heads:
        cached["loss_box"] = detector.box_loss(features, labels, torch.cat(box_targets))

    def gradients(terms: dict[str, Tensor]) -> list[Tensor]:
        detector.zero_grad()
        sum(terms.values()).backward()
        return [p.grad for head in heads for p in detector.parts[head].parameters() if p.grad is not None]

    first = gradients(cached)
    second = gradients(detector.losses(images, targets, generator=seeded(1)))
    assert len(first) == len(second) > 2 * len(heads) - 1
    for own, other in zip(first, second, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-6)


def test_box_features_of_given_boxes_are_those_of_proposals(detector: Detector) -> None:
    images, targets = make_batch()
    detector.eval()
    rois = detector.train_rois(images, targets)
    pooled = detector.box_features(images, [own.boxes for own in rois])
    assert all(torch.equal(found, own.features) for found, own in zip(pooled, rois, strict=True))
    nothing, some = detector.box_features(images, [rois[0].boxes[:0], rois[1].boxes[:2]])
    assert nothing.shape == (0, some.shape[1])
    torch.testing.assert_close(some, rois[1].features[:2], rtol=0, atol=1e-4)


def test_caching_leaves_the_global_generator(detector: Detector) -> None:
    images, targets = make_batch()
    detector.eval()
    before = torch.get_rng_state()
    first = detector.train_rois(images, targets)
    detector.test_rois(images)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again = detector.train_rois(images, targets)
    assert all(torch.equal(a.features, b.features) for a, b in zip(first, again, strict=True))


def test_features_are_not_taken_from_a_trunk_in_training(detector: Detector) -> None:
    images, targets = make_batch()
    for call in (lambda: detector.test_rois(images), lambda: detector.train_rois(images, targets)):
        with pytest.raises(AssertionError, match="in training mode"):
            call()


def test_a_saved_state_brings_the_same_detections_back_to_the_bit(detector: Detector) -> None:
    images, _ = make_batch()
    expected = detector.eval().detect(images, max_dets=9)
    state = {name: value.clone() for name, value in detector.state_dict().items()}
    with torch.no_grad():
        for value in detector.state_dict().values():
            value.zero_()
    assert not torch.equal(detector.detect(images, max_dets=1)[0].scores, expected[0].scores[:1])
    detector.load_state_dict(state)
    for before, after in zip(expected, detector.detect(images, max_dets=9), strict=True):
        assert torch.equal(before.boxes, after.boxes)
        assert torch.equal(before.scores, after.scores)
        assert torch.equal(before.labels, after.labels)
        assert before.masks is None or torch.equal(before.masks, after.masks)


def is_delta_bias(name: str) -> bool:
    """Bias of a layer that regresses boxes, by its name in tiny, torchvision and detectron2."""
    return name.endswith("bias") and any(word in name for word in ("deltas", "bbox_pred"))
