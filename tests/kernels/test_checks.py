"""Range checks name the field, the value and what is allowed."""

import pytest
from quicksilver.kernels.checks import check_instance, check_integer, check_real


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True, None])
def test_integers_are_checked_for_type_and_range(value: object) -> None:
    with pytest.raises(ValueError, match="steps=.*must be an integer of at least 1"):
        check_integer("steps", value)


@pytest.mark.parametrize("value", [0, 1.5, "abc", float("nan"), float("inf"), True])
def test_numbers_are_checked_for_type_and_range(value: object) -> None:
    with pytest.raises(ValueError, match="tau=.*must be a number above 0 and at most 1"):
        check_real("tau", value, above=0, at_most=1)


def test_good_values_pass() -> None:
    check_integer("steps", 1)
    check_real("tau", 1, above=0, at_most=1)
    check_instance("name", "x", str)


def test_a_wrong_kind_is_named() -> None:
    with pytest.raises(ValueError, match="task='x': must be a int"):
        check_instance("task", "x", int)
