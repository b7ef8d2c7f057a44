"""The resources of a compiled Triton program, parsed from compiler output: registers, spills, tensor-core instructions,
and the width of its loads.

Data loads of the main loop must be 128 bits wide. TTGIR separates data from indices: a load of floating-point values
with at least 16 bytes per thread is data (with fewer no thread could fill 128 bits; token ids, expert ids and masks are
integers; a scale or bias per row is a few bytes per thread). Line information maps such a load to its instructions in
PTX or AMD's assembly, whose widths are the machine's. Only loads inside a loop count, or all if no loop loads data.
Copies by the tensor memory accelerator are always wide.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

Json = dict[str, Any]
Line = tuple[str, int]

_WIDE_BITS = 128


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name, its source line, the bits a thread loads from global memory (if any), and whether it
    is in a loop."""

    opcode: str
    line: Line | None = None
    load_bits: int = 0
    in_loop: bool = False


@dataclass(frozen=True)
class _Syntax:
    """The syntax of an assembly language: an instruction (name, operands), a label, a branch's target, a source line.
    """

    instruction: re.Pattern[str]
    label: re.Pattern[str]
    branch: str
    target: re.Pattern[str]
    load_bits: Callable[[str, str], int]
    source: re.Pattern[str] | None = None

    def parse(self, text: str) -> list[Instruction]:
        """The instructions of a program; those between a label and a branch back to it are in a loop."""
        found: list[Instruction] = []
        labels: dict[str, int] = {}
        loops: list[tuple[int, int]] = []
        line: Line | None = None
        num_lines_in_block: int | None = None
        for row in text.splitlines():
            if row.endswith(" inline asm"):
                num_lines_in_block = 0 if "begin" in row else None
            elif self.source and (match := self.source.search(row)):
                # LLVM increments the line within inline assembly: only its first line is that of the load.
                if num_lines_in_block is None or num_lines_in_block == 0:
                    line = (PurePath(match[1]).name, int(match[2]))
                if num_lines_in_block is not None:
                    num_lines_in_block += 1
            elif match := self.label.match(row):
                labels[match[1]] = len(found)
            elif match := self.instruction.match(row):
                target = self.target.search(match[2]) if match[1].startswith(self.branch) else None
                if target and labels.get(target[1], len(found)) < len(found):
                    loops.append((labels[target[1]], len(found)))
                found.append(Instruction(match[1], line, self.load_bits(match[1], match[2])))
        return [Instruction(one.opcode, one.line, one.load_bits, any(start <= place <= end for start, end in loops))
                for place, one in enumerate(found)]


def _sass_load_bits(opcode: str, operands: str) -> int:
    if not re.match(r"(LDG|LDGSTS|LD)(\.|$)", opcode):
        return _WIDE_BITS if opcode.startswith("UTMALDG") else 0
    return _sass_width(opcode)


def _sass_width(opcode: str) -> int:
    """The bits moved per thread, from the suffix of a SASS memory instruction."""
    match = re.search(r"\.(?:[US](8|16)|(64|128|256))(?=\.|$)", opcode)
    return int(match[1] or match[2]) if match else 32


def _ptx_load_bits(opcode: str, operands: str) -> int:
    if opcode.startswith("cp.async.bulk"):
        return _WIDE_BITS
    if opcode.startswith("cp.async.c"):
        size = re.search(r"\], *(0x[0-9a-f]+|\d+)", operands)
        return 8 * int(size[1], 0) if size else 0
    match = re.match(r"ld\.global.*?(?:\.v(\d))?\.[bufs](\d+)$", opcode)
    return int(match[1] or 1) * int(match[2]) if match else 0


def _amd_load_bits(opcode: str, operands: str) -> int:
    match = re.match(r"(?:global|buffer|flat)_load_(dwordx|dword|ushort|short|ubyte|sbyte)(\d?)", opcode)
    if match is None:
        return 0
    return {"dword": 32, "dwordx": 32, "ushort": 16, "short": 16}.get(match[1], 8) * int(match[2] or 1)


SASS = _Syntax(re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)"),
               re.compile(r"^(\.L_x_\w+):"), "BRA", re.compile(r"`\((\.L_x_\w+)\)"), _sass_load_bits)
PTX = _Syntax(re.compile(r"^\t(?:@!?%p\d+\s+)?([a-z][\w.:]*)(.*)"), re.compile(r"^(\$L_\w+):"), "bra",
              re.compile(r"(\$L_\w+)"), _ptx_load_bits, re.compile(r"^\t\.loc.*// ([^:]+):(\d+):"))
AMDGCN = _Syntax(re.compile(r"^\t([a-z]\w*)(.*)"), re.compile(r"^(\.LBB\w+):"), "s_cbranch",
                 re.compile(r"(\.LBB\w+)"), _amd_load_bits, re.compile(r"^\t\.loc.*; ([^:]+):(\d+):"))


_LOADS = re.compile(r"(tt\.load|async_copy_global_to_local|buffer_load)\b")
_TENSOR = re.compile(r"tensor<((?:\d+x)+)(?:!tt\.ptr<)?(f64|f32|f16|bf16|f8)")
_BYTES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "f8": 1}


def data_lines(ttgir: str, num_threads: int) -> set[Line]:
    """The source lines that load at least 16 bytes of floating-point values per thread."""
    locations = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", ttgir, re.MULTILINE))
    lines: set[Line] = set()
    for row in ttgir.splitlines():
        tensor = _TENSOR.search(row.rpartition(" : ")[2]) if _LOADS.search(row) else None
        if tensor is None:
            continue
        size = _BYTES[tensor[2]]
        for extent in tensor[1].split("x")[:-1]:
            size *= int(extent)
        place = re.search(r" loc\((.*)\)$", row)
        line = _resolved(place[1], locations) if place else None
        if line and 8 * size >= _WIDE_BITS * num_threads:
            lines.add(line)
    return lines


def _resolved(location: str, locations: dict[str, str]) -> Line | None:
    """The innermost file and line of an MLIR location: for a call, the line in the callee."""
    if match := re.match(r'"([^"]+)":(\d+)', location):
        return PurePath(match[1]).name, int(match[2])
    match = re.search(r"#loc\d*", location)
    return _resolved(locations.get(match[0], ""), locations) if match else None


def wide_loads(instructions: Sequence[Instruction], lines: set[Line]) -> tuple[bool | None, list[str]]:
    """Whether the main loop's data loads are 128 bits wide (None: there are none), and which instructions are narrower.
    ValueError if data is loaded but no load instruction is found for it."""
    data = [one for one in instructions if one.load_bits and (one.line in lines or "bulk" in one.opcode)]
    if lines and not data:
        raise ValueError(f"no load comes from lines {sorted(lines)}: the line information is lost")
    main = [one for one in data if one.in_loop] or data
    narrow = Counter(f"{one.line[0]}:{one.line[1]} {one.opcode}" for one in main
                     if one.line and one.load_bits < _WIDE_BITS)
    return (not narrow if main else None), [f"{name} x{count}" for name, count in sorted(narrow.items())]


def _load_counts(instructions: Iterable[Instruction]) -> Json:
    return dict(sorted(Counter(f"{one.opcode.partition('.')[0]} {one.load_bits}" if one.opcode[0].isupper() else
                               one.opcode for one in instructions if one.load_bits).items()))


def _loads(machine: Sequence[Instruction], with_lines: Sequence[Instruction], lines: set[Line]) -> Json:
    wide, narrow = wide_loads(with_lines, lines)
    return {"loads": _load_counts(machine), "loop_loads": _load_counts(one for one in machine if one.in_loop),
            "wide_loads": wide, "narrow_loads": narrow}


def cuda_resources(usage: str, sass: str, ptx: str, lines: set[Line]) -> Json:
    """The resources of a CUDA program, from the output of cuobjdump -res-usage and nvdisasm -c, and its PTX; `lines`
    are its `data_lines`. Spills are the bytes of local loads and stores: static counts per thread, as from ptxas."""
    functions = [(int(registers), int(stack)) for registers, stack in re.findall(r"REG:(\d+) STACK:(\d+)", usage)]
    if not functions:
        raise ValueError("cuobjdump named no function")
    instructions = [one for one in SASS.parse(sass) if one.opcode != "NOP"]
    spills = {name: sum(_sass_width(one.opcode) // 8 for one in instructions if re.match(rf"{name}(\.|$)", one.opcode))
              for name in ("STL", "LDL")}
    products = Counter(match[0] for one in instructions
                       if (match := re.match(r"(UTC)?[A-Z]+MMA(?=\.|$)", one.opcode)))
    stores = r"(ST|STG|STAS|UTMASTG|UBLKCP|RED|REDG|ATOM|ATOMG)(\.|$)"
    return {"registers": max(registers for registers, _ in functions),
            "stack_bytes": max(stack for _, stack in functions), "spill_bytes": sum(spills.values()),
            "spill_store_bytes": spills["STL"], "spill_load_bytes": spills["LDL"], "tensor_core": dict(products),
            "num_stores": sum(bool(re.match(stores, one.opcode)) for one in instructions),
            "code_bytes": 16 * len(instructions), "waves": None, **_loads(instructions, PTX.parse(ptx), lines)}


def amd_resources(amdgcn: str, lines: set[Line]) -> Json:
    """The resources of an AMD program, from its assembly. Registers are vector registers, without accumulators."""
    def number(name: str) -> int:
        match = re.search(rf"{name}\s*(\d+)", amdgcn)
        if match is None:
            raise ValueError(f"the assembly does not say {name}")
        return int(match[1])

    instructions = AMDGCN.parse(amdgcn)
    spilled = 4 * number(r"\.vgpr_spill_count:")
    return {"registers": number(r"\.vgpr_count:"), "accumulators": number(r"\.agpr_count:"),
            "stack_bytes": number("; ScratchSize:"), "spill_bytes": spilled, "spill_store_bytes": spilled,
            "spill_load_bytes": spilled,
            "tensor_core": dict(Counter("v_mfma" for one in instructions if one.opcode.startswith("v_mfma"))),
            "num_stores": sum(bool(re.match(r"(global|buffer|flat)_(store|atomic)", one.opcode))
                              for one in instructions),
            "code_bytes": number("; codeLenInByte ="), "waves": number("; Occupancy:"),
            **_loads(instructions, instructions, lines)}
