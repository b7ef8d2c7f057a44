"""Weights on huge pages. A product of one row reads every weight once, and on pages of 4 kB the processor waits for its
table of pages as well, most of all in a virtual machine, where two tables are walked. On pages of 2 MB SmolLM2's
products of one row in bfloat16 take 0.9 times as long, and a replayed step of its loaded weights, which had lain
scattered, 0.8 to 0.86 times (one core of an AMD EPYC in a virtual machine, beside other work). Joining a page takes
some 2.5 ms there.

Linux joins pages at once on request (madvise(2), MADV_COLLAPSE), whatever /sys/kernel/mm/transparent_hugepage/enabled
says. Where it does not, as before Linux 6.1, nothing changes.
"""

import ctypes
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

_PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_COLLAPSE = 25  # MADV_COLLAPSE of <asm-generic/mman-common.h>
# A page of which less is weights stays as it is, since the rest of it might be memory that nothing uses yet.
_LEAST_SHARE = 0.5


def use_huge_pages(weights: Iterable[Tensor]) -> int:
    """Join the pages on which these weights lie, packed ones or as they are, on a CPU. Returns the bytes of the pages
    that Linux joined, or that were joined already."""
    size = int(_PAGE_SIZE.read_text()) if sys.platform == "linux" and _PAGE_SIZE.exists() else 0
    return sum(size for page in _pages(weights, size) if _collapsed(page * size, size)) if size else 0


def _pages(weights: Iterable[Tensor], size: int) -> list[int]:
    """The numbers of the pages that hold enough of the weights."""
    held: Counter[int] = Counter()
    for first, num_bytes in map(_extent, weights):
        stop = first + num_bytes
        for page in range(first // size, -(-stop // size)):
            held[page] += min(stop, (page + 1) * size) - max(first, page * size)
    return [page for page, num_bytes in held.items() if num_bytes >= _LEAST_SHARE * size]


def _extent(weight: Tensor) -> tuple[int, int]:
    """A weight's address and its bytes."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn.data_ptr(weight), torch.ops.mkldnn._nbytes(weight)
    return weight.data_ptr(), weight.nbytes


def _collapsed(address: int, size: int) -> bool:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise(address, size, _COLLAPSE) == 0
