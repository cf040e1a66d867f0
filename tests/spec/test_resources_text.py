import pytest

from lttune.errors import SpecError
from lttune.spec.resources_text import with_resources
from lttune.spec.yaml_text import parse_yaml

FLOW = """\
# A setting.
detector: {name: tiny}
resources: {cpus: 2, gpus: 1, slice_s: 600}  # as published
evaluation: {max_dets: 20}
"""
BLOCK = """\
detector: {name: tiny}
resources:
  cpus: 2
  gpus: 1
# The end.
evaluation: {max_dets: 20}
"""


def test_nothing_else_changes() -> None:
    assert with_resources(FLOW, {"gpus": 0.25}, source="x") == FLOW.replace("gpus: 1,", "gpus: 0.25,")


@pytest.mark.parametrize(
    "text", [FLOW, BLOCK, BLOCK.replace("# The end.\n", ""), "detector: {name: tiny}\n", "detector: {}"]
)
def test_the_rest_is_read_as_before(text: str) -> None:
    before = parse_yaml(text, "x")
    after = parse_yaml(with_resources(text, {"gpus": 0.5, "max_concurrent": 2}, source="x"), "x")
    assert after.pop("resources") == {**before.pop("resources", {}), "gpus": 0.5, "max_concurrent": 2}
    assert after == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: acsl\n", "x: not a setting, it has no `detector`"),
        ("detector: {}\nresources: 3\n", "'3' is not a mapping"),
    ],
)
def test_what_is_no_setting(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        with_resources(text, {}, source="x")
