"""Products of a whole warp, and the moves of their operands, against torch's. wgmma: ../test_emulate.py."""

import pytest
import torch
from quicksilver.experiments.kernel_bench.emulator import Fault

from .programs import run

# Lane l reads row l % 16, half l / 16 of a matrix of 16 x 16 numbers of two bytes.
ADDRESS = ("and.b32 %r1, %r0, 15; shl.b32 %r2, %r1, 5; shr.u32 %r3, %r0, 4; shl.b32 %r4, %r3, 4; "
           "add.s32 %r5, %r2, %r4; cvt.u64.u32 %rd10, %r5;")
TO_SHARED = ("add.s64 %rd11, %rd{source}, %rd10; ld.global.v4.b32 {{%r6, %r7, %r8, %r9}}, [%rd11]; "
             "st.shared.v4.b32 [%r5+{offset}], {{%r6, %r7, %r8, %r9}};")
FRAGMENTS = "{%r10, %r11, %r12, %r13}"


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_come_back_as_they_were_loaded(transposed: bool) -> None:
    given, found = torch.randn(16, 16).bfloat16(), torch.zeros(16, 16, dtype=torch.bfloat16)
    load = "trans.shared" if transposed else "shared"
    run(f"{ADDRESS} {TO_SHARED.format(source=0, offset=0)} bar.sync 0; "
        f"ldmatrix.sync.aligned.m8n8.x4.{load}.b16 {FRAGMENTS}, [%r5]; "
        f"stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r5+512], {FRAGMENTS}; bar.sync 0; "
        "ld.shared.v4.b32 {%r6, %r7, %r8, %r9}, [%r5+512]; add.s64 %rd12, %rd1, %rd10; "
        "st.global.v4.b32 [%rd12], {%r6, %r7, %r8, %r9};", given, found, shared_bytes=1024)
    blocks = given.view(2, 8, 2, 8)
    assert torch.equal(found.view(2, 8, 2, 8), blocks.transpose(1, 3) if transposed else blocks)


PRODUCT = ("mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 {{%r30, %r31, %r32, %r33}}, "
           "{{%r10, %r11, %r12, %r13}}, {{%r14, %r15}}, {{%r20, %r20, %r20, %r20}};")


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_a_product_of_tensor_cores(kind: str, dtype: torch.dtype) -> None:
    a, b, found = torch.randn(16, 16).to(dtype), torch.randn(16, 16).to(dtype), torch.zeros(16, 8)
    run(f"{ADDRESS} {TO_SHARED.format(source=0, offset=0)} {TO_SHARED.format(source=1, offset=512)} bar.sync 0; "
        f"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {FRAGMENTS}, [%r5]; "
        "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r14, %r15}, [%r5+512]; mov.b32 %r20, 0f3F800000; "
        f"{PRODUCT.format(kind=kind)} shr.u32 %r21, %r0, 2; and.b32 %r22, %r0, 3; shl.b32 %r23, %r21, 5; "
        "shl.b32 %r24, %r22, 3; add.s32 %r25, %r23, %r24; cvt.u64.u32 %rd12, %r25; add.s64 %rd13, %rd2, %rd12; "
        "st.global.v2.b32 [%rd13], {%r30, %r31}; st.global.v2.b32 [%rd13+256], {%r32, %r33};",
        a, b, found, shared_bytes=1024)
    torch.testing.assert_close(found, a.float() @ b[:, :8].float() + 1)


def test_other_products_are_not_modelled() -> None:
    with pytest.raises(Fault, match="a product that is not modelled"):
        run(PRODUCT.format(kind="bf16").replace("m16n8k16", "m16n8k8"))
