"""Range checks for the fields of the library's frozen dataclasses.

YAML and the command line hand over whatever was typed, so a field's type is checked with its range. Every error is
a ValueError that names the field, the value and what is allowed.
"""

import math


def check_integer(name: str, value: object, at_least: int = 1, at_most: int | None = None) -> None:
    """Refuse `value` unless it is an int (not a bool) from `at_least` to `at_most`."""
    if isinstance(value, int) and not isinstance(value, bool) and at_least <= value <= (at_most or value):
        return
    upper = "" if at_most is None else f" and at most {at_most}"
    raise ValueError(f"{name}={value!r}: must be an integer of at least {at_least}{upper}")


def check_real(name: str, value: object, *, above: float = -math.inf, at_least: float = -math.inf,
               at_most: float = math.inf) -> None:
    """Refuse `value` unless it is a finite number in the interval that the keywords describe."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) \
            and above < value and at_least <= value <= at_most:
        return
    lower = f"above {above:g}" if above > -math.inf else f"at least {at_least:g}" if at_least > -math.inf else ""
    upper = f"at most {at_most:g}" if at_most < math.inf else ""
    raise ValueError(f"{name}={value!r}: must be a number {' and '.join(filter(None, (lower, upper)))}".rstrip())


def check_instance(name: str, value: object, kind: type) -> None:
    """Refuse `value` unless it is a `kind`."""
    if not isinstance(value, kind):
        raise ValueError(f"{name}={value!r}: must be a {kind.__name__}")
