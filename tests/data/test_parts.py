import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lttune.data import parts
from lttune.data.lvis import annotations_from_text
from lttune.data.parts import parse_in_parts
from lttune.data.segmentations import PackedSegmentations, pack_segmentations
from lttune.errors import DataError

POLYGONS = [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]]
SEGMENTATIONS: list[Any] = [
    POLYGONS,
    [*POLYGONS, [1.5, 1.0, 2.0, 1.0, 2.0, 2.0, 1.0, 2.0]],
    {"size": [8, 9], "counts": [3, 4, 65]},
    {"size": [8, 9], "counts": "04T2"},
    None,
    [{"of": "another"}, {"form": 1}],
]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_PART", 300)
    monkeypatch.setattr(parts, "_LONGEST_ENTRY", 250)


def entry(number: int, segmentation: Any, note: str = "") -> dict[str, Any]:
    return {
        "id": number + 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [0, 0, 4, 4],
        "area": 8.0,
        "note": note,
        "segmentation": segmentation,
    }


def document(entries: list[dict[str, Any]], order: tuple[str, ...] = ("images", "annotations", "categories")) -> bytes:
    image = {"id": 1, "height": 8, "width": 9, "file_name": "a.png"}
    lists = {
        "images": [{**image, "neg_category_ids": [], "not_exhaustive_category_ids": []}],
        "annotations": entries,
        "categories": [{"id": 1, "name": "cat", "frequency": "f"}],
    }
    return json.dumps({"info": {"note": '"annotations": ['}, **{name: lists[name] for name in order}}).encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    chosen=st.lists(st.tuples(st.sampled_from(SEGMENTATIONS), st.sampled_from(["", "}, {", '"}]', "]}"])), max_size=30),
    order=st.permutations(["images", "annotations", "categories"]),
)
def test_parts_give_what_the_whole_gives(chosen: list[tuple[Any, str]], order: list[str]) -> None:
    entries = [entry(i, *one) for i, one in enumerate(chosen)]
    text = document(entries, tuple(order))
    found = parse_in_parts(text)
    assert (found is None) == (len(text) <= 600)
    if found is not None:
        packed = pack_segmentations([one.pop("segmentation") for one in entries])
        assert found[0] == json.loads(text) | {"annotations": entries}
        assert {name: column.tolist() for name, column in found[1].items()} == {
            name: column.tolist() for name, column in packed.items()
        }


def test_annotations_of_a_large_file_equal_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    text = document([entry(i, SEGMENTATIONS[i % 4]) for i in range(40)])
    in_parts = annotations_from_text(text, "large.json")
    monkeypatch.setattr(parts, "_PART", len(text))
    whole = annotations_from_text(text, "large.json")
    assert isinstance(in_parts.segmentations, PackedSegmentations)
    assert list(in_parts.segmentations) == list(whole.segmentations)
    assert (in_parts.boxes_xywh == whole.boxes_xywh).all()
    assert in_parts.annotation_ids.tolist() == whole.annotation_ids.tolist()


@pytest.mark.parametrize(
    "text",
    [
        document([entry(i, POLYGONS) for i in range(9)])[:-30],
        document([entry(i, POLYGONS) for i in range(9)]).replace(b"8.0", b"NaN"),
        b'{"info": {"annotations": [' + b"1, " * 400 + b"1]}}",
        document([entry(i, POLYGONS) for i in range(9)]).replace(b'{"id": 3, ', b'7, {"id": 3, '),
    ],
    ids=["cut short", "not a number", "another key", "an entry that is no object"],
)
def test_what_cannot_be_cut_is_left_to_the_whole(text: bytes) -> None:
    assert parse_in_parts(text) is None
    with pytest.raises(DataError):
        annotations_from_text(text, "broken.json")


def test_a_fault_in_a_large_file_is_named(tmp_path: Path) -> None:
    entries = [entry(i, POLYGONS) for i in range(40)]
    entries[31]["category_id"] = 5
    with pytest.raises(DataError, match=r"annotations\[31\]\.category_id \(id 32\): 5 is not the id of any category"):
        annotations_from_text(document(entries), "large.json")
