"""The command line: bad input is answered with one line and exit code 2; kill -9 loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TINY = ["task=sudoku4", "threads=1", "model.width=32", "model.num_layers=1", "model.ffn_width=48",
        "task.sudoku4.task.num_training_bases=20", "task.sudoku4.diffusion.updates=8",
        "task.sudoku4.autoregressive.updates=8", "task.sudoku4.diffusion.num_curve_items=8",
        "task.sudoku4.autoregressive.num_curve_items=8", "experiment.num_items=[4,16]"]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "quicksilver.experiments", *arguments], cwd=cwd, text=True,
                          capture_output=True)


@pytest.mark.parametrize(("arguments", "message"), [
    (["task=nope"], "Could not find 'task/nope' Available options in 'task': "),
    (["nope=3"], "unknown key 'nope': must be one of "),
    (["experiment=nope"], "Could not find 'experiment/nope'"),
    (["policy=threshold"], "Could not override 'policy'"),
    (["experiment=decode", "task=sudoku4", "policy=nope"], "Could not find 'policy/nope'"),
    (["experiment=decode", "task=sudoku4", "decoder=threshold", "policy.tau=1.5"], "tau=1.5: must be a number above 0"),
    (["experiment=decode", "task=sudoku4", "decoder=threshold", "policy.tau=abc"], "tau='abc': must be a number"),
    (["experiment=decode", "task=sudoku4", "schedule.steps=0"], "steps=0: must be an integer of at least 1"),
    (["experiment=decode", "task=sudoku4", "schedule.stpes=2"], "unknown key 'schedule.stpes': must be one of steps"),
    (["experiment=decode", "experiment.num_items=[1"], "no viable alternative at input '[1'"),
    (["experiment=decode"], "experiment=decode takes exactly one"),
    (["experiment.thresholds=[1.5]"], "tau=1.5"),
    (["model.num_heads=3"], "num_heads=3: must divide width=128"),
    (["threads=0"], "threads=0"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_bad_input_is_answered_with_one_line_and_exit_code_2(
        tmp_path: Path, arguments: list[str], message: str) -> None:
    finished = run(*arguments, cwd=tmp_path)
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_block_that_does_not_divide_and_a_foreign_checkpoint_are_refused(tmp_path: Path) -> None:
    first = run("experiment=decode", *TINY[:-1], "decoder=autoregressive", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "of 64 right" in first.stderr
    (weights,) = (tmp_path / "runs" / "checkpoints").glob("*.safetensors")
    for arguments, message in (
            (["windows=blocks", "windows.size=5"], "size=5: blocks must divide the 16 positions"),
            ([f"experiment.checkpoint={weights}"], "a checkpoint of another configuration: max_length=32, not 16"),
            (["experiment.checkpoint=nowhere.safetensors"], "nowhere.safetensors: no such checkpoint")):
        finished = run("experiment=decode", *TINY[:-1], *arguments, cwd=tmp_path)
        assert finished.returncode == 2, finished.stderr
        assert message in finished.stderr.splitlines()[-1]


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_sweep_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quicksilver.experiments", *TINY]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "records"
    while len(list(folder.glob("*.json"))) < 5:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.read_bytes() for path in folder.glob("*.json")}
    assert len(kept) >= 5
    for content in kept.values():
        assert json.loads(content)["result"]
    finished = run(*TINY, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    again = {path: path.read_bytes() for path in folder.glob("*.json")}
    assert run(*TINY, cwd=tmp_path).returncode == 0
    assert {path: path.read_bytes() for path in folder.glob("*.json")} == again


@pytest.mark.slow
def test_a_report_is_made_again_from_records_alone(tmp_path: Path) -> None:
    assert run(*TINY, cwd=tmp_path).returncode == 0
    for path in (tmp_path / "runs" / "checkpoints").iterdir():
        path.unlink()
    finished = run("experiment=report", "experiment.records=runs/records", "output=again", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    (first,) = (tmp_path / "runs").glob("sudoku4-*/report.html")
    def table(path: Path) -> str:
        return path.read_text().partition("<h2>All settings</h2>")[2].partition("<h2>Training</h2>")[0]

    assert table(tmp_path / "again" / "report.html") == table(first)
    finished = run("experiment=report", "experiment.records=nowhere", cwd=tmp_path)
    assert finished.returncode == 2
    assert "records='nowhere': must be a folder that holds records" in finished.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.slow
def test_a_full_disk_ends_with_one_clear_line_and_keeps_earlier_records(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not allow mounts")
    try:
        finished = run(*TINY, f"output={disk}", cwd=tmp_path)
        assert finished.returncode == 1
        last = finished.stderr.strip().splitlines()[-1]
        assert "No space left on device" in last
        assert "what was recorded before is intact" in last
        records = list(disk.rglob("records/*.json"))
        assert all(json.loads(path.read_text())["provenance"] for path in records)
        assert not list(disk.rglob("records/.*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_multirun_with_joblib_runs_seeds_in_parallel_without_clobbering(tmp_path: Path) -> None:
    finished = run("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *TINY, "seeds=[0],[1],[0,1]",
                   "threads=null", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "records").glob("*.json")]
    trained = [record["point"] for record in records if record["point"]["kind"] == "TrainingPoint"]
    assert sorted(point["seed"] for point in trained) == [0, 0, 1, 1]
    reports = sorted(path.parent.name for path in (tmp_path / "runs").glob("*/report.html"))
    assert [name.rpartition("-")[0] for name in reports] == ["sudoku4", "sudoku4-seeds0+1", "sudoku4-seeds1"]
    assert {point["recipe"]["threads"] for point in trained} == {1}
