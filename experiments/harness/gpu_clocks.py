"""GPU model and clocks under load. An idle GPU lowers its clocks and takes a while to raise them: without a warm-up the
first timing after a pause would be too slow."""

import math
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .records import Json

_FACTS = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit", "power.draw",
          "temperature.gpu")
_PAUSE_SECONDS = 2.0  # after a longer pause clocks are assumed to be low
_RAMP_SECONDS, _SHORT_SECONDS = 0.3, 0.03
_NUM_PRODUCTS, _WIDTH = 16, 4096


def hardware(meanwhile: Callable[[], None] = lambda: time.sleep(0.01)) -> Json:
    """GPU 0, its driver and its clocks from nvidia-smi, while `meanwhile` is called repeatedly. Empty if nvidia-smi is
    not installed or its output cannot be parsed."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(_FACTS)}", "--format=csv,noheader", "--id=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while process.poll() is None:
            meanwhile()
        assert process.stdout is not None
        values = [value.strip() for value in process.stdout.read().split(",")]
    return dict(zip(_FACTS, values, strict=True)) if len(values) == len(_FACTS) else {}


def multiply() -> None:
    """A few milliseconds of matrix products on the GPU."""
    a_EE, b_EE = torch.randn(2, _WIDTH, _WIDTH, device="cuda", dtype=torch.bfloat16)
    for _ in range(_NUM_PRODUCTS):
        torch.mm(a_EE, b_EE)
    torch.cuda.synchronize()


@dataclass
class Ramp:
    """Warms a GPU up before a timing. After a pause the warm-up is longer and the clocks are read under load; otherwise
    the last reading is returned."""

    work: Callable[[], None] = multiply
    read: Callable[[Callable[[], None]], Json] = hardware
    last: float = -math.inf
    found: Json = field(default_factory=dict)

    def __call__(self, device: torch.device) -> Json:
        """`hardware` under load; empty on a CPU."""
        if device.type != "cuda":
            return {}
        paused = time.monotonic() - self.last > _PAUSE_SECONDS
        ends = time.monotonic() + (_RAMP_SECONDS if paused else _SHORT_SECONDS)
        while time.monotonic() < ends:
            self.work()
        if paused:
            self.found = self.read(self.work)
        self.last = time.monotonic()
        return self.found


ramp = Ramp()
"""The instance of this process."""
