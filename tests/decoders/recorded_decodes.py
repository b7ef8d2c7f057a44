"""Decodes recorded once, so that a change of the engine that is to change no decode can be held to them.

    python -m tests.decoders.recorded_decodes      writes tests/decoders/recorded_decodes.json anew

Only a change that is meant to change decodes calls for that. Each decoder stands in the file as Python text, so that an
option may leave `conf` without taking its decodes along. Weights are float64: rounding decides nothing anywhere.

A study with a policy of its own keeps a file of this form beside its tests.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from quicksilver import decoders, models
from quicksilver.decoders import CapturedSteps, Decoder, Request, StepRunner, generate, presets
from quicksilver.decoders.policies.noisy_probability import NoisyProbability
from quicksilver.experiments.study.setup import family_for
from quicksilver.models import AttentionPattern, DecodableTransformer

from tests.conftest import MASK_ID, ragged_requests, random_model

_PATTERNS = {"diffusion": models.Bidirectional(), "block_diffusion": models.BlockCausal(4),
             "autoregressive": models.Causal()}
PATH = Path(__file__).with_suffix(".json")
SEED, END_ID = 3, 5
COUNTS = ("denoise", "guided", "store", "row_steps", "finished_row_steps", "empty_row_steps", "tokens_committed",
          "tokens_remasked", "tokens_useful", "kv_store_bytes", "positions_computed", "keys_seen", "positions_queried",
          "flops", "bytes_read")
MAY_FALL = frozenset({"positions_queried", "flops", "bytes_read"})
"""Counts of the head, which runs at no more positions than may hold a mask."""
MAY_FALL_TOO = frozenset({"positions_computed", "keys_seen"})
"""Those of the cache that feeds what is masked, and padding up to what may be."""
_NAMES = {**vars(decoders), **vars(models), "NoisyProbability": NoisyProbability}

REQUESTS = {
    "ragged": ragged_requests(3, seed=SEED, block=4),
    "even": [Request.completing([row, *range(7)], 12, mask_id=MASK_ID, seed=row) for row in range(2)]}
"""Rows of different lengths, some of whose tokens are given; and rows of one length."""
OTHER_REQUESTS = {name: [replace(request, seed=request.seed + 100, tokens=[
    token if token == MASK_ID else (token + 1) % MASK_ID for token in request.tokens]) for request in requests]
    for name, requests in REQUESTS.items()}
"""Of the same shapes."""


@dataclass(frozen=True)
class Recorded:
    """A decoder and the attention of its model, as text, and what came out of it: hashes of the completions and of the
    trace, and the counts in the order of COUNTS."""

    requests: str
    decoder: str
    pattern: str
    tokens: str
    trace: str
    counts: list[int]

    @classmethod
    def of(cls, requests: str, decoder: Decoder, pattern: AttentionPattern,
           kind: type[DecodableTransformer] = DecodableTransformer, runner: StepRunner | None = None) -> "Recorded":
        model = _model(pattern, kind)
        generation = generate(model, decoder, REQUESTS[requests], runner=runner)
        changes = [[step.window, step.index, [[change.row, change.positions, change.tokens, change.remasked]
                                              for change in step.changes]] for step in generation.trace.steps]
        counts = generation.accounting.to_json(model)
        counts |= {kind: generation.accounting.forwards[kind] for kind in ("denoise", "guided", "store")}
        return cls(requests, repr(decoder), repr(pattern), _hash([one.tokens for one in generation.completions]),
                   _hash(changes), [counts[name] for name in COUNTS])

    @property
    def num_steps(self) -> int:
        counts = self.named()
        return counts["denoise"] + counts["guided"]

    def again(self, kind: type[DecodableTransformer] = DecodableTransformer, **parts: type) -> "Recorded":
        """The same decode now, by a model of this kind; `parts` are those that a study adds to the decoders' own."""
        return Recorded.of(self.requests, _built(self.decoder, parts), _built(self.pattern, parts), kind)

    def captured(self, *, compiles: bool = False) -> tuple["Recorded", CapturedSteps]:
        """The same decode by steps that were captured, or compiled, in three decodes of other requests before, and what
        captured them."""
        decoder, pattern = _built(self.decoder, {}), _built(self.pattern, {})
        runner = CapturedSteps(decoder, compiles=compiles)
        for _ in range(3):
            generate(_model(pattern, DecodableTransformer), decoder, OTHER_REQUESTS[self.requests], runner=runner)
        return Recorded.of(self.requests, decoder, pattern, runner=runner), runner

    def check(self, found: "Recorded") -> None:
        """AssertionError unless the decode found now has the tokens, trace and counts recorded, but for counts that may
        fall."""
        assert (found.tokens, found.trace) == (self.tokens, self.trace)
        before, now = self.named(), found.named()
        assert {name for name in now if now[name] != before[name]} <= self.may_fall, (before, now)
        assert all(now[name] <= before[name] for name in now), (before, now)

    def named(self) -> dict[str, int]:
        """The counts by name."""
        return dict(zip(COUNTS, self.counts, strict=True))

    @property
    def may_fall(self) -> frozenset[str]:
        """The counts that may be smaller now."""
        return MAY_FALL | MAY_FALL_TOO if "cache=Delayed" in self.decoder else MAY_FALL


def _built(text: str, parts: Mapping[str, type]) -> Any:
    return eval(text, {"__builtins__": {}}, {**_NAMES, **parts})


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:10]


@lru_cache
def _model(pattern: AttentionPattern, kind: type[DecodableTransformer]) -> DecodableTransformer:
    model = random_model(pattern, SEED)
    return kind(model.transformer.double(), model.spec.mask_id, model.spec.shift)


def read(path: Path = PATH) -> Mapping[str, Recorded]:
    """What was recorded, by name."""
    return {name: Recorded(*values) for name, values in json.loads(path.read_text()).items()}


def write(path: Path, decodes: Mapping[str, Recorded]) -> None:
    """A line a decode, as `read` reads them."""
    lines = [f"{json.dumps(name)}: {json.dumps([*vars(recorded).values()])}" for name, recorded in decodes.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _presets() -> Iterator[tuple[str, Decoder, AttentionPattern]]:
    """Every preset, and the attention of the model that it drives."""
    for name, make in sorted(presets.PRESETS.items()):
        decoder = make()
        yield name, decoder, _PATTERNS[family_for(decoder)]


def _all() -> Iterator[tuple[str, str, Decoder, AttentionPattern]]:
    """Name, requests, decoder and attention of all that is recorded."""
    from tests.decoders.combinations import ENDING, GUIDED, PAIRS

    for name, decoder, pattern in _presets():
        yield f"preset {name}, ragged", "ragged", decoder, pattern
        yield f"preset {name}, even, end token", "even", replace(decoder, end_id=END_ID), pattern
    for number, combination in enumerate((*PAIRS, *ENDING, GUIDED)):
        yield str(combination), ("ragged", "even")[number % 2], combination.decoder, combination.pattern


if __name__ == "__main__":
    write(PATH, {name: Recorded.of(requests, decoder, pattern) for name, requests, decoder, pattern in _all()})
