"""Cases along an axis: which have it, with what names, and what is refused."""

import pytest
from quicksilver.experiments.kernel_bench.axis import along_axis
from quicksilver.experiments.kernel_bench.stages import Item
from quicksilver.kernels.moe_experts import ExpertsCase
from quicksilver.kernels.moe_sort import ExpertLoad
from quicksilver.kernels.rms_norm import AddRMSNormCase
from quicksilver.kernels.swiglu import SwiGLUCase

NORM = Item("norm", "a row", "float32", AddRMSNormCase(1, 64))
SWIGLU = Item("swiglu", "a row", "bfloat16", SwiGLUCase(1, 32))
EXPERTS = Item("experts", "few", "bfloat16", ExpertsCase(ExpertLoad(2, 8, 2), 64, 32))


def test_every_case_that_has_the_field_is_taken_at_each_size() -> None:
    found = along_axis([NORM, EXPERTS, SWIGLU], "rows", [1, 16])
    assert [(item.kernel, item.shape, item.case.rows, item.along) for item in found] == [  # pyright: ignore
        ("norm", "a row, rows=1", 1, ("a row", "rows", 1)), ("norm", "a row, rows=16", 16, ("a row", "rows", 16)),
        ("swiglu", "a row, rows=1", 1, ("a row", "rows", 1)),
        ("swiglu", "a row, rows=16", 16, ("a row", "rows", 16))]
    assert found[0].row["along"] == ("a row", "rows", 1)
    assert "along" not in NORM.row


def test_cases_that_differ_in_nothing_else_are_taken_once() -> None:
    other = Item("norm", "two rows", "float32", AddRMSNormCase(2, 64))
    assert [item.shape for item in along_axis([NORM, other], "rows", [1, 2])] == ["a row, rows=1", "a row, rows=2"]


def test_a_field_of_a_field_is_dotted() -> None:
    (found,) = along_axis([NORM, EXPERTS], "load.num_tokens", [5])
    assert found.case == ExpertsCase(ExpertLoad(5, 8, 2), 64, 32)


@pytest.mark.parametrize(("axis", "values", "message"), [
    ("columns", [1], r"axis='columns': must be one of rows, width, load.num_tokens, load.num_experts, load.top_k, "
                     r"expert_width"), ("rows", [], r"values=\[\]"), ("rows", [0], "values=0"),
    ("rows", [4, 4], "names a value twice"),
    ("load.top_k", [9], "load.top_k=9: experts, few, cannot be so: top_k=9")])
def test_what_no_case_has_or_takes_is_refused(axis: str, values: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        along_axis([NORM, EXPERTS], axis, values)
