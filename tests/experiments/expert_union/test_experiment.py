"""The expert_union experiment end to end on tiny models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from quicksilver.experiments.expert_union.experiment import DENSE, ExpertUnion, RouterSetup
from quicksilver.experiments.study.setup import TaskSetup
from quicksilver.kernels.moe_router import Routing, Scoring
from quicksilver.models import (
    AuxiliaryLoss,
    BlockSharedExperts,
    ExpertShape,
    LossFree,
    TopPExperts,
)

from tests.experiments.conftest import LEFT_TO_RIGHT, TASK, autoregressive_recipe, diffusion_recipe
from tests.experiments.expert_union.test_union import EXPERTS, evaluator

ROUTERS = {"softmax": RouterSetup(EXPERTS, AuxiliaryLoss()),
           "sigmoid": RouterSetup(ExpertShape(8, 8, Routing(2, Scoring.SIGMOID), selection_bias=True), LossFree())}


SETUP = TaskSetup(TASK, diffusion_recipe(updates=2), autoregressive_recipe(updates=2), steps=[1], ablation_steps=[],
                  block_size=8)


def experiment(**changes: Any) -> ExpertUnion:
    settings: dict[str, Any] = {
        "tasks": {"sudoku4": SETUP}, "seeds": [0], "routers": ROUTERS, "states": [0, 0.5, 1], "widths": [1, 4, 16],
        "batch_sizes": [1, 2], "num_items": 4,
        "rules": {"shared by 3": BlockSharedExperts(3), "sure": TopPExperts(0.5)}, "affinity": [0.5, 1],
        "refresh_every": 4, "tokens_per_step": 2, "num_decoded": 6, "decoded_batch_size": 1, "threads": 1}
    return ExpertUnion(**(settings | changes))


def records(folder: Path, kind: str) -> list[dict]:
    found = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
    return [record for record in found if record["point"]["kind"] == kind]


@pytest.mark.slow
def test_all_is_measured_recorded_and_reported(tmp_path: Path) -> None:
    settings = {"seeds": [0, 1], "states": [0, 1], "widths": [1, 16], "num_items": 2, "affinity": [0.5]}
    assert experiment(**settings).run(tmp_path) == 0
    found = records(tmp_path, "UnionPoint")
    assert len(found) == 2 * (2 + 2 * 2 * 2)  # seeds, the dense pair, routers, states, pair
    for record in found:
        point, cells = record["point"], record["result"]["cells"]
        assert ("experts" in record["result"]["kernels"]) == (point["router"] != DENSE)
        assert record["result"]["dtypes"]["products"] == ["float32"]
        assert [(cell["width"], cell["batch_size"]) for cell in cells] == [
            (width, size) for width in point["widths"] for size in (1, 2)]
        for cell in cells:
            assert ("seconds" in cell) == (point["state"] == 1 and point["router"] != "sigmoid")
            if "seconds" in cell:
                assert 0 < cell["seconds_p20"] <= cell["seconds"] <= cell["seconds_p80"]
                assert 0 < cell["times_next_token_p20"] <= cell["times_next_token"] <= cell["times_next_token_p80"]
            is_causal = point["model"]["recipe"]["objective"]["kind"] == "AutoregressiveNLL"
            before = positions_before_the_fed_one() if is_causal else 16 - cell["width"]
            assert cell["stored_positions"] == round(cell["batch_size"] * before)
            if point["router"] == DENSE:
                assert "distinct" not in cell
                continue
            assert len(cell["distinct"]) == 2  # layers
            assert all(2 <= mean <= min(8, 2 * cell["width"] * cell["batch_size"]) for mean in cell["distinct"])
            assert cell["uniform"] == pytest.approx(8 * (1 - 0.75 ** (cell["width"] * cell["batch_size"])))
        if point["router"] != DENSE and len(cells) > 2:
            means = [sum(cell["distinct"]) for cell in cells if cell["batch_size"] == 1]
            assert means == sorted(means)
    mitigations = records(tmp_path, "MitigationPoint")
    assert sorted({record["point"]["mitigation"] for record in mitigations}) == [
        "affinity 0.5", "own choice", "shared by 3", "sure", "usual order"]
    for record in mitigations:
        result = record["result"]
        assert len(result["right"]) == 6
        assert result["seconds_ratio"] > 0
        assert "grouped products" in result["kernels"]["experts"]
        if record["point"]["mitigation"] == "shared by 3":
            assert result["distinct"] <= 3
        if record["point"]["mitigation"] in ("own choice", "shared by 3", "sure"):
            assert 8 < result["positions"] < 16  # the first step in a block feeds the canvas, the others the block
            assert 1.5 < result["tokens_per_step"] <= 2  # the last of an odd number is committed alone
    (page,) = tmp_path.glob("expert_union-sudoku4-*/report.html")
    html = page.read_text()
    assert "Sparse activation under parallel decoding" in html
    assert "±" in html
    assert page.with_name("expert_union.png").exists()
    before = {path: path.read_bytes() for path in (tmp_path / "records").iterdir()}
    assert experiment(**settings).run(tmp_path) == 0
    assert before == {path: path.read_bytes() for path in (tmp_path / "records").iterdir()}


def positions_before_the_fed_one() -> float:
    """Of an autoregressive decode, on average: it feeds the token before the one that it decides."""
    request, *_ = evaluator(autoregressive_recipe(), LEFT_TO_RIGHT).requests(TASK, TASK.test_problems(1), 0)
    decided = [position for position, token in enumerate(request.tokens) if token == TASK.vocab_size - 1]
    return sum(position - 1 for position in decided) / len(decided)


@pytest.mark.parametrize(("changes", "message"), [
    ({"widths": [17]}, "widths=17: must be an integer of at least 1 and at most 16"),
    ({"widths": []}, r"widths=\[\]: needs at least one"), ({"states": [0, 2]}, "states=2"),
    ({"routers": {}}, "needs at least one"), ({"routers": {DENSE: ROUTERS["softmax"]}}, "none of them called dense"),
    ({"num_items": 1}, "num_items=1: must be an integer of at least 2"), ({"tokens_per_step": 0}, "tokens_per_step=0"),
    ({"rules": {"shared by 1": BlockSharedExperts(1)}}, "num_experts=1: must be from top_k=2"),
    ({"affinity": [-1]}, "weight=-1"),
    ({"tokens_per_step": 3}, "tokens_per_step=3: must divide sudoku4's blocks of 8"),
    ({"routers": {"softmax": RouterSetup(replace(EXPERTS, num_dense_layers=1), AuxiliaryLoss())}},
     "needs another layer with experts"),
    ({"num_items": 5}, "num_items=5: must be a multiple of the largest batch size, 2"),
    ({"num_decoded": 5, "decoded_batch_size": 2}, "num_decoded=5: must be a multiple of decoded_batch_size=2"),
    ({"num_decoded": 6, "decoded_batch_size": 3}, r"decoded_batch_size=3: must be one of batch_sizes=\[1, 2\]"),
    ({"rules": {"own choice": BlockSharedExperts(3)}}, "own choice is the one that they are changes of")])
def test_a_setting_that_could_not_be_measured_is_refused_before_training(changes: dict[str, Any],
                                                                         message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**changes).check()


def test_the_shipped_configuration_is_whole() -> None:
    with initialize_config_module("quicksilver.conf", version_base=None):
        config = compose("config", overrides=["experiment=expert_union", "device=cpu", "precision=float32",
                                              "threads=1", "models_at_once=1", "seeds=[0,1,2]"])
        made = instantiate(config.experiment, _convert_="all")
    assert isinstance(made, ExpertUnion)
    first, _, sigmoid = (router.experts for router in made.routers.values())
    assert sigmoid == replace(first, selection_bias=True, routing=replace(first.routing, scoring=Scoring.SIGMOID))
    made.check()
    dense, experts = (next(point.model.config() for point in made.union_points() if (point.router == DENSE) == is_dense)
                      for is_dense in (True, False))
    active = experts.num_active_matrix_parameters() / dense.num_active_matrix_parameters()
    assert active == pytest.approx(1, abs=0.01)
    assert len(made.training_points()) == 3 * (2 + 3 * 2 * 2)
