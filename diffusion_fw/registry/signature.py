"""The annotations of a signature: what they allow, and how a value is converted to them. Standard library only."""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

T = TypeVar("T")


LARGEST = sys.float_info.max


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, for use in ``Annotated[float, Range(0, 1)]``; each end is included unless it is open.

    Infinity is allowed only where an end says so: ``Range(0, math.inf)``. NaN never is.
    """

    low: float = -LARGEST
    high: float = LARGEST
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    def __str__(self) -> str:
        if self.high >= LARGEST:
            return f"{'above' if self.low_open else 'at least'} {self.low:g}"
        return f"{'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"


INT64 = Range(-(2**63), 2**63 - 1)
"""What torch takes for an int; Seed has more."""
FINITE = Range()


class _Runtime:
    def __repr__(self) -> str:
        return "Runtime"


RUNTIME = _Runtime()
Runtime = Annotated[T, RUNTIME]
"""A parameter that the composition root passes (channels, a schedule, ...): not a key of the config."""


class _Named:
    def __repr__(self) -> str:
        return "Named"


NAMED = _Named()
Name = Annotated[str, NAMED]
"""Text that names a component or the like, never a file."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Marks a value of a parameter for which the composition root measures a fact of the data.

    ``scale: Positive | Annotated[Literal["auto"], Measured("data_std")]`` has the fact measured where scale is "auto";
    it is passed as ``data_std: Runtime[float | None] = None``, which the signature must have beside it.
    """

    fact: str


AutoStd = Annotated[Literal["auto"], Measured("data_std")]
AutoDiameter = Annotated[Literal["auto"], Measured("data_diameter")]

PositiveInt = Annotated[int, Range(1)]
Size = Annotated[int, Range(1, 1_000_000)]
"""How many things are made or walked through at once, such as steps and layers: more would take all memory or time."""
NonNegativeInt = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**64 - 1)]
Positive = Annotated[float, Range(0, low_open=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Extended = Annotated[float, Range(-math.inf, math.inf)]
"""A number that may be infinite."""
OpenFraction = Annotated[float, Range(0, 1, high_open=True)]

_SCALARS: tuple[type, ...] = (bool, int, float, str)


def _metadata(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(annotation) is Annotated:
        base, *extra = typing.get_args(annotation)
        return base, tuple(extra)
    return annotation, ()


def is_runtime(annotation: Any) -> bool:
    """Whether the composition root passes this parameter, rather than the config."""
    return RUNTIME in _metadata(annotation)[1]


def may_name_a_file(annotation: Any) -> bool:
    """Whether a value may hold free text: any but the choices of a Literal and what is marked as a ``Name``."""
    base, extra = _metadata(annotation)
    if NAMED in extra or typing.get_origin(base) is Literal:
        return False
    # The keys of a mapping are names of parameters.
    parts = typing.get_args(base)[1:] if typing.get_origin(base) is dict else typing.get_args(base)
    return base is str or any(may_name_a_file(part) for part in parts)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def is_checkable(annotation: Any) -> bool:
    """Whether ``convert`` can tell which values fit."""
    base, _ = _metadata(annotation)
    origin, args = typing.get_origin(base), typing.get_args(base)
    if base in _SCALARS or base is types.NoneType:
        return True
    if origin is Literal:
        return all(isinstance(value, _SCALARS) for value in args)
    if _is_union(base):
        return all(is_checkable(option) for option in args)
    if origin in (list, tuple):
        return bool(args) and all(option is Ellipsis or is_checkable(option) for option in args)
    if origin is dict:
        return len(args) == 2 and args[0] is str and is_checkable(args[1])
    return False


def describe(annotation: Any) -> str:
    """The allowed values of an annotation, as text for a user."""
    base, extra = _metadata(annotation)
    origin, args = typing.get_origin(base), typing.get_args(base)
    bounds = "".join(
        f" {'' if item.high >= LARGEST else 'in '}{item}"
        for item in extra
        if isinstance(item, Range) and (item.low, item.high) != (-math.inf, math.inf)
    )
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(dict.fromkeys(map(str, args)))
    if _is_union(base):
        return " or ".join(describe(option) for option in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return f"a list of {len(args)} ({', '.join(describe(option) for option in args)})"
    if origin in (list, tuple):
        return f"a list of {describe(args[0])}"
    if origin is dict:
        return f"a mapping to {describe(args[1])}"
    return ("null" if base is types.NoneType else base.__name__) + bounds


def _convert_scalar(base: type, value: Any) -> Any:
    if base is float and type(value) in (int, float):
        try:
            return float(value)
        except OverflowError:
            raise ValueError from None
    if type(value) is base:
        return value
    raise ValueError


def _convert_sequence(origin: type, args: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError
    if origin is tuple and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise ValueError
        return tuple(convert(option, item) for option, item in zip(args, value, strict=True))
    return origin(convert(args[0], item) for item in value)


def _convert_union(options: tuple[Any, ...], value: Any) -> Any:
    for option in options:
        try:
            return convert(option, value)
        except ValueError:
            continue
    raise ValueError


def convert(annotation: Any, value: Any) -> Any:
    """The value in the type of its annotation (1.0 for 1, a tuple for a list); ValueError where it does not fit."""
    base, extra = _metadata(annotation)
    origin, args = typing.get_origin(base), typing.get_args(base)
    if base is types.NoneType:
        if value is not None:
            raise ValueError
        return None
    if origin is Literal:
        for option in args:
            if option == value and isinstance(option, bool) == isinstance(value, bool):
                return option
        raise ValueError
    if _is_union(base):
        return _convert_union(args, value)
    if origin in (list, tuple):
        return _convert_sequence(origin, args, value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError
        return {convert(args[0], key): convert(args[1], item) for key, item in value.items()}
    result = _convert_scalar(base, value)
    bounds = [item for item in extra if isinstance(item, Range)]
    if base is int and all(item.high >= LARGEST for item in bounds):
        bounds.append(INT64)
    elif base is float and not bounds:
        bounds.append(FINITE)
    if any(result not in item for item in bounds):
        raise ValueError
    return result


def measured(annotation: Any) -> dict[Any, str]:
    """The values of an annotation for which a fact of the data is measured, with that fact."""
    base, extra = _metadata(annotation)
    if _is_union(base):
        return {value: fact for option in typing.get_args(base) for value, fact in measured(option).items()}
    return {value: item.fact for item in extra if isinstance(item, Measured) for value in typing.get_args(base)}


def misfit(annotation: Any, value: Any) -> tuple[str, Any, Any]:
    """The part of a value that does not fit: its place inside mappings (".key"), the part, and its annotation."""
    base, _ = _metadata(annotation)
    if typing.get_origin(base) is dict and isinstance(value, Mapping):
        wanted = typing.get_args(base)[1]
        for key, item in value.items():
            try:
                convert(wanted, item)
            except ValueError:
                where, part, annotation = misfit(wanted, item)
                return f".{key}{where}", part, annotation
    return "", value, annotation
