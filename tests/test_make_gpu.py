"""`make gpu` rehearsed without a GPU: its commands and limits, what fails it, and each command at a tiny size where
package metadata are absent, where its time ends, and where nothing can be written."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
MAKE = ["make", "--silent", "gpu"]
CEILINGS, BENCH = "experiment.kernels={}", "experiment.num_processes=4"
STEPS, SWEEP = "experiment=step_bench", "experiment.batch_sizes=[1,16,128]"
SMALL = {
    BENCH: ["kernel=[commit]", "experiment.num_processes=1"],
    STEPS: ["shapes=tiny", "experiment.device=cpu", "experiment.contexts=[64]", "experiment.blocks=[8]"],
    SWEEP: ["task=sudoku4", "threads=1", "model.width=32", "model.num_layers=1", "model.ffn_width=48",
            "task.sudoku4.task.num_training_bases=20", "task.sudoku4.diffusion.updates=8",
            "task.sudoku4.autoregressive.updates=8", "task.sudoku4.diffusion.num_curve_items=8",
            "task.sudoku4.autoregressive.num_curve_items=8", "experiment.batch_sizes=[1]", "experiment.num_items=[4]"]}
ROWS = {BENCH: "kernels/verdicts.jsonl", STEPS: "steps/rows.jsonl", SWEEP: "records/*.json"}
"""What grows while the command runs."""
REPORTS = {BENCH: "kernels/report.html", STEPS: "steps/report.md", SWEEP: "*/report.html"}
SAID = {BENCH: "cut: ", STEPS: " rows are missing; the same command goes on", SWEEP: "interrupted: "}
PATIENT = ["-k", "300", "-s", "INT", "500"]
"""What `timeout` is told here: a busy machine may take more than five seconds to say what it has to say."""
WITHOUT_METADATA = """
from importlib import metadata

found = metadata.distribution


def refuse(name):
    if name in ("quicksilver", "torch", "triton", "numpy"):
        raise metadata.PackageNotFoundError(name)
    return found(name)


metadata.distribution = refuse
"""
on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")


def commands(folder: Path, *settings: str) -> list[list[str]]:
    """What `make gpu` gives to `timeout` and Python, a command a line."""
    stand_in = folder / "timeout"
    stand_in.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    stand_in.chmod(0o755)
    made = subprocess.run([*MAKE, "PYTHON=true", *settings], cwd=ROOT, text=True, capture_output=True, check=True,
                          env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"})
    return [json.loads(line) for line in made.stdout.splitlines()]


def test_every_command_is_interrupted_then_killed_and_all_fit_nine_minutes(tmp_path: Path) -> None:
    found = commands(tmp_path)
    words = [CEILINGS, "pytest", STEPS, BENCH, SWEEP]
    assert [next(word for word in words if word in command) for command in found] == words
    assert all(command[:4] == ["-k", "5", "-s", "INT"] for command in found)
    assert sum(int(command[4]) + 5 for command in found) < 540


def test_tests_run_in_parallel_and_show_the_warnings_of_libraries(tmp_path: Path) -> None:
    tests = commands(tmp_path)[1][6:]
    assert tests[:2] == ["-m", "pytest"]
    assert tests[tests.index("-n") + 1] == "8"
    assert tests[tests.index("-W") + 1] == "default"
    assert tests[-1] == "tests/kernels"


def test_args_reach_every_measurement_and_others_their_own(tmp_path: Path) -> None:
    found = commands(tmp_path, "ARGS=output=elsewhere", "KERNEL_ARGS=a=1", "STEP_ARGS=b=2", "SWEEP_ARGS=c=3")
    assert [command[-2:] for command in found[2:]] == [["output=elsewhere", own] for own in ("b=2", "a=1", "c=3")]
    assert found[0][-1] == "output=elsewhere"
    assert "output=elsewhere" not in found[1]


@pytest.mark.parametrize(("status", "word", "is_green"), [
    (0, "pytest", True), (1, "pytest", False), (124, "pytest", False), (137, "pytest", False),
    (1, "step_bench", False), (124, "step_bench", True), (137, "step_bench", False)])
def test_a_measurement_may_be_cut_but_not_the_tests_and_nothing_may_hang(
        status: int, word: str, is_green: bool, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncase \"$*\" in *{word}*) exit {status};; esac\n")
    python.chmod(0o755)
    assert (subprocess.run([*MAKE, f"PYTHON={python}"], cwd=ROOT, capture_output=True).returncode == 0) == is_green


@pytest.fixture
def command(tmp_path: Path) -> Callable[[str], list[str]]:
    """A command of `make gpu` that measures, at its small size, in a folder of its own."""
    def small(kind: str) -> list[str]:
        (found,) = (found for found in commands(tmp_path, f"ARGS=output={tmp_path / 'runs'}") if kind in found)
        return ["timeout", *PATIENT, sys.executable, *found[6:], *SMALL[kind]]

    return small


@on_a_cpu
@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_a_measurement_ends_well_without_package_metadata(
        kind: str, tmp_path: Path, command: Callable[[str], list[str]]) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_METADATA)
    finished = subprocess.run(command(kind), text=True, capture_output=True,
                              env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    assert list((tmp_path / "runs").glob(REPORTS[kind]))


@pytest.mark.slow
def test_the_tests_need_no_package_metadata(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_METADATA)
    options = commands(tmp_path)[1][6:-1]
    options[options.index("-n") + 1] = "1"
    tests = [sys.executable, *options, "tests/kernels/test_swiglu.py"]
    finished = subprocess.run(tests, cwd=ROOT, text=True, capture_output=True,
                              env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert finished.returncode == 0, finished.stdout
    assert " passed in" in finished.stdout


@on_a_cpu
@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_a_measurement_whose_time_ends_says_what_is_missing(
        kind: str, tmp_path: Path, command: Callable[[str], list[str]]) -> None:
    def has_rows() -> bool:
        return any(path.stat().st_size for path in (tmp_path / "runs").glob(ROWS[kind]))

    status, said = cut(command(kind), has_rows)
    assert status == 124, said
    assert "Traceback" not in said
    assert SAID[kind] in said
    assert said.splitlines()[-1] == "interrupted: the same command goes on from here"
    assert kind == SWEEP or list((tmp_path / "runs").glob(REPORTS[kind]))


@on_a_cpu
@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_a_measurement_that_can_write_nothing_says_so_first(
        kind: str, tmp_path: Path, command: Callable[[str], list[str]]) -> None:
    (tmp_path / "runs").touch()
    finished = subprocess.run(command(kind), text=True, capture_output=True)
    assert finished.returncode == 2
    assert finished.stderr == (f"error: output='{tmp_path / 'runs'}': must be a folder that can be written "
                               "(File exists)\n")


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [[], ["-n", "2"]], ids=["alone", "parallel"])
def test_tests_whose_time_ends_sum_up_what_ran(parallel: list[str], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "test_long.py").write_text(
        "import time\n\n\ndef test_short():\n    pass\n\n\ndef test_long():\n    time.sleep(500)\n")
    (tmp_path / "conftest.py").write_text(
        "import os\nfrom pathlib import Path\n\nimport pytest\n\n\n@pytest.hookimpl(trylast=True)\n"
        "def pytest_runtest_logreport(report):\n"
        "    if report.when == 'teardown' and 'PYTEST_XDIST_WORKER' not in os.environ:\n"
        f"        Path({str(mark)!r}).touch()\n")
    options = [option for option in commands(tmp_path)[1][6:-1] if option not in ("-n", "8")]
    tests = ["timeout", *PATIENT, sys.executable, *options, *parallel, "-p", "tests.conftest", str(tmp_path)]
    status, said = cut(tests, mark.exists)
    assert status == 124, said
    assert "1 passed in" in said
    assert "Traceback" not in said


def cut(command: list[str], is_halfway: Callable[[], bool]) -> tuple[int, str]:
    """Run it until it is halfway, then let its `timeout` act as if the time had ended. Its status and all it said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as process:
        while not is_halfway():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGALRM)
        assert process.stdout is not None
        said = process.stdout.read()
    return process.returncode, said
