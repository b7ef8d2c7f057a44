import os
import subprocess
import sys
from pathlib import Path

import pytest
from quicksilver.experiments.harness.cores import _quotas, _spins_of_a_tenth_of_a_millisecond, available_cores


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")).write_text(text)


def test_a_quota_of_version_2_counts_in_every_group_around_the_process(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b", cpu_max="max 100000\n")
    write(tmp_path / "a", cpu_max="150000 100000\n")
    assert list(_quotas("0::/a/b\n", tmp_path)) == [1.5]
    write(tmp_path / "a" / "b", cpu_max="50000 100000\n")
    assert list(_quotas("0::/a/b\n", tmp_path)) == [0.5, 1.5]


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_version_1_counts(tmp_path: Path, mount: str) -> None:
    write(tmp_path / mount / "job", cpu_cfs_quota_us="300000\n", cpu_cfs_period_us="100000\n")
    write(tmp_path / mount, cpu_cfs_quota_us="-1\n", cpu_cfs_period_us="100000\n")
    assert list(_quotas(f"4:memory:/job\n3:{mount}:/job\n", tmp_path)) == [3.0]


def test_a_group_that_is_not_mounted_allows_everything(tmp_path: Path) -> None:
    assert list(_quotas("1:name=systemd:/\n0::/elsewhere\n", tmp_path)) == []


def test_affinity_counts() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= available_cores() <= len(allowed)


def test_a_processor_whose_pause_is_shorter_spins_more_often() -> None:
    assert _spins_of_a_tenth_of_a_millisecond("vendor_id\t: GenuineIntel\n") == 2000
    assert _spins_of_a_tenth_of_a_millisecond("vendor_id\t: AuthenticAMD\n") == 4000
    assert _spins_of_a_tenth_of_a_millisecond("CPU implementer\t: 0x41\n") == 4000


OURS = str(_spins_of_a_tenth_of_a_millisecond(Path("/proc/cpuinfo").read_text()))


@pytest.mark.parametrize(("given", "expected"), [
    ({}, OURS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")])
@pytest.mark.parametrize("command", ["quicksilver.experiments.__main__", "quicksilver.experiments.peers.__main__"])
def test_a_command_sets_how_threads_wait_unless_told(command: str, given: dict[str, str], expected: str) -> None:
    """Before torch is imported, which is when the OpenMP runtime reads it."""
    program = ("import os, sys\nclass Torch:\n def find_spec(self, name, *rest):\n  if name == 'torch':\n"
               "   print(os.environ.get('GOMP_SPINCOUNT')); os._exit(0)\nsys.meta_path.insert(0, Torch())\n"
               f"import {command}")
    bare = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    printed = subprocess.run([sys.executable, "-c", program], env=bare | given, capture_output=True, text=True)
    assert printed.stdout == f"{expected}\n", printed.stderr


@pytest.mark.slow
def test_a_library_that_imports_quicksilver_keeps_its_own_choice() -> None:
    program = ("import os, quicksilver.decoders, quicksilver.experiments.training.trainer;"
               "print(os.environ.get('GOMP_SPINCOUNT'))")
    bare = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    assert subprocess.run([sys.executable, "-c", program], env=bare, capture_output=True, text=True).stdout == "None\n"
