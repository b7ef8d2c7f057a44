"""One of the two configurations that a comparison takes in turns, and what runs of it in its process.

Two sides that differ in the implementation alone share a process and its inputs. Another checkout's kernels, another
Triton or other tables of tiles need a process of their own.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...kernels import dispatch
from ...kernels.case import Case
from ...kernels.dispatch import Implementation, using
from ..harness.gpu_clocks import ramp
from ..harness.records import Json
from .host_timing import HostClock, too_large
from .timing import CudaClock, cold_sets
from .verify import TOLERANCES, compared, copied, outputs, verdict

_LAYERS = ("models", "decoders", "experiments", "conf")
_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Side:
    """`kernels` as the setting of that name; the folder of a `checkout` whose kernels/ run in place of this one's, of
    another `triton`, and of tables of `tiles` (an empty one: what ships); None: this one's."""

    kernels: str
    checkout: str | None = None
    triton: str | None = None
    tiles: str | None = None

    def check(self, name: str) -> None:
        """ValueError for an unknown implementation, or a folder without what it is for."""
        Implementation.named(self.kernels)
        for option, folder, held in (("checkout", self.checkout, "kernels/dispatch.py"),
                                     ("triton", self.triton, "triton/__init__.py"), ("tiles", self.tiles, "")):
            if folder is not None and not (Path(folder) / held).exists():
                raise ValueError(f"{name}.{option}={folder!r}: must be a folder with {held or 'tables or nothing'}")

    @property
    def process(self) -> tuple[str | None, ...]:
        """What sides must have in common to share a process."""
        return self.checkout, self.triton, self.tiles

    def path(self, folder: Path) -> list[str]:
        """The folders that the side's process imports from first, of which one is made in `folder`."""
        found = [] if self.triton is None else [str(Path(self.triton).resolve())]
        if self.checkout is None:
            return found
        package = folder / "quicksilver"
        package.mkdir(parents=True)
        (package / "kernels").symlink_to((Path(self.checkout) / "kernels").resolve())
        for layer in _LAYERS:
            (package / layer).symlink_to(_CHECKOUT / layer)
        return [*found, str(folder)]


@dataclass
class _Prepared:
    """The sides of this process: what samples each, and its first result."""

    sides: list[Side]
    inputs: tuple[Any, ...]
    calls: list[Callable[..., Any]]
    before: list[list[Tensor]]
    samplers: list[Callable[[], float]] = field(default_factory=list)


_prepared: list[_Prepared] = []


@contextmanager
def _as_set(side: Side) -> Iterator[None]:
    with using(Implementation.named(side.kernels)), torch.no_grad():
        yield


def _run(case: Case, side: Side, *arguments: Any) -> Any:
    with _as_set(side):
        return case.run(*arguments)


def prepare(sides: Sequence[Side], case: Case, dtype_name: str, device_name: str) -> Json:
    """Make the process ready to sample these sides of it on a case, on the same inputs; what runs, and whether it is
    right. `failed` or `skipped` say why it cannot be."""
    _prepared.clear()
    device, dtype = torch.device(device_name), getattr(torch, dtype_name)
    if sides[0].tiles is not None:
        from ...kernels import tile_table  # an older checkout has none

        tile_table.FOLDER = Path(sides[0].tiles)
        tile_table.forget()
    if device.type == "cpu" and (reason := too_large(case, dtype)):
        return {"skipped": reason}
    gates = [verdict(case, dtype_name, device_name, partial(_run, case, side)) for side in sides]
    about = {"gates": gates, "kernels_hash": _hash(), "hardware": ramp(device)}
    if not all(gate["passed"] for gate in gates):
        return about | {"failed": "wrong result: not timed"}
    inputs = [case.inputs(dtype, device)]
    num_sets, too_many = cold_sets(case, inputs[0], dtype)
    if too_many is None:
        inputs += [case.inputs(dtype, device) for _ in range(num_sets - 1)]
    clock = HostClock() if device.type == "cpu" else CudaClock()
    calls = [partial(_run, case, side) for side in sides]
    ready = _Prepared(list(sides), inputs[0], calls, [outputs(call(*copied(inputs[0]))) for call in calls])
    for side in sides:
        with _as_set(side):
            ready.samplers.append(clock.sampler([partial(case.run, *arguments) for arguments in inputs]))
    _prepared.append(ready)
    return about | {"num_input_sets": len(inputs)}


def _hash() -> str:
    """Of the kernels that this process imports."""
    paths = sorted(Path(dispatch.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def sample(number: int) -> float:
    """Microseconds a call of one of the sides."""
    (ready,) = _prepared
    with _as_set(ready.sides[number]):
        return ready.samplers[number]()


def changed(dtype_name: str) -> list[str]:
    """Of the sides, those that give another result than at first: the setting of their kernels."""
    (ready,) = _prepared
    found = []
    for side, call, before in zip(ready.sides, ready.calls, ready.before, strict=True):
        error, num_differ = compared(outputs(call(*copied(ready.inputs))), before)
        if error > TOLERANCES[dtype_name] or num_differ:
            found.append(side.kernels)
    return found
