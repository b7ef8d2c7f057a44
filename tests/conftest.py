"""Small models and a table model that every test can afford."""

import hashlib
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

# Two workers on two cores: threads of theirs would spin against each other. Read by libgomp as torch loads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import torch

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

import numpy as np
import pytest
from quicksilver.decoders import Request
from quicksilver.experiments.harness.interrupts import interrupt_once
from quicksilver.experiments.peers import agreement
from quicksilver.kernels.token_statistics import StatisticsRequest, TokenStatistics, token_statistics
from quicksilver.models import (
    AttentionPattern,
    Bidirectional,
    BlockCausal,
    Causal,
    DecodableTransformer,
    KVStore,
    ModelSpec,
    Plan,
    Shape,
    Transformer,
)
from torch import Tensor

VOCAB_SIZE, MASK_ID, MAX_LENGTH = 11, 10, 24


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the pages in place of comparing with them")


def pytest_configure(config: pytest.Config) -> None:
    """A run that is cut sums up what ran: it is interrupted once, and its workers end at once."""
    if hasattr(config, "workerinput"):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    else:
        interrupt_once()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Nothing interrupts the summary, and a run that is cut does not wait for workers that still begin."""
    if hasattr(session.config, "workerinput"):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    distribution: Any = session.config.pluginmanager.getplugin("dsession")
    if distribution is not None and exitstatus == pytest.ExitCode.INTERRUPTED:
        distribution.nodemanager.EXIT_TIMEOUT = 1


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Hold a page to the file of that name in the test's folder golden/. Images are left out, since they differ with
    the versions of other libraries; --update-golden writes the file anew."""

    def compare(name: str, page: str) -> None:
        path = request.path.parent / "golden" / name
        shown = re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,", page)
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(shown)
        assert shown == path.read_text()

    return compare


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the models are too small to gain from more


def random_transformer(attention: AttentionPattern, seed: int = 0, **shape: Any) -> Transformer:
    """A small transformer whose decisions are separated."""
    small = replace(Shape(width=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_width=48), **shape)
    return agreement.random_transformer(small, VOCAB_SIZE, MAX_LENGTH, attention, seed)


def random_model(attention: AttentionPattern, seed: int = 0, **shape: Any) -> DecodableTransformer:
    return DecodableTransformer(random_transformer(attention, seed, **shape), MASK_ID, shift=int(attention == Causal()))


def ragged_requests(num: int, seed: int = 0, block: int = 1) -> list[Request]:
    """Prompts and completions of different lengths, multiples of `block`, with some tokens of the completion given."""
    rng = np.random.default_rng(seed)
    requests = []
    for row in range(num):
        start, count = block * int(rng.integers(1, 8 // block + 1)), block * int(rng.integers(1, 12 // block + 1))
        tokens = rng.integers(0, MASK_ID, size=start + count)
        wanted = np.arange(start + count) >= start
        wanted &= (rng.random(start + count) < 0.8) | (np.arange(start + count) == start + count - 1)
        requests.append(Request(np.where(wanted, MASK_ID, tokens).tolist(), start, seed=1000 * seed + row))
    return requests


@dataclass(frozen=True)
class TableModel:
    """A LanguageModel whose logits are looked up from a hash of the row's visible tokens and the position, so that they
    cannot depend on the batch. Hidden states are the logits."""

    pattern: AttentionPattern
    seed: int = 0
    mask_id: int = MASK_ID
    vocab_size: int = VOCAB_SIZE
    max_length: int = MAX_LENGTH

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(self.mask_id, int(self.pattern == Causal()), self.vocab_size, self.max_length, self.pattern,
                         torch.device("cpu"), materializes_logits=True)

    def new_store(self, num_rows: int, length: int) -> KVStore:
        return KVStore.empty(num_layers=1, num_rows=num_rows, length=length, num_kv_heads=1, head_width=1,
                             like=torch.zeros(()))

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        length = tokens_BS.shape[1] - 1
        rows = [[self._logits(tuple(tokens[:length]), position, length) for position in positions]
                for tokens, positions in zip(tokens_BS.tolist(), plan.query_BQ.tolist(), strict=True)]
        return torch.tensor(np.array(rows)).float().view(*plan.query_BQ.shape, self.vocab_size)

    @lru_cache(maxsize=2**16)  # noqa: B019  one table serves the whole run
    def _logits(self, tokens: tuple[int, ...], position: int, length: int) -> np.ndarray:
        if position >= length:
            return np.zeros(self.vocab_size)
        if self.pattern == Causal():
            seen = tokens[:position]
        elif isinstance(self.pattern, BlockCausal):
            seen = tokens[: (position // self.pattern.block + 1) * self.pattern.block]
        else:
            seen = tokens
            while seen and seen[-1] == 0:  # padding of a shorter row: the canvas fills it with zeros
                seen = seen[:-1]
        digest = hashlib.sha256(repr((self.seed, position, list(seen))).encode()).digest()
        return 3 * np.random.default_rng(int.from_bytes(digest[:8])).normal(size=self.vocab_size)

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> TokenStatistics:
        logits_BQV = hidden_BQE.clone()
        logits_BQV[..., self.mask_id] = -torch.inf
        return token_statistics(logits_BQV, request)

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        return 0, 0


PATTERNS = {"bidirectional": Bidirectional(), "causal": Causal(), "block_causal": BlockCausal(4)}
