"""Tuning rehearsed with clocks that make one tile the fastest: the table written is what launchers then take."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.experiments.harness.json_lines import JsonLines
from quicksilver.experiments.harness.worker import CallFailed
from quicksilver.experiments.kernel_bench import tile_decisions
from quicksilver.experiments.kernel_bench.tile_decisions import Timer, Tuner
from quicksilver.experiments.kernel_bench.tile_timing import Trial
from quicksilver.kernels import gate_up, tile_table
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.gate_up import GateUpCase, gate_up_swiglu, reference
from quicksilver.kernels.grouped_product import Tile

from .planted_tiles import (
    FATAL,
    LUCKY,
    REFUSED,
    RIGHT,
    SHIPPED,
    SQUARES,
    WRONG,
    SquareCase,
    deepest_is_fastest,
    fault,
    microseconds,
    microseconds_without_luck,
)

GPU, FAR = "Some GPU 80GB", float("inf")
FEW = [[Trial(SQUARES, 0, SquareCase(3), "float32"), Trial(SQUARES, 0, SquareCase(5), "float32")]]
MANY = [[Trial(SQUARES, 1, SquareCase(9), "float32")]]


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The table's file; this machine is the GPU that it is for."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))  # of the process that measures
    monkeypatch.setattr(tile_table, "FOLDER", tmp_path / "tiles")
    monkeypatch.setattr(tile_table, "gpu_name", lambda device: GPU)
    tile_table.forget()
    yield tmp_path / "tiles" / "Some_GPU_80GB.json"
    tile_table.forget()


class _Died(BaseException):
    """What would have ended a process."""


class WorkerHere:
    """Answers in this process, which outlives what would end a worker's: to start one takes seconds."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __enter__(self) -> "WorkerHere":
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def ask(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        def die(status: int) -> None:
            raise _Died(status)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "_exit", die)
            try:
                return function(*arguments)
            except _Died as death:
                raise CallFailed(f"its process ended with status {death}") from None
            except Exception as error:
                raise CallFailed(f"{type(error).__name__}: {error}") from None

    def end(self) -> None:
        pass


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_decisions, "Worker", WorkerHere)


NO_PROCESS = pytest.mark.usefixtures("no_process")


def tuner(folder: Path, timer: Timer) -> Tuner:
    return Tuner("cpu", GPU, 8, JsonLines(folder / "tune.jsonl"), timer)


def taken(size: float) -> Any:
    return SQUARES.tile(size, torch.device("cpu"))


@NO_PROCESS
def test_the_fastest_that_is_right_twice_enters_the_table_that_launchers_read(tmp_path: Path, table: Path) -> None:
    assert tuner(tmp_path, microseconds_without_luck).run(FEW + MANY, FAR) == 0
    assert (taken(3), taken(9)) == (RIGHT, RIGHT)
    (entry,) = json.loads(table.read_text())["tiles"]  # in the other bucket what ships is the fastest
    assert entry == {"choice": "planted_squares", "up_to": 8, "tile": {"side": 4}}
    rows = JsonLines(tmp_path / "tune.jsonl").rows()
    first = rows[0]
    assert [gate["passed"] for gate in first["gates"]] == [True, False, False, True, False, True]
    by_tile = dict(zip((SHIPPED, WRONG, REFUSED, RIGHT, FATAL, LUCKY), first["gates"], strict=True))
    assert by_tile[REFUSED]["failed"] == "ValueError: out of shared memory"
    assert by_tile[FATAL]["failed"] == "its process ended with status 9"
    assert by_tile[WRONG]["error"] == pytest.approx(0.1, rel=0.01)
    assert [bool(times) for times in first["samples_us"]] == [True, False, False, True, False, False]
    assert first["samples_us"][3] == pytest.approx([8 + 0.08 * number for number in range(8)])
    assert [row["tiles"] for row in rows[2:4]] == [[asdict(SHIPPED), asdict(RIGHT)]] * 2
    assert all(row["provenance"]["device"] == GPU for row in rows)


@NO_PROCESS
def test_one_that_is_fast_among_many_and_slow_beside_what_ships_does_not_enter(tmp_path: Path, table: Path) -> None:
    assert tuner(tmp_path, microseconds).run(FEW, FAR) == 0
    assert taken(3) == SHIPPED
    assert not table.exists()


def test_real_launchers_take_what_was_tuned_and_compute_the_same(tmp_path: Path, table: Path) -> None:
    case = GateUpCase(3, 72, 40)
    assert tuner(tmp_path, deepest_is_fastest).run([[Trial(gate_up.TILES, 0, case, "bfloat16")]], FAR) == 0
    best = Tile(16, 32, 128, True, 4, 4)
    assert gate_up.TILES.tile(3, torch.device("cpu")) == best != gate_up.TILES.buckets[0].default
    x_TE, gate_up_GE = case.inputs(torch.bfloat16, torch.device("cpu"))
    with using(Implementation.TRITON), tile_table.observing() as found:
        y_TM = gate_up_swiglu(x_TE, gate_up_GE)
    assert found == {(gate_up.TILES, 0)}
    torch.testing.assert_close(y_TM, reference(x_TE, gate_up_GE), rtol=0.02, atol=0.02)


def planted(table: Path) -> bytes:
    """A table with an entry for each bucket of squares, and one of another choice."""
    table.parent.mkdir(exist_ok=True)
    entries = [SQUARES.buckets[0].entry("planted_squares", LUCKY), SQUARES.buckets[1].entry("planted_squares", SHIPPED),
               {"choice": "others", "up_to": None, "tile": {"rows": 3}}]
    table.write_text(json.dumps({"tiles": entries}))
    tile_table.forget()
    return table.read_bytes()


@NO_PROCESS
def test_an_interrupted_run_leaves_the_table_whole_and_the_next_goes_on(
        tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, append = planted(table), JsonLines.append

    def interrupted(self: JsonLines, row: dict[str, Any]) -> None:
        append(self, row)
        if len(self.rows()) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tuner(tmp_path, microseconds_without_luck).run(FEW + MANY, FAR)
    assert table.read_bytes() == before
    kept = JsonLines(tmp_path / "tune.jsonl").rows()
    assert tuner(tmp_path, microseconds_without_luck).run(FEW + MANY, time.monotonic()) == 0  # no time for the rest
    assert table.read_bytes() == before
    assert JsonLines(tmp_path / "tune.jsonl").rows() == kept
    assert tuner(tmp_path, microseconds_without_luck).run(FEW + MANY, FAR) == 0
    rows = JsonLines(tmp_path / "tune.jsonl").rows()
    assert rows[:3] == kept
    assert len({row["key"] for row in rows}) == len(rows) == 5
    assert (taken(3), taken(9)) == (RIGHT, RIGHT)
    assert [entry["choice"] for entry in tile_table.read(table)] == ["others", "planted_squares"]


@NO_PROCESS
def test_what_cannot_be_timed_keeps_its_entry_and_counts_as_failed(tmp_path: Path, table: Path) -> None:
    planted(table)
    assert tuner(tmp_path, fault).run(FEW, FAR) == 1
    assert (taken(3), taken(9)) == (LUCKY, SHIPPED)
    (row,) = JsonLines(tmp_path / "tune.jsonl").rows()
    assert row["failed"] == "its process ended with status 7"
    assert len(row["gates"]) == 6
    assert tuner(tmp_path, microseconds_without_luck).run(FEW, FAR) == 0  # what failed is tried again
    assert taken(3) == RIGHT


def test_nothing_is_decided_where_the_tile_that_ships_is_wrong(tmp_path: Path) -> None:
    """In processes of their own: one ends, and the next goes on."""
    bucket = tile_table.Bucket(float("inf"), WRONG, (WRONG, FATAL, RIGHT))
    choice = tile_table.TileChoice("planted_squares", (bucket,))
    assert tuner(tmp_path, microseconds).run([[Trial(choice, 0, SquareCase(3), "float32")]], FAR) == 1
    (row,) = JsonLines(tmp_path / "tune.jsonl").rows()
    assert [gate["passed"] for gate in row["gates"]] == [False, False, True]
    assert row["gates"][1]["failed"] == "its process ended with status 9"
