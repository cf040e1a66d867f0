"""Ranges and choices, and what is wrong with them."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from lttune.spec.parameters import Choice, FloatRange, IntRange, Parameter

ADAPTER: TypeAdapter[Any] = TypeAdapter(Parameter)


def parameter(value: Any) -> Any:
    return ADAPTER.validate_json(json.dumps(value), strict=True)


def test_kinds() -> None:
    number = parameter({"float": [1, 2.5], "log": True, "default": 2})
    assert isinstance(number, FloatRange)
    assert (number.ends, number.log, number.default) == ((1.0, 2.5), True, 2.0)
    whole = parameter({"int": [2, 8], "step": 3})
    assert isinstance(whole, IntRange)
    assert (whole.ends, whole.step, whole.default) == ((2, 8), 3, None)
    choice = parameter({"choice": ["a", 1, None, 0.5, False]})
    assert isinstance(choice, Choice)
    assert choice.ends == ("a", 1, None, 0.5, False)
    assert type(choice.values[-1]) is bool


def test_parameters_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parameter({"int": [1, 2]}).default = 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"float": [2, 1]}, "lower end 2.0 is not below upper end 1.0; write [low, high]"),
        ({"int": [2, 2]}, "lower end 2 is not below upper end 2; write [low, high]"),
        ({"float": [0, 1], "log": True}, "lower end 0.0 cannot be on a log scale; use one above 0 or leave out `log`"),
        ({"int": [0, 9], "log": True}, "lower end 0 cannot be on a log scale; use one above 0 or leave out `log`"),
        ({"float": [1, float("inf")]}, "upper end inf is not finite; write a number"),
        ({"float": [float("nan"), 1]}, "lower end nan is not finite; write a number"),
        ({"float": [0, 1], "default": 2}, "default 2.0 lies outside [0.0, 1.0]; widen the range or change the default"),
        ({"float": [0, 1, 2]}, "[0, 1, 2] is not a range; write [low, high]"),
        ({"int": 3}, "3 is not a range; write [low, high]"),
        ({"int": [1, 9], "log": True, "step": 2}, "`log` and `step` exclude each other; leave one out"),
        ({"int": [1, 9], "step": 2, "default": 4}, "default 4 is not on the steps of 2 from 1; 3 is"),
        ({"int": [1, 10], "step": 4}, "upper end 10 is not on the steps of 4 from 1; 9 is"),
        ({"choice": []}, "`choice` is empty; name at least one value"),
        ({"choice": ["a", "b", "a"]}, "choice ['a', 'b', 'a'] names a value twice; keep one"),
        ({"choice": [1, True]}, "choice [1, True] names a value twice; keep one"),
        ({"choice": ["a"], "default": "b"}, "default 'b' is not among ['a']; add it or choose another"),
        ({"choice": ["a"], "default": None}, "default None is not among ['a']; add it or choose another"),
        ({"choice": [[1]]}, "[1] is not a single value; use text, a number, true, false or null"),
    ],
)
def test_faults(value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parameter(value)
    (fault,) = caught.value.errors()
    assert str(fault["ctx"]["error"]) == message


@pytest.mark.parametrize("value", [{"float": [0, 1], "int": [0, 1]}, {"default": 1}, 0.7, None, [0, 1]])
def test_exactly_one_kind(value: Any) -> None:
    with pytest.raises(ValidationError, match="write exactly one of `float"):
        parameter(value)
