"""PTX, read."""

import pytest
from quicksilver.experiments.kernel_bench.emulator.ptx import Fault, members, parse

from .programs import NUM_REGISTERS, kernel

BODY = """$L__BB0_1:                              // the loop
	.loc	1 42 0                          // somewhere
	@!%p1 bra 	$L__BB0_1;
	// begin inline asm
	mov.u32 %r1, 0x0; @%p2 ld.global.v2.b32 { %r1, %r2 }, [ %rd1 + 8 ];
	// end inline asm"""


def test_statements_labels_parameters_and_registers() -> None:
    program = parse(kernel(BODY, 2))
    assert (program.name, program.parameters) == ("made", ("made_param_0", "made_param_1"))
    assert program.widths == {"%p": 1, "%rs": 16, "%r": 32, "%rd": 64}
    assert program.labels == {"$L__BB0_1": 3}
    branch, move, load, end = program.instructions[3:]
    assert (branch.predicate, branch.negated, branch.operands) == ("%p1", True, ("$L__BB0_1",))
    assert (move.opcode, move.operands, move.predicate) == ("mov.u32", ("%r1", "0x0"), None)
    assert (load.parts, load.kind, load.predicate, load.negated) == (("ld", "global", "v2", "b32"), "b32", "%p2", False)
    assert load.operands == ("{ %r1, %r2 }", "[ %rd1 + 8 ]")
    assert members(load.operands[0]) == ["%r1", "%r2"]
    assert members("%r1") == ["%r1"]
    assert end.opcode == "ret"
    assert NUM_REGISTERS > 2


def test_what_cannot_be_read_is_a_fault() -> None:
    with pytest.raises(Fault, match="cannot be read: '%r1 = 2'"):
        parse(kernel("%r1 = 2;", 0))
