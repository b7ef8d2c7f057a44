"""Range checks for the fields of the library's frozen dataclasses and for what its functions are called with.

YAML, the command line and other libraries hand over whatever was typed or counted, so a value's type is checked with
its range: integers and reals of any library are taken and become Python's, so that equal values are equal in a record's
key too. Every error is a ValueError that names the value and what is allowed.
"""

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import TypeGuard

LARGEST_FACTOR = 1e30
"""What a float32 may be multiplied by: times scores, logits and states of any use it stays finite, and 0 stays 0."""

_LARGEST = 2**63 - 1


def check_integer(name: str, value: object, at_least: int = 1, at_most: int | None = None) -> int:
    """`value` as an int. ValueError unless it is an integer, not a bool, from `at_least` to `at_most`, by default the
    largest of 64 bits."""
    largest = _LARGEST if at_most is None else at_most
    if _is_integer(value) and at_least <= value <= largest:
        return int(value)
    upper = " that fits 64 bits" if at_most is None else f" and at most {at_most}"
    raise ValueError(f"{name}={shown(value)}: must be an integer of at least {at_least}{upper}")


def check_integers(name: str, values: object, at_least: int = 0, at_most: int | None = None) -> list[int]:
    """Integers in a list, a tuple, an array or a tensor of one dimension, or in anything else that can be gone through,
    as a list of ints. ValueError names the first that is none, or is out of range."""
    plain = values.tolist() if hasattr(values, "tolist") else values  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(plain, Iterable) or isinstance(plain, str | bytes | Mapping):
        raise ValueError(f"{name}={shown(values)}: must be a list of integers")
    largest = _LARGEST if at_most is None else at_most
    integers = list(plain)
    for place, value in enumerate(integers):
        if not (_is_integer(value) and at_least <= value <= largest):
            check_integer(f"{name}[{place}]", value, at_least, at_most)
    return [int(value) for value in integers]


def check_real(name: str, value: object, *, above: float = -math.inf, at_least: float = -math.inf,
               at_most: float = math.inf) -> float:
    """`value` as a float, or as an int where it is an integer. ValueError unless it is a finite number in the interval
    that the keywords describe."""
    number = _finite(value)
    if number is not None and above < number and at_least <= number <= at_most:
        return number
    lower = f"above {above:g}" if above > -math.inf else f"at least {at_least:g}" if at_least > -math.inf else ""
    upper = f"at most {at_most:g}" if at_most < math.inf else ""
    raise ValueError(f"{name}={shown(value)}: must be a number {' and '.join(filter(None, (lower, upper)))}".rstrip())


def integer_field(instance: object, name: str, at_least: int = 1, at_most: int | None = None) -> None:
    """Check an integer field of a frozen dataclass, in its __post_init__, and keep it as an int."""
    object.__setattr__(instance, name, check_integer(name, getattr(instance, name), at_least, at_most))


def real_field(instance: object, name: str, *, above: float = -math.inf, at_least: float = -math.inf,
               at_most: float = math.inf) -> None:
    """Check a number field of a frozen dataclass, in its __post_init__, and keep it as a float or an int."""
    value = check_real(name, getattr(instance, name), above=above, at_least=at_least, at_most=at_most)
    object.__setattr__(instance, name, value)


def check_instance(name: str, value: object, kind: type) -> None:
    """Refuse `value` unless it is a `kind`."""
    if not isinstance(value, kind):
        raise ValueError(f"{name}={shown(value)}: must be a {kind.__name__}")


def _is_integer(value: object) -> TypeGuard[int]:
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def _finite(value: object) -> float | None:
    """A real as Python's number, an int where it is an integer; None where it is none or no float holds it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = int(value) if isinstance(value, Integral) else float(value)
        return number if math.isfinite(number) else None
    except OverflowError:
        return None


def shown(value: object) -> str:
    """The value, cut where it is long: a list of a million numbers says no more than its beginning."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        text = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
