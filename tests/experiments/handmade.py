"""Records of cache errors and of parallel commits, written by hand."""

from typing import Any

PROVENANCE = {"commit": "a" * 40, "dirty": False, "source_hash": "s", "versions": {"torch": "2"},
              "machine": {"cpu": "cpu", "cores": 2}}


def model(seed: int = 0, objective: str = "MaskedDiffusion", task: str = "sums") -> dict[str, Any]:
    return {"kind": "TrainingPoint", "name": task, "seed": seed,
            "recipe": {"objective": {"kind": objective}, "format": {"kind": "F"}, "precision": "bfloat16"}}


def step(window: int, index: int, *, kl: list[float], flips: list[float], num_eligible: int = 10,
         num_committed: int = 5, edited: int = 0, differ: int = 0, computed: int = 40) -> dict[str, Any]:
    return {"window": window, "index": index, "num_eligible": num_eligible, "kl": kl, "flips": flips,
            "relative_error": [0.0] * len(kl), "num_committed": num_committed, "num_edited_otherwise": edited,
            "num_tokens_differ": differ, "positions_computed": computed, "positions_whole": 100}


def cache_record(cache: str, steps: list[dict[str, Any]], *, num_steps: int = 2, differs: str = "0000",
                 num_items: int = 4, **of_model: Any) -> dict[str, Any]:
    point_model = model(**of_model)
    return {"point": {"kind": "CacheErrorPoint", "name": point_model["name"], "model": point_model, "cache": cache,
                      "steps": num_steps, "num_items": num_items, "threads": 1},
            "result": {"num_items": num_items, "right": "1100", "exact_right": "1110", "differs": differs,
                       "steps": steps},
            "provenance": PROVENANCE}


def joint_record(num_steps: int, right: str, *, bound: float = 0.0, gap: float = 0.0, wrong_gap: float = 0.0,
                 **of_model: Any) -> dict[str, Any]:
    """Every item has the bound; right ones have `gap`, wrong ones `wrong_gap`."""
    point_model = model(**of_model)
    joint = [-1.0 - (gap if mark == "1" else wrong_gap) for mark in right]
    return {"point": {"kind": "JointErrorPoint", "name": point_model["name"], "model": point_model,
                      "steps": num_steps, "num_items": len(right), "threads": 1},
            "result": {"num_items": len(right), "right": right, "bound": [bound] * len(right),
                       "product": [-1.0] * len(right), "joint": joint, "num_commits": 2 * len(right),
                       "num_tokens": 6 * len(right)},
            "provenance": PROVENANCE}
