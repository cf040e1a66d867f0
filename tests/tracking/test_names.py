from types import ModuleType

from hypothesis import given
from hypothesis import strategies as st

from lttune.tracking.names import flat_params, key, tags_by_key

PARTS = st.sampled_from(
    ["", ".", "..", "/", "//", "a", "é", "segm", "AP 50", "x=;\n", "-", "k" * 247, "k" * 249, "/..a", "\0"]
)


@given(st.one_of(st.text(), st.lists(PARTS).map("".join)))
def test_mlflow_takes_every_key(validation: ModuleType, name: str) -> None:
    validation._validate_param(key(name), "value")
    validation._validate_metric(key(name), 1.0, 0, 0)
    validation._validate_tag(key(name), "value")


def test_good_keys_stay_as_they_are() -> None:
    for name in ("segm/AP_r", "loss.score_threshold", "optim/lr", "a-b c"):
        assert key(name) == name


def test_params_are_flat_text() -> None:
    params = {
        "loss": {"gamma": 2.0, "deep": {"on": True}},
        "a.b": None,
        "list": [1, "b"],
        "empty": {},
        "text": "t" * 7000,
    }
    assert dict(flat_params(params)) == {
        "loss/gamma": "2.0",
        "loss/deep/on": "True",
        "a.b": "None",
        "list": '[1,"b"]',
        "empty": "{}",
        "text": "t" * 6000,
    }


def test_tags_get_our_prefix_and_fit() -> None:
    tags = tags_by_key({"reason": "r" * 9000, "mlflow.note.content": "n"})
    assert tags == {"lttune.reason": "r" * 8000, "mlflow.note.content": "n"}
