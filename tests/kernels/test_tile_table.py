"""A GPU's table decides its tiles; without one, and for what it does not name, what ships is taken."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.kernels import tile_table
from quicksilver.kernels.tile_table import Bucket, TileChoice, in_force, observing, trying

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Square:
    side: int


CHOICE = TileChoice("squares", (Bucket(8, Square(1), (Square(1), Square(2))),
                                Bucket(float("inf"), Square(3), (Square(3), Square(4)))))


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The table of the GPU that this machine then is."""
    monkeypatch.setattr(tile_table, "FOLDER", tmp_path)
    monkeypatch.setattr(tile_table, "gpu_name", lambda device: "A GPU 9000 (PCIe)")
    tile_table.forget()
    yield tmp_path / "A_GPU_9000_PCIe_.json"
    tile_table.forget()


def write(path: Path, *entries: dict[str, Any]) -> None:
    path.write_text(json.dumps({"tiles": entries}))
    tile_table.forget()


def taken() -> list[int]:
    return [CHOICE.tile(size, CPU).side for size in (1, 8, 8.5, 9, 1e9)]


def test_what_ships_is_taken_without_a_table_and_on_what_is_no_gpu() -> None:
    assert taken() == [1, 1, 3, 3, 3]
    assert tile_table.gpu_name(CPU) is None
    assert tile_table.gpu_name(torch.device("meta")) is None


def test_a_table_decides_the_buckets_that_it_names(table: Path) -> None:
    assert taken() == [1, 1, 3, 3, 3]
    write(table, CHOICE.buckets[1].entry("squares", Square(4)))
    assert taken() == [1, 1, 4, 4, 4]
    write(table, CHOICE.buckets[0].entry("squares", Square(2)), {"choice": "others", "up_to": 3, "tile": {"sides": 3}})
    assert taken() == [2, 2, 3, 3, 3]


@pytest.mark.parametrize("entry", [
    {"choice": "squares", "up_to": 8, "tile": {"side": 4}}, {"choice": "squares", "up_to": 9, "tile": {"side": 1}},
    {"choice": "squares", "up_to": 8, "tile": {"sides": 1}}], ids=str)
def test_a_table_names_candidates_of_a_bucket_alone(entry: dict[str, Any], table: Path) -> None:
    write(table, entry)
    with pytest.raises(ValueError, match="is no candidate of squares; write the table anew"):
        taken()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tiles": [3]}', '{"tiles": [{"choice": "squares"}]}'])
def test_a_damaged_table_is_named(text: str, table: Path) -> None:
    table.write_text(text)
    with pytest.raises(ValueError, match=r"A_GPU_9000_PCIe_\.json: a damaged table"):
        taken()


def test_what_is_tried_goes_before_a_table_in_its_bucket_alone(table: Path) -> None:
    write(table, *(bucket.entry("squares", bucket.candidates[1]) for bucket in CHOICE.buckets))
    with trying(CHOICE, 0, Square(7)):
        assert taken() == [7, 7, 4, 4, 4]
    assert taken() == [2, 2, 4, 4, 4]


def test_the_choices_that_are_made_are_observed() -> None:
    with observing() as found:
        CHOICE.tile(3, CPU)
        CHOICE.tile(4, CPU)
    CHOICE.tile(9, CPU)
    assert found == {(CHOICE, 0)}


def test_a_record_says_which_table_is_in_force(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.cuda.is_available() or in_force() == "defaults"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU 9000 (PCIe)")
    assert in_force() == "defaults"
    write(table)
    first = in_force()
    assert first.startswith("A_GPU_9000_PCIe_ ")
    write(table, CHOICE.buckets[1].entry("squares", Square(4)))
    assert in_force() != first
