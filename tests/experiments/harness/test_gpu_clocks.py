"""The clocks of a GPU under load, on stand-ins: what is burnt, and when nvidia-smi is asked."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from quicksilver.experiments.harness import gpu_clocks
from quicksilver.experiments.harness.gpu_clocks import Ramp, hardware

GPU = torch.device("cuda")


class StandIn:
    """A GPU that works ten milliseconds at a time, and an nvidia-smi that waits for twenty."""

    def __init__(self) -> None:
        self.now, self.worked, self.num_read = 0.0, 0.0, 0

    def monotonic(self) -> float:
        return self.now

    def work(self) -> None:
        self.now += 0.01
        self.worked += 0.01

    def read(self, meanwhile: Callable[[], None]) -> dict[str, str]:
        self.num_read += 1
        before = self.worked
        meanwhile()
        meanwhile()
        assert self.worked > before
        return {"clocks.sm": f"{self.num_read} MHz"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(gpu_clocks, "time", stand_in)
    return stand_in


def test_after_a_pause_clocks_are_raised_for_long_and_read_under_load(gpu: StandIn) -> None:
    ramp = Ramp(gpu.work, gpu.read)
    assert ramp(GPU) == {"clocks.sm": "1 MHz"}
    assert gpu.worked == pytest.approx(0.32, abs=0.011)
    gpu.worked = 0.0
    gpu.now += 1.0
    assert ramp(GPU) == {"clocks.sm": "1 MHz"}
    assert 0 < gpu.worked < 0.05
    gpu.now += 3.0
    assert ramp(GPU) == {"clocks.sm": "2 MHz"}


def test_a_cpu_has_no_clocks_to_raise(gpu: StandIn) -> None:
    assert Ramp(gpu.work, gpu.read)(torch.device("cpu")) == {}
    assert (gpu.worked, gpu.num_read) == (0.0, 0)


def test_the_gpu_works_while_nvidia_smi_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nuntil [ -e \"$0.busy\" ]; do :; done\n"
                       "echo 'NVIDIA H200, 570.1, 1980 MHz, 3201 MHz, 1980 MHz, 700 W, 612 W, 41'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = hardware(lambda: (tmp_path / "nvidia-smi.busy").touch())
    assert (found["name"], found["clocks.sm"], found["power.draw"]) == ("NVIDIA H200", "1980 MHz", "612 W")


def test_without_nvidia_smi_or_its_answer_nothing_is_said_of_the_hardware(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware() == {}
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert hardware() == {}
