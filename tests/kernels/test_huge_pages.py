"""Which pages are joined, and that what lies on them stays."""

import re
from pathlib import Path

import pytest
import torch
from quicksilver.kernels import huge_pages
from quicksilver.kernels.huge_pages import use_huge_pages
from quicksilver.kernels.packed_linear import packed_weight

MIB = 1 << 20
PAGE = 2 * MIB


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The addresses of the pages that a Linux is asked to join, which refuses the second."""
    pages: list[int] = []

    def collapsed(address: int, size: int) -> bool:
        assert size == PAGE
        pages.append(address)
        return len(pages) != 2

    (tmp_path / "size").write_text(f"{PAGE}\n")
    monkeypatch.setattr(huge_pages, "_PAGE_SIZE", tmp_path / "size")
    monkeypatch.setattr(huge_pages, "_collapsed", collapsed)
    return pages


def bytes_at(address: int, num_bytes: int) -> torch.Tensor:
    """Memory from an address on, which counts from a whole page of a buffer of this process."""
    first = -BUFFER.data_ptr() % PAGE
    return BUFFER[first + address : first + address + num_bytes]


BUFFER = torch.zeros(8 * PAGE, dtype=torch.uint8)
START = BUFFER.data_ptr() + -BUFFER.data_ptr() % PAGE


def test_pages_that_weights_fill_by_half_are_joined_though_no_weight_alone_does(asked: list[int]) -> None:
    weights = [bytes_at(0, MIB // 2), bytes_at(MIB // 2, MIB // 2), bytes_at(3 * MIB, 2 * MIB), bytes_at(5 * MIB, 1)]
    assert use_huge_pages(weights) == 2 * PAGE  # one of the three was refused
    assert asked == [START, START + PAGE, START + 2 * PAGE]


def test_a_page_with_less_is_left(asked: list[int]) -> None:
    assert use_huge_pages([bytes_at(0, MIB - 1), bytes_at(2 * MIB, MIB - 1)]) == 0
    assert not asked


def test_where_linux_does_not_tell_the_size_nothing_is_done(asked: list[int], tmp_path: Path) -> None:
    (tmp_path / "size").unlink()
    assert use_huge_pages([bytes_at(0, 2 * PAGE)]) == 0
    assert not asked


@pytest.mark.parametrize("is_packed", [False, True])
def test_weights_are_the_same_afterwards_and_lie_on_the_pages_that_are_said(is_packed: bool) -> None:
    weight_NK = torch.randn(2048, 1024)
    held = packed_weight(weight_NK) if is_packed else weight_NK.clone()
    address = huge_pages._extent(held)[0]
    joined = use_huge_pages([held])
    assert torch.equal(held.to_dense() if is_packed else held, weight_NK)
    if joined == 0:
        pytest.skip("this Linux joins no pages")
    huge = 0
    for region in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE):
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", region)
        if bounds and int(bounds[1], 16) <= address < int(bounds[2], 16):
            huge = int(re.findall(r"AnonHugePages:\s+(\d+)", region)[0])
    assert 1024 * huge >= joined >= 3 * PAGE
