"""PTX text as instructions (NVIDIA, "Parallel Thread Execution ISA"): of the language, what Triton compiles to."""

import re
from dataclasses import dataclass
from functools import cached_property


class Fault(Exception):
    """What a GPU would fault on, or would be free to answer in two ways; or an instruction that is not modelled."""


@dataclass(frozen=True)
class Instruction:
    """`@p opcode operands` or `@!p ...`, the opcode with its suffixes."""

    text: str
    opcode: str
    operands: tuple[str, ...]
    predicate: str | None
    negated: bool

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The opcode and its suffixes: ("ld", "global", "v4", "b32")."""
        return tuple(self.opcode.split("."))

    @property
    def kind(self) -> str:
        """The type of the operands, the last suffix."""
        return self.parts[-1]


@dataclass(frozen=True)
class Program:
    """A kernel. `labels` are the places of the instructions that they stand before; `widths` the bits of the registers
    whose names begin so (1: predicates)."""

    name: str
    parameters: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    widths: dict[str, int]


_STATEMENT = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)


def parse(text: str) -> Program:
    """The only kernel of a PTX file. Fault for a statement that cannot be read."""
    _, _, entry = text.partition(".entry ")
    head, _, body = entry.partition("\n{")
    name = head.partition("(")[0].strip()
    parameters = re.findall(r"\.param [^,\n]*?(\w+_param_\d+)", head)
    widths = {prefix: 1 if kind == "pred" else int(kind[1:])
              for kind, prefix in re.findall(r"\.reg \.(pred|[bfsu]\d+)\s+(%[a-z]+)<", body)}
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for raw in body.splitlines():
        line = raw.partition("//")[0].strip()
        if line.startswith("}") and line != "}":
            line = line[1:].strip()
        if line.endswith(":"):
            labels[line[:-1]] = len(instructions)
        elif line and line[0] not in ".{}":
            instructions += [_instruction(part.strip()) for part in line.split(";") if part.strip()]
        if raw == "}":
            break
    return Program(name, tuple(parameters), tuple(instructions), labels, widths)


def _instruction(text: str) -> Instruction:
    match = _STATEMENT.fullmatch(text)
    if match is None:
        raise Fault(f"cannot be read: {text!r}")
    negated, predicate, opcode, operands = match.groups()
    return Instruction(text, opcode, tuple(_operands(operands)), predicate, bool(negated))


def _operands(text: str) -> list[str]:
    """Split at the commas that no bracket or brace holds."""
    return [part.strip() for part in re.split(r",(?![^{\[]*[}\]])", text) if part.strip()]


def members(operand: str) -> list[str]:
    """The registers of a vector operand {a, b}; the operand itself if it is none."""
    return [part.strip() for part in operand.strip("{} ").split(",")]
