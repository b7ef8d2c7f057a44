"""Range checks name the field, the value and what is allowed, and take numbers of any library."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from quicksilver.kernels.checks import (
    check_instance,
    check_integer,
    check_integers,
    check_real,
    integer_field,
    real_field,
)


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True, None, np.int64(0), np.True_, np.float64(3), 2**63,
                                   pytest.param(10**5000, id="huge")])
def test_integers_are_checked_for_type_and_range(value: object) -> None:
    with pytest.raises(ValueError, match="steps=.*must be an integer of at least 1 that fits 64 bits"):
        check_integer("steps", value)


@pytest.mark.parametrize("value", [0, 1.5, "abc", float("nan"), float("inf"), True, np.float32(0), np.float64("nan"),
                                   np.True_, Fraction(3, 2), 1j, 10**400,
                                   pytest.param(10**5000, id="huge")])
def test_numbers_are_checked_for_type_and_range(value: object) -> None:
    with pytest.raises(ValueError, match="tau=.*must be a number above 0 and at most 1"):
        check_real("tau", value, above=0, at_most=1)


@pytest.mark.parametrize("at_most", [-1, 0, 3])
def test_an_upper_end_holds_even_where_it_is_zero_or_less(at_most: int) -> None:
    check_integer("shift", at_most, -9, at_most)
    with pytest.raises(ValueError, match=f"shift={at_most + 1}: must be an integer of at least -9 and at most "):
        check_integer("shift", at_most + 1, -9, at_most)


@pytest.mark.parametrize("value", [np.int8(3), np.uint64(3), torch.Size([3])[0], True + 2], ids=repr)
def test_integers_of_any_library_become_pythons(value: Any) -> None:
    assert type(check_integer("steps", value)) is int
    assert check_integer("steps", value) == 3


@pytest.mark.parametrize(("value", "kind"), [(np.float32(0.5), float), (np.float64(0.5), float), (np.int64(1), int),
                                             (Fraction(1, 2), float), (1, int), (0.5, float)], ids=repr)
def test_reals_of_any_library_become_pythons(value: Any, kind: type) -> None:
    found = check_real("tau", value, above=0, at_most=1)
    assert type(found) is kind
    assert found == value


@pytest.mark.parametrize("values", [[1, 2], (1, 2), range(1, 3), np.array([1, 2], dtype=np.uint8), torch.tensor([1, 2]),
                                    [np.int64(1), 2], iter([1, 2])], ids=lambda values: type(values).__name__)
def test_lists_of_integers_may_be_of_any_kind(values: Any) -> None:
    found = check_integers("seeds", values)
    assert found == [1, 2]
    assert {type(value) for value in found} == {int}


@pytest.mark.parametrize(("values", "message"), [
    (5, "seeds=5: must be a list of integers"), ("12", "seeds='12': must be a list of integers"),
    (b"12", "seeds=b'12': must be a list"), ({1: 2}, "seeds={1: 2}: must be a list"),
    (None, "seeds=None: must be a list"),
    (np.int64(5), r"seeds=np.int64\(5\): must be a list"), (torch.tensor(5), r"seeds=tensor\(5\): must be a list"),
    ([1, 2.0], r"seeds\[1\]=2.0: must be an integer of at least 0"), ([[1]], r"seeds\[0\]=\[1\]"),
    (np.array([1.0]), r"seeds\[0\]=1.0"), (torch.tensor([True]), r"seeds\[0\]=True"),
    ([0, 2**63], r"seeds\[1\]=9223372036854775808: must be an integer of at least 0 that fits 64 bits"),
    ([0, -1], r"seeds\[1\]=-1")], ids=str)
def test_what_is_no_list_of_integers_is_named(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_integers("seeds", values)


@dataclass(frozen=True)
class Fields:
    steps: int
    tau: float

    def __post_init__(self) -> None:
        integer_field(self, "steps", at_most=9)
        real_field(self, "tau", above=0)


def test_a_dataclass_keeps_pythons_numbers() -> None:
    fields = Fields(np.int16(3), np.float16(0.5))  # pyright: ignore[reportArgumentType]
    assert (type(fields.steps), type(fields.tau)) == (int, float)
    assert fields == Fields(3, 0.5)
    with pytest.raises(ValueError, match="steps=10: must be an integer of at least 1 and at most 9"):
        Fields(10, 0.5)
    with pytest.raises(ValueError, match="tau=inf: must be a number above 0"):
        Fields(3, math.inf)


def test_good_values_pass() -> None:
    check_instance("name", "x", str)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ValueError, match=r"tau=\[0, 0, [0, ]+\.\.\.: must be a number above 0$"):
        check_real("tau", [0] * 10**6, above=0)


def test_a_wrong_kind_is_named() -> None:
    with pytest.raises(ValueError, match="task='x': must be a int"):
        check_instance("task", "x", int)
