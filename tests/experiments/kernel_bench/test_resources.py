"""What compilers print is read rightly, on snippets with known loops."""


import pytest
from quicksilver.experiments.kernel_bench.resources import PTX, SASS, Instruction, amd_resources, data_lines, wide_loads


def test_only_what_lies_between_a_label_and_the_branch_back_to_it_is_in_a_loop() -> None:
    sass = """
        /*0000*/                   LDG.E R1, desc[UR4][R2.64] ;
.L_x_0:
        /*0010*/              @!P2 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
        /*0030*/                   LDGDEPBAR ;
        /*0040*/                   LDG.E.U16 R1, desc[UR4][R2.64] ;
.L_x_1:
        /*0050*/                   BRA `(.L_x_1);
"""
    assert [one for one in SASS.parse(sass) if one.load_bits] == [
        Instruction("LDG.E", None, 32), Instruction("LDG.E.128", None, 128, True), Instruction("LDG.E.U16", None, 16)]


PROGRAM = """
$L__BB0_2:
	.loc	1 10 9                         // x.py:10:9
	// begin inline asm
	.loc	1 10 9                         // x.py:10:9
	mov.u32 %r1, %r5;
	.loc	1 11 9                         // x.py:11:9
	@%p1 ld.global.L1::evict_last.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
	// end inline asm
	.loc	1 12 9                         // x.py:12:9 @[ y.py:3:4 ]
	cp.async.cg.shared.global [ %r24 + 0 ], [ %rd9 + 0 ], 0x10, %r25;
	@%p2 bra 	$L__BB0_2;
	ld.global.b16 	%rs1, [%rd3];
"""


def test_the_verdict_is_about_data_in_loops_where_there_is_any() -> None:
    found = PTX.parse(PROGRAM)
    assert [one for one in found if one.load_bits] == [
        Instruction("ld.global.L1::evict_last.v4.b32", ("x.py", 10), 128, True),
        Instruction("cp.async.cg.shared.global", ("x.py", 12), 128, True),
        Instruction("ld.global.b16", ("x.py", 12), 16)]
    assert wide_loads(found, {("x.py", 10), ("x.py", 12)}) == (True, [])
    assert wide_loads(found, set()) == (None, [])
    without_loop = PTX.parse(PROGRAM.replace("bra", "nobra"))
    assert wide_loads(without_loop, {("x.py", 12)}) == (False, ["x.py:12 ld.global.b16 x1"])
    narrow = PTX.parse(PROGRAM.replace("0x10, %r25", "0x4, %r25"))
    assert wide_loads(narrow, {("x.py", 12)}) == (False, ["x.py:12 cp.async.cg.shared.global x1"])
    with pytest.raises(ValueError, match="the line information is lost"):
        wide_loads(found, {("x.py", 99)})


def test_data_is_what_gives_every_thread_16_bytes_of_floats() -> None:
    code = """
#loc1 = loc("/k/x.py":10:4)
#loc2 = loc("rows"(#loc1))
#loc3 = loc("/k/x.py":11:4)
#loc4 = loc(callsite(#loc3 at #loc1))
#loc5 = loc("/k/x.py":12:4)
  %a = tt.load %p, %m, %z : tensor<128x64x!tt.ptr<bf16>, #blocked> loc(#loc2)
  %b = tt.load %p : tensor<128x!tt.ptr<f32>, #blocked> loc(#loc5)
  %c = tt.load %p : tensor<4096x!tt.ptr<i32>, #blocked> loc(#loc5)
  %d = ttg.async_copy_global_to_local %p, %s : tensor<16x64x!tt.ptr<f16>, #b> -> <16x64xf16, #s, #smem> loc(#loc4)
  %e = tt.load %p : !tt.ptr<f32> loc(#loc5)
"""
    assert data_lines(code, 128) == {("x.py", 10), ("x.py", 11)}
    assert data_lines(code, 256) == {("x.py", 10)}


def test_assembly_that_does_not_say_what_it_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="the assembly does not say"):
        amd_resources("nothing", set())
