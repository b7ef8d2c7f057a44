"""Patches of Triton's interpreter: one for bfloat16, which it keeps as raw 16-bit integers, and one for its pace.

Unpatched, `tl.dot` multiplies bit patterns, and float32 is truncated instead of rounded to nearest even
(triton-lang/triton#11584; seen in 3.6 to 3.9). Elementwise bfloat16 arithmetic stays wrong in the interpreter, so
kernels widen to float32 right after a load.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def patch_bfloat16() -> None:
    """Patch the interpreter of this process, once."""
    builder: Any = InterpreterBuilder
    if getattr(builder, "bfloat16_patched", False):
        return
    create_dot, cast_impl = builder.create_dot, builder.cast_impl

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, _widened(a), _widened(b), *rest)

    def cast(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            return TensorHandle(_rounded(source.data), tl.bfloat16)
        return cast_impl(self, source, target)

    builder.create_dot, builder.cast_impl = dot, cast
    builder.create_fp_trunc = lambda self, source, target: self.cast_impl(source, target)
    builder.bfloat16_patched = True


def patch_pace() -> None:
    """Patch the interpreter of this process, once, to leave out what it does in vain: preparing the language again at
    every call that a program makes, checking sums for an overflow of which it then says nothing, and a table of all
    dtypes wherever one is asked for."""
    executor: Any = interpreter.GridExecutor
    if getattr(executor, "pace_patched", False):
        return
    patch_lang, execute, prepared = interpreter._patch_lang, executor.__call__, set[int]()

    def patch_lang_once(function: Any) -> Any:
        module = id(function.__globals__)
        if module in prepared:
            return None
        prepared.add(module)
        return patch_lang(function)

    def execute_anew(self: Any, *arguments: Any, **options: Any) -> None:
        prepared.clear()  # the end of a launch takes back what it prepared
        execute(self, *arguments, **options)

    numpy_dtype, numpy_dtypes = interpreter._get_np_dtype, dict[str, np.dtype]()

    def numpy_dtype_once(dtype: Any) -> np.dtype:
        name = dtype.scalar.name
        if name not in numpy_dtypes:
            numpy_dtypes[name] = numpy_dtype(dtype.scalar)
        return numpy_dtypes[name]

    interpreter._patch_lang, executor.__call__ = patch_lang_once, execute_anew
    interpreter._get_np_dtype = numpy_dtype_once
    options = interpreter.interpreter_builder.options
    interpreter.interpreter_builder.options = replace(options, sanitize_overflow=options.debug)
    executor.pace_patched = True


def _widened(handle: Any) -> Any:
    """bfloat16 bit patterns as the float32 values they stand for; anything else as it is."""
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _rounded(values: np.ndarray) -> np.ndarray:
    """float32 values as the bit patterns of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), nearest)
