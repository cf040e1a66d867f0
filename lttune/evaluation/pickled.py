"""The binary result files of detectron2 and mmdetection, as entries of the JSON list.

Reading them runs no code that a file brings: only tensors, arrays and plain values are rebuilt.
"""

import pickle
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch._utils import _rebuild_tensor_v2

from lttune.errors import DataError
from lttune.types import Annotations

_ADVICE = "give the JSON that the same framework writes."


def read_detectron2(path: Path, file: BinaryIO, annotations: Annotations) -> Iterator[list[dict[str, Any]]]:
    """The entries of `instances_predictions.pth`, an image at a time.

    Raises:
        DataError: the file has another form, or a label that is no category.
    """
    try:
        predictions = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as detectron2's predictions: {_first_line(error)}; {_ADVICE}"
        ) from None
    for i, prediction in enumerate(_list(path, predictions)):
        instances = prediction.get("instances") if isinstance(prediction, dict) else None
        if not isinstance(instances, list) or not all(isinstance(entry, dict) for entry in instances):
            raise DataError(f"{path}: prediction {i} has no list `instances`; {_ADVICE}")
        yield [
            entry | {"category_id": _category_id(path, entry.get("category_id"), annotations)} for entry in instances
        ]


def read_mmdetection(path: Path, file: BinaryIO, annotations: Annotations) -> Iterator[list[dict[str, Any]]]:
    """The entries of what `tools/test.py --out` of mmdetection 3 writes, an image at a time.

    Raises:
        DataError: the file has another form, or a label that is no category.
    """
    try:
        samples = _Unpickler(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{path}: cannot be read as mmdetection's results: {_first_line(error)}; {_ADVICE}") from None
    for i, sample in enumerate(_list(path, samples)):
        found = sample.get("pred_instances") if isinstance(sample, dict) else None
        if not isinstance(found, dict) or not {"bboxes", "scores", "labels"} <= found.keys() or "img_id" not in sample:
            # Up to version 2 a file told neither images nor their order.
            raise DataError(f"{path}: result {i} lacks img_id or pred_instances; {_ADVICE}")
        corners = np.asarray(found["bboxes"], np.float64).reshape(-1, 4)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        columns: list[list[Any]] = [boxes.tolist(), np.asarray(found["scores"], np.float64).tolist()]
        columns.append([_category_id(path, label, annotations) for label in np.asarray(found["labels"]).tolist()])
        columns.append(found.get("masks", [None] * len(boxes)))
        if len({len(column) for column in columns}) > 1:
            raise DataError(f"{path}: result {i} has {[len(c) for c in columns]} boxes, scores, labels and masks.")
        image_id = sample["img_id"]
        yield [
            {"image_id": image_id, "bbox": box, "score": score, "category_id": category_id, "segmentation": mask}
            for box, score, category_id, mask in zip(*columns, strict=True)
        ]


class _Unpickler(pickle.Unpickler):
    """Rebuilds tensors, arrays and plain values only."""

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 moved numpy.core to numpy._core; files of both are read.
        known = _REBUILT.get((module.replace("numpy.core", "numpy._core"), name))
        if known is None:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return known


def _storage(content: bytes) -> Any:
    return torch.load(BytesIO(content), map_location="cpu", weights_only=True)


_REBUILT: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy._core.multiarray", "scalar"): np.float32(0).__reduce__()[0],
}


def _list(path: Path, document: Any) -> list[Any]:
    if not isinstance(document, list):
        raise DataError(f"{path}: the top level is a {type(document).__name__}, not a list of images; {_ADVICE}")
    return document


def _category_id(path: Path, label: Any, annotations: Annotations) -> int:
    if type(label) is not int or not 0 <= label < annotations.num_categories:
        raise DataError(
            f"{path}: label {label!r} is not a place in the {annotations.num_categories} categories of "
            f"{annotations.source}; evaluate it against annotations with the categories it was trained on."
        )
    return int(annotations.category_ids[label])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
