from random import Random
from types import ModuleType

from hypothesis import given
from hypothesis import strategies as st

from lttune.tracking.names import cut_lines, flat_params, key, short_names, tags_by_key

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


def test_names_are_short_where_they_stay_clear() -> None:
    keys = ["method", "loss.score_threshold", "optim.lr", "optim.lr", "loss.seesaw.p", "detector.score"]
    assert short_names(keys) == {
        "method": "method",
        "loss.score_threshold": "score_threshold",
        "optim.lr": "lr",
        "loss.seesaw.p": "p",
        "detector.score": "score",
    }


def test_names_that_two_keys_or_two_methods_share_stay_whole() -> None:
    assert short_names(["loss.momentum", "optim.momentum", "loss.p", "loss.seesaw.p"]) == {}
    # One alternative of the same key for each of two methods.
    assert short_names(["loss.margin_exponent", "loss.margin_exponent"]) == {}


@given(
    st.lists(st.sampled_from(["loss.p", "loss.q", "optim.p", "optim.lr", "q", "loss.rog.p"])),
    st.randoms(use_true_random=False),
)
def test_short_names_tell_keys_apart_in_any_order(keys: list[str], random: Random) -> None:
    names = short_names(keys)
    assert len({names.get(name, name) for name in keys}) == len(set(keys))
    shuffled = keys[:]
    random.shuffle(shuffled)
    assert short_names(shuffled) == names


@given(st.lists(st.text("aé\n", max_size=40)).map("".join), st.integers(60, 200))
def test_a_long_text_is_cut_between_lines_and_says_so(text: str, max_bytes: int) -> None:
    cut = cut_lines(text, max_bytes)
    assert len(cut.encode()) <= max_bytes
    if cut != text:
        kept, _, last = cut.rpartition("# cut: ")
        assert text.startswith(kept)
        assert not kept or kept.endswith("\n")
        assert last == f"{len(text.encode())} bytes are more than {max_bytes}\n"
    assert (cut == text) == (len(text.encode()) <= max_bytes)
