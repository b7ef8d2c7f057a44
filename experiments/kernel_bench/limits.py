"""The targets' resources, occupancy, and the hard limits of shipped configurations."""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A GPU architecture. Sizes in bytes; `multiprocessor` is AMD's compute unit, a warp its wavefront."""

    backend: str
    architecture: int | str
    warp_size: int
    shared_per_block: int
    shared_per_multiprocessor: int
    shared_reserved_per_block: int
    warps_per_multiprocessor: int
    blocks_per_multiprocessor: int


TARGETS = {
    "sm_90": Target("cuda", 90, 32, 232_448, 233_472, 1024, 64, 32),
    "sm_100": Target("cuda", 100, 32, 232_448, 233_472, 1024, 64, 32),
    "sm_80": Target("cuda", 80, 32, 166_912, 167_936, 1024, 64, 32),
    "gfx942": Target("hip", "gfx942", 64, 65_536, 65_536, 0, 32, 16),
}
MAIN_TARGET = "sm_90"
TENSOR_MEMORY_COLUMNS = 512
MAX_CONFIGURATIONS = 90
# On other targets than the main one a few spilled registers are left to the baseline; a larger frame is a defect (7 KB
# were seen).
_SPILL_FRAME_BYTES = 128
_QUARTERS = 4  # warp schedulers of a multiprocessor, which share its registers equally
_CUDA_REGISTERS_PER_QUARTER = 16_384
_CUDA_REGISTER_GRAIN = 256


def occupancy(target: Target, num_warps: int, registers: int, shared: int, waves: int | None = None) -> Json:
    """The number of blocks of a kernel that fit on a multiprocessor, and the share of its warps that they occupy.
    `registers` are per thread; for AMD, `waves` per quarter come from the assembler."""
    if waves is None:
        of_a_warp = -(-max(registers, 1) * 32 // _CUDA_REGISTER_GRAIN) * _CUDA_REGISTER_GRAIN
        waves = _CUDA_REGISTERS_PER_QUARTER // of_a_warp
    by_registers = min(target.warps_per_multiprocessor, _QUARTERS * waves) // num_warps
    by_shared = target.shared_per_multiprocessor // max(1, shared + target.shared_reserved_per_block)
    blocks = min(by_registers, by_shared, target.blocks_per_multiprocessor)
    return {"blocks": blocks, "occupancy": blocks * num_warps / target.warps_per_multiprocessor}


def violations(record: Json) -> list[str]:
    """The hard limits that a compiled configuration breaks; empty if it may ship."""
    target, found = TARGETS[record["target"]], []
    if record["target"] == MAIN_TARGET and record["spill_bytes"]:
        found.append(f"spills {record['spill_bytes']} bytes of registers")
    if record["stack_bytes"] > (0 if record["target"] == MAIN_TARGET else _SPILL_FRAME_BYTES):
        found.append(f"has a stack frame of {record['stack_bytes']} bytes")
    if record["shared_bytes"] > target.shared_per_block:
        found.append(f"takes {record['shared_bytes']:,} bytes of shared memory, more than the card's "
                     f"{target.shared_per_block:,}")
    if record["tensor_memory_columns"] > TENSOR_MEMORY_COLUMNS:
        found.append(f"takes {record['tensor_memory_columns']} columns of tensor memory, more than the card's "
                     f"{TENSOR_MEMORY_COLUMNS}")
    if not record["num_stores"]:
        found.append("writes nothing: the compiler has emptied it")
    if record["target"] == MAIN_TARGET and record["needs_wide_loads"] and record["wide_loads"] is False:
        found.append(f"loads its data in less than 128 bits: {', '.join(record['narrow_loads'])}")
    return found


def missing_tensor_core(records: list[Json]) -> list[str]:
    """The shapes that must use HGMMA but have no program for the main target that does."""
    uses: dict[str, bool] = {}
    for record in records:
        if record["target"] == MAIN_TARGET:
            for shape in record["needs_hgmma"]:
                uses[shape] = uses.get(shape, False) or "HGMMA" in record["tensor_core"]
    return [f"{shape}: no program of it uses HGMMA" for shape, does in uses.items() if not does]
