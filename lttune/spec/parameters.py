"""The kinds of searched values, as a YAML file writes them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Scalar = bool | int | float | str | None


class _Parameter(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class FloatRange(_Parameter):
    """`{float: [low, high], log: true, default: x}`; without a default the setting's value is tried first."""

    bounds: tuple[float, float] = Field(alias="float")
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

    bounds: tuple[int, int] = Field(alias="int")
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
        if self.default is not None and (self.default - self.bounds[0]) % self.step:
            raise ValueError(f"default {self.default} is not on the steps of {self.step} from {self.bounds[0]}")
        return self


class Choice(_Parameter):
    """`{choice: [a, b, c], default: a}`; without a default the first is tried first."""

    values: tuple[Scalar, ...] = Field(alias="choice", min_length=1)
    default: Scalar = None

    @property
    def ends(self) -> tuple[Scalar, ...]:
        return self.values

    @model_validator(mode="after")
    def _check(self) -> "Choice":
        if len(set(map(repr, self.values))) != len(self.values):
            raise ValueError(f"choice {list(self.values)} names a value twice")
        if "default" in self.model_fields_set and self.default not in self.values:
            raise ValueError(f"default {self.default!r} is not among {list(self.values)}")
        return self


def _check_range(bounds: tuple[float, float], log: bool, default: float | None) -> None:
    low, high = bounds
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
