"""The configuration's ranges and freezing by part."""

import pytest

from lttune.detectors import DetectorConfig
from lttune.errors import InputError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_train_proposals", 0),
        ("num_test_proposals", -1),
        ("num_rois", 0),
        ("positive_fraction", 0.0),
        ("positive_fraction", 1.1),
        ("positive_iou", 0.0),
        ("nms_iou", 1.5),
        ("score_threshold", 1.0),
        ("score_threshold", float("nan")),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("box_loss_beta", -0.1),
        ("rpn_loss_beta", float("inf")),
        ("rpn_loss_beta", float("nan")),
    ],
)
def test_values_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"detector.{field} is {value}"):
        DetectorConfig(name="tiny_mask_rcnn_fpn", **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cascade_rcnn_r101_fpn", "cascade_mask_rcnn_r50_fpn"])
def test_a_cascade_hands_on_one_box_for_all_categories(name: str) -> None:
    with pytest.raises(InputError, match=r"detector\.class_agnostic_box is False.*set it to true"):
        DetectorConfig(name=name)
    assert DetectorConfig(name=name, class_agnostic_box=True).is_cascade


def test_names_tell_masks_and_stages() -> None:
    kinds = {
        name: (config.has_masks, config.is_cascade)
        for name in ("tiny_mask_rcnn_fpn", "faster_rcnn_r50_fpn", "cascade_rcnn_r50_fpn", "cascade_mask_rcnn_r50_fpn")
        for config in [DetectorConfig(name=name, class_agnostic_box=True)]
    }
    assert list(kinds.values()) == [(True, False), (False, False), (False, True), (True, True)]
