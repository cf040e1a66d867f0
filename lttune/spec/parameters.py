"""The kinds of searched values, as a YAML file writes them."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

Scalar = bool | int | float | str | None


def _single(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        raise ValueError(f"{value} is not a single value; use text, a number, true, false or null")
    return value


def _two_ends(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{value!r} is not a range; write [low, high]")
    return tuple(value)


# One sentence for a list or a mapping, instead of one per member of the union.
SingleValue = Annotated[Scalar, BeforeValidator(_single)]


class _Parameter(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FloatRange(_Parameter):
    """`{float: [low, high], log: true, default: x}`; without a default the setting's value is tried first."""

    bounds: Annotated[tuple[float, float], BeforeValidator(_two_ends)] = Field(alias="float")
    log: bool = False
    default: float | None = None

    @property
    def ends(self) -> tuple[Scalar, ...]:
        return self.bounds

    @model_validator(mode="after")
    def _check(self) -> "FloatRange":
        _check_range(self.bounds, self.log, self.default)
        return self


class IntRange(_Parameter):
    """`{int: [low, high], log: true, step: s, default: n}`."""

    bounds: Annotated[tuple[int, int], BeforeValidator(_two_ends)] = Field(alias="int")
    log: bool = False
    step: int = Field(default=1, ge=1)
    default: int | None = None

    @property
    def ends(self) -> tuple[Scalar, ...]:
        return self.bounds

    @model_validator(mode="after")
    def _check(self) -> "IntRange":
        _check_range(self.bounds, self.log, self.default)
        if self.log and self.step != 1:
            raise ValueError("`log` and `step` exclude each other; leave one out")
        low, high = self.bounds
        for what, value in (("upper end", high), ("default", self.default)):
            beyond = 0 if value is None else (value - low) % self.step
            if value is not None and beyond:
                raise ValueError(f"{what} {value} is not on the steps of {self.step} from {low}; {value - beyond} is")
        return self


class Choice(_Parameter):
    """`{choice: [a, b, c], default: a}`; without a default the first is tried first."""

    values: tuple[SingleValue, ...] = Field(alias="choice")
    default: SingleValue = None

    @property
    def ends(self) -> tuple[Scalar, ...]:
        return self.values

    @model_validator(mode="after")
    def _check(self) -> "Choice":
        if not self.values:
            raise ValueError("`choice` is empty; name at least one value")
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"choice {list(self.values)} names a value twice; keep one")
        if "default" in self.model_fields_set and self.default not in self.values:
            raise ValueError(f"default {self.default!r} is not among {list(self.values)}; add it or choose another")
        return self


def _check_range(bounds: tuple[float, float], log: bool, default: float | None) -> None:
    low, high = bounds
    for end, value in (("lower", low), ("upper", high)):
        if not math.isfinite(value):
            raise ValueError(f"{end} end {value} is not finite; write a number")
    if not low < high:
        raise ValueError(f"lower end {low} is not below upper end {high}; write [low, high]")
    if log and low <= 0:
        raise ValueError(f"lower end {low} cannot be on a log scale; use one above 0 or leave out `log`")
    if default is not None and not low <= default <= high:
        raise ValueError(f"default {default} lies outside [{low}, {high}]; widen the range or change the default")


def _kind(value: Any) -> Literal["float", "int", "choice"] | None:
    if isinstance(value, FloatRange):
        return "float"
    if isinstance(value, IntRange):
        return "int"
    if isinstance(value, Choice):
        return "choice"
    kinds = [kind for kind in ("float", "int", "choice") if isinstance(value, dict) and kind in value]
    return kinds[0] if len(kinds) == 1 else None  # type: ignore[return-value]


Parameter = Annotated[
    Annotated[FloatRange, Tag("float")] | Annotated[IntRange, Tag("int")] | Annotated[Choice, Tag("choice")],
    Discriminator(
        _kind,
        custom_error_type="parameter_kind",
        custom_error_message="write exactly one of `float: [low, high]`, `int: [low, high]` or `choice: [...]`",
    ),
]
