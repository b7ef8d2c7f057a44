"""Records of expert unions, written by hand."""

from collections.abc import Sequence
from typing import Any

from tests.experiments.expert_union.test_rows import RECIPE
from tests.experiments.handmade import PROVENANCE


def cell(width: int, distinct: Sequence[float] | None, read: float, **timed: float) -> dict[str, Any]:
    """At batch 1."""
    experts = {} if distinct is None else {"distinct": list(distinct), "uniform": 5.5, "num_unions": 40}
    return {"width": width, "batch_size": 1, "bytes": read, **experts, **timed}


def timed(times: float) -> dict[str, float]:
    return {"seconds": 0.002, "times_next_token": times}


def union(router: str, cells: Sequence[dict[str, Any]], *, objective: str = "MaskedDiffusion", state: float = 1,
          seed: int = 0) -> dict[str, Any]:
    """Of a router of 8 experts, or of the dense model."""
    experts = None if router == "dense" else {"num_experts": 8}
    recipe = RECIPE | {"shape": {"experts": experts}, "objective": {"kind": objective}}
    point = {"kind": "UnionPoint", "name": "sudoku4", "router": router, "state": state, "num_items": 4, "threads": 1,
             "model": {"seed": seed, "recipe": recipe}}
    return {"point": point, "result": {"cells": list(cells)}, "provenance": PROVENANCE}


def unions(seed: int = 0) -> list[dict[str, Any]]:
    """The dense pair, and a pair with experts as initialised and trained, which was timed."""
    causal = "AutoregressiveNLL"
    return [
        union("dense", [cell(1, None, 50, **timed(1))], objective=causal, seed=seed),
        union("dense", [cell(1, None, 50, **timed(1)), cell(4, None, 60, **timed(2))], seed=seed),
        union("softmax", [cell(1, [2, 2], 20)], objective=causal, state=0, seed=seed),
        union("softmax", [cell(1, [2, 2], 20), cell(4, [3, 5], 50)], state=0, seed=seed),
        union("softmax", [cell(1, [2, 2], 20, **timed(1))], objective=causal, seed=seed),
        union("softmax", [cell(1, [2, 2], 20, **timed(1)), cell(4, [5, 7], 60, **timed(1.5))], seed=seed)]
