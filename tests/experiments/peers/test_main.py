"""The command's table, and its exit codes: 0 where tokens agree, 1 where they differ, 2 where a peer cannot be run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments.peers import __main__ as command
from quicksilver.experiments.peers.__main__ import PEERS, parser, planned, table
from quicksilver.experiments.peers.base import Finding
from rich.console import Console

from tests.experiments.peers.stand_ins import LLADA, checkout

pytestmark = pytest.mark.usefixtures("one_layer")


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Of the command in this folder."""
    monkeypatch.setattr(sys, "argv", ["peers", *arguments, "--models", "1", "--tokens-only", "--threads", "1"])
    monkeypatch.setattr(command, "console", Console(stderr=True, soft_wrap=True))
    return command.main()


@pytest.mark.parametrize(("offset", "code"), [pytest.param(0, 0, marks=pytest.mark.slow), (1, 1)])
def test_the_exit_code_says_whether_tokens_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str], offset: int, code: int) -> None:
    monkeypatch.chdir(tmp_path)
    checkout(tmp_path, "generate.py", LLADA, offset)
    assert exit_code(monkeypatch, "--llada", str(tmp_path)) == code
    output = capsys.readouterr().out
    assert ("12 of 12" in output) == (code == 0)
    assert ("TOKENS DIFFER" in output) == (code == 1)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_every_setting_goes_on_record_with_what_was_compared_and_whose_code(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkout(tmp_path, "generate.py", LLADA)
    for arguments in ("init -q", "add generate.py", "-c user.name=n -c user.email=e commit -qm m"):
        subprocess.run(["git", *arguments.split()], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert exit_code(monkeypatch, "--llada", ".") == 0
    found = records(tmp_path / "runs" / "peers" / "records")
    assert len(found) == 2
    for record in found:
        point, result = record["point"], record["result"]
        assert point["code"]["repository"] == "github.com/ML-GSAI/LLaDA"
        assert (point["code"]["commit"], point["code"]["dirty"]) == (commit, False)
        assert list(point["code"]["files"]) == ["generate.py"]
        assert (point["of"]["models"]["num_models"], len(point["of"]["decoders"])) == (1, 12)
        assert (result["num_same"], result["num_decodes"], result["holds"]) == (12, 12, True)
        assert (result["threads"], result["device"], result["default_dtype"]) == (1, "cpu", "float32")
        assert result["kernels"]["commit"] == "reference"
        assert record["provenance"]["commit"]
        assert record["provenance"]["machine"]["cpu"]


def test_what_is_on_record_is_not_measured_again_unless_asked_or_of_other_code(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []

    def count(comparison: Any) -> dict[str, Any]:
        counted.append(comparison.setting)
        return Finding("LLaDA", comparison.setting, 12, 12).to_json()

    monkeypatch.setattr(command, "_measured", count)
    arguments = ["--llada", str(checkout(tmp_path / "theirs", "generate.py", LLADA)), "--output", str(tmp_path / "out")]
    assert exit_code(monkeypatch, *arguments) == exit_code(monkeypatch, *arguments) == 0
    assert len(counted) == 2
    first = records(tmp_path / "out" / "records")
    assert exit_code(monkeypatch, *arguments, "--anew") == 0
    assert len(counted) == 4
    assert [record["point"] for record in records(tmp_path / "out" / "records")] == [
        record["point"] for record in first]
    arguments[1] = str(checkout(tmp_path / "changed", "generate.py", LLADA, offset=1))
    assert exit_code(monkeypatch, *arguments) == 0
    assert len(counted) == 6
    assert len(records(tmp_path / "out" / "records")) == 4


def test_an_interrupted_command_says_how_far_it_came_and_goes_on_from_there(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--llada", str(checkout(tmp_path, "generate.py", LLADA)), "--output", str(tmp_path)]

    def found(comparison: Any) -> dict[str, Any]:
        return Finding("LLaDA", comparison.setting, 12, 12).to_json()

    def interrupted(comparison: Any) -> dict[str, Any]:
        if "guidance" in comparison.setting:
            raise KeyboardInterrupt
        return found(comparison)

    monkeypatch.setattr(command, "_measured", interrupted)
    assert exit_code(monkeypatch, *arguments) == 130
    assert "1 settings are on record" in capsys.readouterr().err
    assert len(records(tmp_path / "records")) == 1
    monkeypatch.setattr(command, "_measured", found)
    assert exit_code(monkeypatch, *arguments) == 0
    assert len(records(tmp_path / "records")) == 2


def test_a_folder_that_cannot_be_written_is_one_clear_line(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("a file")
    arguments = ["--llada", str(checkout(tmp_path, "generate.py", LLADA)), "--output", str(tmp_path / "out")]
    assert exit_code(monkeypatch, *arguments) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err


def test_a_comparison_that_fails_is_on_record_and_the_others_go_on(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = LLADA.replace("            if cfg_scale > 0:\n", "            if cfg_scale > 0:\n                "
                          "if attention_mask is not None:\n                    raise RuntimeError('no memory')\n")
    assert fails != LLADA
    arguments = ["--llada", str(checkout(tmp_path, "generate.py", fails)), "--output", str(tmp_path)]
    assert exit_code(monkeypatch, *arguments) == 1
    results = [record["result"] for record in records(tmp_path / "records")]
    assert sorted(result.get("failed", "") for result in results) == ["", "RuntimeError: no memory"]


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "name a peer: --transformers, or a checkout with --llada, --fast-dllm, --dllm, --dream, --sdar, --llada2"),
    (["--llada", "nowhere"], "--llada nowhere: is no folder"), (["--sdar", "."], "--sdar .: has no file"),
    (["--fast-dllm", "."], "--fast-dllm .: has no file llada/generate.py")])
def test_what_cannot_be_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_module_is_a_command() -> None:
    finished = subprocess.run([sys.executable, "-m", "quicksilver.experiments.peers"], capture_output=True, text=True)
    assert finished.returncode == 2
    assert "name a peer" in finished.stderr


def test_times_and_their_model_are_left_out_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [argument for name in PEERS for argument in (f"--{name}", str(tmp_path))]
    monkeypatch.setattr("quicksilver.experiments.peers.fast_dllm_model.version", lambda name: "4.46.3")
    options = parser().parse_args([*everything, "--transformers"])
    assert [len(part) for part in planned(options)] == [len(PEERS) + 2, 4]
    options = parser().parse_args([*everything, "--transformers", "--tokens-only"])
    assert [len(part) for part in planned(options)] == [len(PEERS) + 1, 0]


def test_another_transformers_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicksilver.experiments.peers.fast_dllm_model.version", lambda name: "5.1.0")
    with pytest.raises(ValueError, match="wants transformers 4.46, found 5.1.0"):
        planned(parser().parse_args(["--fast-dllm", str(tmp_path)]))


def test_a_row_says_what_holds_and_why() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table([Finding("A", "fixed", 5, 5, note="as told"), Finding("B", "factor", 5, 3, 2, 1, "a fault"),
                             Finding("C", "dual", 5, 4, 0, 7)]))
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in capture.get().splitlines() if row[0] == "│"]
    assert rows == [["A", "fixed", "5 of 5", "", "0", "as told"], ["B", "factor", "3 of 5", "2", "1", "a fault"],
                    ["C", "dual", "4 of 5", "", "7", "TOKENS DIFFER."]]
