"""Predicted speed-ups: by hand arithmetic, made once, and beside what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments import speed_prediction as module
from quicksilver.experiments.harness.roofline import Card
from quicksilver.experiments.speed_prediction import FILE, Predict

from tests.experiments.conftest import SHAPE, TASK, tiny_frontier

# A second a layer and forward, and nothing besides.
BY_LAYERS = Card("a machine", 1e30, {"float32": 1e30}, seconds_per_layer=1.0)


def predict(**changes: Any) -> Predict:
    settings: dict[str, Any] = {"tasks": tiny_frontier().tasks, "seeds": [0], "threshold": 0.9, "batch_sizes": [1, 4],
                                "num_items": [2, 5], "threads": 1}
    return Predict(**(settings | changes))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[Card]:
    """The measured machine, which a test may exchange; every measurement is a further entry of the list."""
    cards = [BY_LAYERS]
    monkeypatch.setattr(module, "this_machine", lambda *_, **__: cards.append(cards[0]) or cards[0])
    return cards


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_a_prediction_is_the_ratio_of_all_forwards_times(tmp_path: Path, card: list[Card]) -> None:
    predict().check()
    assert predict().run(tmp_path) == 0
    found = rows(tmp_path)
    assert [row["point"]["batch_size"] for row in found] == [1, 4]
    for row, num_batches in zip(found, (2, 2), strict=True):
        result = row["result"]
        # Autoregression writes the whole grid, a token a forward; untrained diffusion fills the blanks alone.
        assert result["reference_seconds"] == SHAPE.num_layers * TASK.num_cells * num_batches
        assert 0 < result["seconds"] <= SHAPE.num_layers * TASK.num_blanks * num_batches
        assert result["speed_up"] == result["reference_seconds"] / result["seconds"]
        assert result["card"]["seconds_per_layer"] == 1.0
        assert row["provenance"]["versions"]["torch"]


def test_a_prediction_that_exists_is_not_made_again(tmp_path: Path, card: list[Card]) -> None:
    predict().run(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    predict().run(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert len(card) == 2
    predict(batch_sizes=[1, 3], num_items=[2, 3]).run(tmp_path)
    assert (tmp_path / FILE).read_bytes().startswith(before)
    assert len(rows(tmp_path)) == 3


def test_the_table_says_what_was_measured_and_whether_the_prediction_held(
        tmp_path: Path, card: list[Card], undrawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(module.console, "print", lambda text, **_: shown.append(text))
    predict().run(tmp_path)
    cells = [list(column.cells) for column in shown.pop().columns]
    assert cells[4] == ["not measured"] * 2
    tiny_frontier().run(tmp_path)
    (path,) = (path for path in (tmp_path / "records").glob("*.json")
               if (point := json.loads(path.read_text())["point"]).get("order") == "threshold 0.9"
               and point["batch_size"] == 4)
    record = json.loads(path.read_text())
    predicted = rows(tmp_path)[1]["result"]["speed_up"]
    for measured, said in ((1.4 * predicted, "yes"), (predicted / 1.4, "yes"), (1.6 * predicted, "no"),
                           (predicted / 1.6, "no")):
        record["result"]["speed_up"] = measured
        path.write_text(json.dumps(record))
        shown.clear()
        predict().run(tmp_path)
        cells = [list(column.cells) for column in shown.pop().columns]
        assert cells[4][1] == f"{measured:.2f}"
        assert cells[5][1] == said


@pytest.mark.parametrize(("changes", "message"), [
    ({"device": "cuda"}, "device='cuda'"), ({"threshold": 0}, "threshold=0"), ({"num_items": [1]}, "num_items="),
    ({"capture": "always"}, "capture='always'")])
def test_settings_that_cannot_be_predicted_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict(**changes)
