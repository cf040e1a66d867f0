"""Numbers, words and keys mean what a person who wrote them means."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lttune.errors import SpecError
from lttune.spec.yaml_text import parse_yaml, read_yaml, to_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5E4", 50000.0),
        ("-2.e+1", -20.0),
        (".5e1", 5.0),
        ("1.5", 1.5),
        ("12", 12),
        (".inf", float("inf")),
        ("true", True),
        ("FALSE", False),
        ("on", "on"),
        ("yes", "yes"),
        ("n", "n"),
        ("null", None),
        ("2024-02-30", "2024-02-30"),
        ("'1e-3'", "1e-3"),
        ("e5", "e5"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    read = parse_yaml(f"key: {text}", "text")["key"]
    assert read == value
    assert type(read) is type(value)


def test_on_is_a_key() -> None:
    assert parse_yaml("on: glyphs", "text") == {"on": "glyphs"}


def test_merged_keys_may_be_given_again() -> None:
    assert parse_yaml("base: &base {a: 1, b: 2}\nmade: {<<: *base, b: 3}", "text")["made"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml: a: given twice, on lines 1 and 3; keep one."),
        ("a:\n  - {b: {c: 1, c: 2}}", "f.yaml: a[0].b.c: given twice, on line 2; keep one."),
        ("a: {5: x}", "f.yaml: a.5: line 1: the key 5 is not text; put it in quotes or correct it."),
        ("a: &x {b: *x}", "f.yaml: a.b: holds itself; write its values out."),
        ("a: [1", "f.yaml: line 1: not YAML: expected ',' or ']', but got '<stream end>'."),
        ("a:\n\t- b", r"f.yaml: line 2: not YAML: found character '\t' that cannot start any token."),
        ("a: 0x_", "f.yaml: not YAML: invalid literal for int() with base 16: ''."),
        ("a: \0", "f.yaml: not YAML: unacceptable character #x0000: special characters are not allowed."),
        ("a: *b", "f.yaml: line 1: not YAML: found undefined alias 'b'."),
        ("--- a\n--- b", "f.yaml: line 2: not YAML: but found another document."),
    ],
)
def test_faults_say_where(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value) == message


def test_nothing_in_a_file_is_executed() -> None:
    with pytest.raises(SpecError, match="could not determine a constructor"):
        parse_yaml("a: !!python/object/apply:os.getcwd []", "f.yaml")


def test_every_repeated_key_is_reported() -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml("a: 1\na: 2\nb: {c: 1, c: 1}", "f.yaml")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; write `key: value` lines."),
        (b"- a", "holds ['a']; write `key: value` lines."),
        (b"a: \xff", "is not UTF-8 text (byte 3); save it as UTF-8."),
    ],
)
def test_a_file_is_a_mapping_in_utf8(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(data)
    with pytest.raises(SpecError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}: {message}"


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: Is a directory; give the path of a YAML file"):
        read_yaml(tmp_path)


_texts = st.text(max_size=8) | st.sampled_from(
    ["1e3", "1e-3", "on", "yes", "null", "~", "=", "<<", "2024-01-01", "0x1"]
)
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _texts
_documents = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(_documents)
def test_what_is_written_reads_the_same(document: Any) -> None:
    assert parse_yaml(to_yaml(document), "text") == document
