"""What a decode did: forwards by kind, positions through the network, keys seen, and what of it was useful.

A forward count alone cannot see what a cache saves, so positions and keys are counted beside it. Everything is added
up from shapes that the host knows; no tensor is read while decoding.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from ..models.adapter import LanguageModel, Plan

ForwardKind = Literal["denoise", "store"]


@dataclass
class Accounting:
    """Counts of one decode. Tokens: `useful` up to and with the first end token, `committed` all that were decided.
    `positions_computed` includes the padding of ragged rows and the steps of rows that were already finished
    (`idle_row_steps`), which is what they cost."""

    forwards: Counter[ForwardKind] = field(default_factory=Counter)
    row_steps: int = 0
    idle_row_steps: int = 0
    positions_computed: int = 0
    positions_queried: int = 0
    keys_seen: int = 0
    flops: int = 0
    bytes_read: int = 0
    tokens_committed: int = 0
    tokens_useful: int = 0
    kv_store_bytes: int = 0

    def count_forward(self, kind: ForwardKind, plan: Plan, model: LanguageModel) -> None:
        num_rows, num_fed = plan.feed_BF.shape
        num_queried = plan.query_BQ.numel()
        keys_seen = num_rows * num_fed * (num_fed if plan.context is None else plan.context)
        flops, bytes_read = model.forward_cost(num_rows * num_fed, keys_seen, num_queried)
        self.forwards[kind] += 1
        self.positions_computed += num_rows * num_fed
        self.positions_queried += num_queried
        self.keys_seen += keys_seen
        self.flops += flops
        self.bytes_read += bytes_read

    def to_json(self) -> dict[str, object]:
        return vars(self) | {"forwards": dict(self.forwards)}
