"""The kinds of searched values, as a YAML file writes them."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    model_validator,
)

Scalar = bool | int | float | str | None


def _single(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        raise ValueError(f"{value} is not a single value; use text, a number, true, false or null")
    return value


def _two_ends(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{value!r} is not a range; write [low, high]")
    return tuple(value)


def _one_or_more(value: Any) -> Any:
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise ValueError("an empty list holds for no value; name at least one")
    return tuple(values)


def _listed(value: Any) -> Any:
    return tuple(map(_single, value)) if isinstance(value, (list, tuple)) else _single(value)


# One sentence for a list or a mapping, instead of one per member of the union.
SingleValue = Annotated[Scalar, BeforeValidator(_single)]
FixedValue = Annotated[Scalar | tuple[Scalar, ...], BeforeValidator(_listed)]
_Value = TypeVar("_Value")
# A frozen model would still let its dictionaries be changed.
FrozenMap = Annotated[Mapping[str, _Value], AfterValidator(MappingProxyType), PlainSerializer(dict)]
_Conditions = FrozenMap[Annotated[tuple[SingleValue, ...], BeforeValidator(_one_or_more)]]


class _Parameter(BaseModel):
    """What all kinds share.

    Attributes:
        when: values of other searched keys, choices all, with which this one is sampled; without it always.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: _Conditions = Field(default_factory=lambda: MappingProxyType({}))

    def is_active(self, values: Mapping[str, Scalar]) -> bool:
        """Whether it is sampled, given what was sampled before."""
        return all(key in values and values[key] in allowed for key, allowed in self.when.items())


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

    @property
    def first(self) -> Scalar:
        """The value that is tried first."""
        return self.default if "default" in self.model_fields_set else self.values[0]

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


def _kind(value: Any) -> Literal["float", "int", "choice", "alternatives"] | None:
    if isinstance(value, (list, tuple)):
        return "alternatives"
    if isinstance(value, FloatRange):
        return "float"
    if isinstance(value, IntRange):
        return "int"
    if isinstance(value, Choice):
        return "choice"
    kinds = [kind for kind in ("float", "int", "choice") if isinstance(value, dict) and kind in value]
    return kinds[0] if len(kinds) == 1 else None  # type: ignore[return-value]


_KINDS = "write exactly one of `float: [low, high]`, `int: [low, high]` or `choice: [...]`"
Parameter = Annotated[
    Annotated[FloatRange, Tag("float")] | Annotated[IntRange, Tag("int")] | Annotated[Choice, Tag("choice")],
    Discriminator(_kind, custom_error_type="parameter_kind", custom_error_message=_KINDS),
]
# One parameter, or several of which at most one is active at a time.
Parameters = Annotated[
    Annotated[FloatRange, Tag("float")]
    | Annotated[IntRange, Tag("int")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[tuple[Parameter, ...], Field(min_length=1), Tag("alternatives")],
    Discriminator(_kind, custom_error_type="parameter_kind", custom_error_message=_KINDS),
]
