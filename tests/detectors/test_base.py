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
    ],
)
def test_values_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"detector.{field} is {value}"):
        DetectorConfig(name="tiny_mask_rcnn_fpn", **{field: value})  # type: ignore[arg-type]
