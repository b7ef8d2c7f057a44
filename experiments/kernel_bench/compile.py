"""Ahead-of-time compilation of the kernels' Triton programs for absent GPUs, with exactly the JIT's specialisation, and
their resources. Runs in processes whose environment selects the Triton version (see `compiler_environment`).

A stand-in for the GPU's driver gives Triton its target, `compiling` lets launchers run on tensors without data, and
Triton's own hook reports a program's specialisation before it is compiled.
"""

import functools
import hashlib
import inspect
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import jit

from ...kernels.case import Case, tensors_of
from ...kernels.dispatch import compiling, launch
from ..harness.records import Json
from .limits import TARGETS, occupancy
from .resources import amd_resources, cuda_resources, data_lines

_OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
# A program must use wide loads if one of its float tensors has at least this share of the bytes of the case's largest;
# one that merges small partial results need not.
_MAIN_SHARE = 0.1


def compiler_environment(site: str | None, cache: Path) -> dict[str, str]:
    """The environment of a process that compiles with the Triton in the folder `site`, or with the installed one."""
    path = os.pathsep.join(filter(None, (site and str(Path(site).resolve()), os.environ.get("PYTHONPATH"))))
    return {"TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1", "TRITON_CACHE_DIR": str(cache),
            **({"PYTHONPATH": path} if path else {})}


class _AbsentGpu:
    """A Triton driver for an absent GPU."""

    def __init__(self, name: str) -> None:
        target = TARGETS[name]
        self._target = GPUTarget(target.backend, target.architecture, target.warp_size)
        # Triton caches programs by device number, so each target is a device of its own.
        self._device = list(TARGETS).index(name)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._device

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind

    @staticmethod
    def is_active() -> bool:
        return True


def aim_at(target: str) -> None:
    """Compile for this target from now on, whether or not such a GPU is here."""
    stand_in: Any = _AbsentGpu(target)
    triton.runtime.driver.set_active(stand_in)


def versions() -> Json:
    """The versions that this process compiles with."""
    return {"triton": triton.__version__, "torch": torch.__version__}


def programs(case: Case, dtype_name: str, target: str) -> list[Json]:
    """The specialised programs that a case launches on a target, each once, in launch order; nothing is compiled."""
    aim_at(target)
    inputs = case.inputs(getattr(torch, dtype_name), torch.device("meta"))
    calls: list[Json] = []
    functions: dict[int, Any] = {}

    def describe(**call: Any) -> bool:
        functions[id(call["fn"].jit_function)] = call["fn"].jit_function
        calls.append(_described(call))
        return True  # do not compile

    with _before_compiling(describe), compiling():
        case.run(*inputs)
        calls.clear()
        arguments: list[tuple[Any, ...]] = []
        for function in functions.values():
            function.add_pre_run_hook(lambda *values, **_: arguments.append(values))
        case.run(*inputs)
        for function in functions.values():
            function.pre_run_hooks.clear()
    found: dict[str, Json] = {}
    largest = max((_largest(values) for values in (inputs, *arguments)), default=0)
    for call, values in zip(calls, arguments, strict=True):
        wide = case.needs_wide_loads and _largest(values) >= _MAIN_SHARE * largest > 0
        known = found.setdefault(call["key"], call | {"needs_wide_loads": wide})
        known["needs_wide_loads"] |= wide
    return list(found.values())


@contextmanager
def _before_compiling(hook: Callable[..., bool]) -> Iterator[None]:
    """Let Triton call `hook` before it compiles a program; a true answer keeps it from compiling."""
    original = jit.serialize_specialization_data
    jit.serialize_specialization_data = _serialised
    knobs.runtime.jit_cache_hook = hook
    try:
        yield
    finally:
        knobs.runtime.jit_cache_hook = None
        jit.serialize_specialization_data = original


def _serialised(name: str, signature: Json, constants: Json, attributes: Json, options: Any, *rest: Any) -> str:
    """The hook's serialised specialisation. Triton 3.6 cannot serialise a constant that is a function."""
    return json.dumps({
        "signature": signature, "constant_keys": list(constants), "constant_vals": list(constants.values()),
        "attrs_keys": list(attributes), "attrs_vals": list(attributes.values()),
        "options": {option: getattr(options, option, None) for option in _OPTIONS}}, default=_word)


def _word(constant: Any) -> str:
    """A function, a type or a wrapped constant as text."""
    return getattr(constant, "__name__", repr(constant))


def _described(call: Json) -> Json:
    """A program by what it is specialised on: function, argument types and their attributes, constants, options."""
    data = json.loads(call["compile"]["specialization_data"])
    names = list(data["signature"])
    constants = {_name(names, path): value for path, value in
                 zip(data["constant_keys"], data["constant_vals"], strict=True)}
    attributes = {_name(names, path): value for path, value in
                  zip(data["attrs_keys"], data["attrs_vals"], strict=True) if value}
    types = {name: kind for name, kind in data["signature"].items() if name not in constants}
    options = data["options"]
    identity = {"module": call["fn"].module, "function": call["fn"].name, "types": types, "constants": constants,
                "attributes": attributes, "options": options}
    tiles = [f"{name}={value}" for name, value in constants.items() if name.isupper()]
    kinds = dict.fromkeys(str(kind).lstrip("*") for kind in types.values() if str(kind).startswith("*"))
    words = [*kinds, *tiles, f"{options['num_warps']} warps", f"{options['num_stages']} stages"]
    return {"key": hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:12],
            "function": call["fn"].name, "label": f"{call['fn'].name}[{', '.join(words)}]", "identity": identity,
            "source_hash": _file_hash(call["fn"].jit_function.fn)}


def _name(names: list[str], path: list[int]) -> str:
    """The name of an argument, with the index for a member of a tuple."""
    return ".".join([names[path[0]], *map(str, path[1:])])


@functools.cache
def _file_hash(function: Callable[..., Any]) -> str:
    source = inspect.getsourcefile(inspect.unwrap(function))
    assert source is not None
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]


def _largest(values: tuple[Any, ...]) -> int:
    """The bytes of the largest float tensor among the arguments."""
    return max((tensor.nbytes for tensor in tensors_of(values) if tensor.dtype.is_floating_point), default=0)


@triton.jit
def _nothing(x):
    tl.store(x, 0.0)


@functools.cache
def _warm_up() -> None:
    """Compile a trivial program: the first one of a process takes a second longer."""
    with compiling():
        launch(_nothing, (1,), torch.empty(1, device="meta"), num_warps=1)


def compiled(case: Case, dtype_name: str, target: str, key: str) -> Json:
    """Compile the program `key` of a case for a target; its resources."""
    aim_at(target)
    _warm_up()
    began, functions = 0.0, []

    def only_this(**call: Any) -> bool:
        nonlocal began
        if _described(call)["key"] != key:
            return True
        functions.append(call["fn"].jit_function)
        began = time.perf_counter()
        return False

    with _before_compiling(only_this), compiling() as results:
        case.run(*case.inputs(getattr(torch, dtype_name), torch.device("meta")))
    seconds = time.perf_counter() - began
    for function in functions:
        function.device_caches.clear()  # or Triton would return the cached program when another is requested
    return _resources(next(result for result in results if result is not None), target) | {"compile_seconds": seconds}


def _resources(program: Any, target_name: str) -> Json:
    target, metadata = TARGETS[target_name], program.metadata
    lines = data_lines(program.asm["ttgir"], metadata.num_warps * target.warp_size)
    if target.backend == "cuda":
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(program.asm["cubin"])
            file.flush()
            usage = _output(knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
            sass = _output(knobs.nvidia.nvdisasm.path, "-c", file.name)
        found = cuda_resources(usage, sass, program.asm["ptx"], lines)
    else:
        found = amd_resources(program.asm["amdgcn"], lines)
    waves = found.pop("waves")
    return found | {"num_warps": metadata.num_warps, "shared_bytes": metadata.shared,
                    "tensor_memory_columns": getattr(metadata, "tmem_size", 0) or 0,
                    **occupancy(target, metadata.num_warps, found["registers"], metadata.shared, waves)}


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
