"""What a program of attention computes: rows, keys, and the part of the keys, by what the host knows."""

from dataclasses import dataclass

import triton

from .batch_invariance import is_batch_invariant
from .key_ranges import KEY_TILE

# Programs that give each of a card's some 130 processors one.
_PROGRAMS = 128
_FEWER_ROWS = 64


@dataclass(frozen=True)
class Tiles:
    """Rows (query heads x queries) and keys of a program's tile."""

    rows: int
    keys: int
    num_warps: int
    num_stages: int


def tiles_of(num_rows: int, head_width: int, element_size: int) -> Tiles:
    """By the rows that share a key/value head; wide heads and float32 leave less room for keys in flight."""
    if element_size == 4:
        return Tiles(16 if num_rows <= 16 else 32, 16, num_warps=8, num_stages=2)
    if head_width > 128:
        rows = min(64, max(16, triton.next_power_of_2(num_rows)))
        return Tiles(rows, 32, num_warps=8 if rows == 64 else 4, num_stages=2)
    if num_rows <= 64:
        rows = max(16, triton.next_power_of_2(num_rows))
        return Tiles(rows, KEY_TILE, num_warps=4, num_stages=4 if rows == 16 else 3)
    return Tiles(128, KEY_TILE, num_warps=8, num_stages=3)


def tiles_that_fill(num_pairs: int, num_rows: int, num_keys: int, head_width: int, element_size: int) -> Tiles:
    """Tiles of fewer rows where those of `tiles_of` are too few programs even if each takes one tile of keys."""
    tiles = tiles_of(num_rows, head_width, element_size)
    if tiles.rows <= _FEWER_ROWS or is_batch_invariant():
        return tiles
    most_programs = num_pairs * triton.cdiv(num_rows, tiles.rows) * triton.cdiv(num_keys, KEY_TILE)
    return tiles_of(_FEWER_ROWS, head_width, element_size) if most_programs < _PROGRAMS else tiles


def split_size(num_programs: int, num_kv_heads: int, num_keys: int) -> int:
    """Keys in a split, where there are so many programs a split and so many keys in all."""
    if is_batch_invariant():
        return min(1024, max(256, 64 * triton.next_power_of_2(num_kv_heads)))
    num_splits = triton.cdiv(_PROGRAMS, max(num_programs, 1))
    return KEY_TILE * max(1, triton.cdiv(num_keys, KEY_TILE * num_splits))
