"""Accounting of a decode: forwards by kind, positions computed, keys seen, useful tokens.

Forward counts do not show what a cache saves, so positions and keys are counted too. Forwards are counted from shapes
known on the host; no tensor is read while decoding.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ..models.adapter import LanguageModel, Plan

ForwardKind = Literal["denoise", "guided", "store"]


@dataclass
class Accounting:
    """Counts of one decode. `shapes` counts forwards by (kind, rows, positions fed per row, positions queried in all,
    context); positions, keys, FLOPs and bytes follow from it. Tokens: `useful` up to and including the first end token
    or stop string; `cut` those decoded past that or past the number asked for, to whole blocks; `committed` counts all
    commits, also those later overwritten or remasked (`remasked`). Positions include the padding
    of ragged rows. Row steps after the row finished (`finished_row_steps`) and row steps that change nothing
    (`empty_row_steps`) cost as much as the others."""

    shapes: Counter[tuple[ForwardKind, int, int, int, int]] = field(default_factory=Counter)
    row_steps: int = 0
    finished_row_steps: int = 0
    empty_row_steps: int = 0
    tokens_committed: int = 0
    tokens_remasked: int = 0
    tokens_useful: int = 0
    tokens_cut: int = 0
    kv_store_bytes: int = 0

    def count_forward(self, kind: ForwardKind, plan: Plan, num_rows: int | None = None) -> None:
        """Count one forward of the plan over `num_rows` rows (None: the plan's). Only the plan's rows are queried."""
        num_fed = plan.feed_BF.shape[1]
        context = num_fed if plan.context is None else plan.context
        num_queried = plan.query_BQ.shape[0] * plan.query_BQ.shape[1]
        self.shapes[kind, num_rows or len(plan.feed_BF), num_fed, num_queried, context] += 1

    @property
    def forwards(self) -> Counter[ForwardKind]:
        """Forwards by kind."""
        forwards: Counter[ForwardKind] = Counter()
        for (kind, *_), count in self.shapes.items():
            forwards[kind] += count
        return forwards

    def costs(self, model: LanguageModel) -> Iterator["ForwardCost"]:
        """What a forward of each shape takes, by the model's own formulas."""
        for (_, num_rows, num_fed, num_queried, context), count in self.shapes.items():
            keys_seen = num_rows * num_fed * context
            stored_read = num_rows * context if self.kv_store_bytes else 0
            flops, bytes_read = model.forward_cost(num_rows * num_fed, keys_seen, num_queried, stored_read)
            yield ForwardCost(count, num_rows, num_rows * num_fed, num_queried, keys_seen, flops, bytes_read)

    def to_json(self, model: LanguageModel) -> dict[str, Any]:
        """All counts, and the sums over all forwards."""
        names = ("positions_computed", "positions_queried", "keys_seen", "flops", "bytes_read")
        costs = list(self.costs(model))
        totals = {name: sum(cost.count * getattr(cost, name) for cost in costs) for name in names}
        counts = {name: value for name, value in vars(self).items() if name != "shapes"}
        return counts | totals | {"forwards": dict(self.forwards)}


@dataclass(frozen=True)
class ForwardCost:
    """What each of `count` forwards of one shape takes."""

    count: int
    num_rows: int
    positions_computed: int
    positions_queried: int
    keys_seen: int
    flops: int
    bytes_read: int
