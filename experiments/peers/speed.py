"""Interleaved times of two engines on the same weights, and what explains them: positions computed, and the share of
our decode spent outside the model's forward and the token statistics.

    tokens/s = new tokens / seconds of a decode;   ratio = median over rounds of (their seconds / our seconds)
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...decoders import Accounting, Decoder, Request
from ...kernels.token_statistics import StatisticsRequest, TokenStatistics
from ...models import Bidirectional, DecodableTransformer, KVStore, ModelSpec, Plan, Shape
from ..harness.records import describe
from .agreement import interleaved, random_transformer
from .base import Comparison, Timing
from .own_engines import own_engines, timed_engines, unpacked


@dataclass(frozen=True)
class Setting:
    """The decode: by default a LLaDA shape of 20M parameters, 224 new tokens after 32, in blocks of 32 with 8 steps per
    block."""

    shape: Shape = field(default_factory=lambda: Shape(width=384, num_layers=8, num_heads=6, num_kv_heads=6,
                                                       ffn_width=1024, position_table=False))
    vocab_size: int = 8192
    prompt_length: int = 32
    num_new: int = 224
    block: int = 32
    steps: int = 56
    rounds: int = 9

    @property
    def name(self) -> str:
        return f"{self.num_new} tokens after {self.prompt_length}, blocks of {self.block}, {self.steps} steps"

    @property
    def steps_per_block(self) -> int:
        return self.steps * self.block // self.num_new

    def model(self) -> DecodableTransformer:
        transformer = random_transformer(self.shape, self.vocab_size, self.prompt_length + self.num_new,
                                         Bidirectional(), seed=0)
        return DecodableTransformer(transformer, self.vocab_size - 1)

    def prompt(self) -> list[int]:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, self.vocab_size - 1, (self.prompt_length,), generator=generator).tolist()


def in_bfloat16(model: DecodableTransformer) -> DecodableTransformer:
    """The same model with its weights rounded to bfloat16; RoPE tables stay float32."""
    transformer = copy.deepcopy(model.transformer)
    for parameter in transformer.parameters():
        parameter.data = parameter.data.bfloat16()
    return replace(model, transformer=transformer)


@dataclass(frozen=True)
class OtherEngine:
    """A peer's decode of the setting's prompt, and the numbers of positions that it feeds and queries."""

    name: str
    decode: Callable[[], list[int]]
    num_fed: int
    num_queried: int


def dtype_of(model: DecodableTransformer) -> str:
    return str(model.transformer.head.weight.dtype).removeprefix("torch.")


def compare_speed(name: str, setting: Setting, decoder: Decoder, model: DecodableTransformer,
                  other: Callable[[DecodableTransformer], OtherEngine], target: float | None = None
                  ) -> Comparison[Timing]:
    """The comparison that times our decoder and a peer's on the model."""
    of = {"setting": describe(setting), "decoder": describe(decoder), "dtype": dtype_of(model)}
    return Comparison(name, f"times, {dtype_of(model)}, {setting.name}", of,
                      lambda: measured_speed(setting, decoder, model, other, target))


def measured_speed(setting: Setting, decoder: Decoder, model: DecodableTransformer,
                   others: Callable[[DecodableTransformer], OtherEngine], target: float | None) -> Timing:
    """The measured comparison, of packed products and of F.linear's on both sides, where the peer runs our model.
    Tokens may differ with 16-bit weights, since engines round differently; not with float32."""
    other = others(model)
    request = Request.completing(setting.prompt(), setting.num_new, mask_id=model.mask_id)
    turns = interleaved(lambda: decoder.decode(model, [request]), other.decode, setting.rounds)
    dtype = dtype_of(model)
    same = decoder.decode(model, [request])[0].tokens == other.decode()
    ours, theirs = setting.num_new / turns.own, setting.num_new / turns.peer
    counts, (share, step_ms) = accounted(decoder, model, request), outside(decoder, model, request)
    engines, of_engines = timed_engines(own_engines(decoder, model, request), other.decode, setting.rounds)
    if model.transformer.is_packed:
        plain = unpacked(model)
        by_linear, of_linear = timed_engines(own_engines(decoder, plain, request, ("none",)), others(plain).decode,
                                             setting.rounds)
        engines, of_engines = f"{engines}\n{by_linear}", of_engines | of_linear
    aim = "" if target is None else f" (aim: {target:g})"
    text = (f"{other.name}, {dtype}, {setting.name}: ours {ours:.1f} tokens/s, theirs {theirs:.1f}, ratio "
            f"{turns.ratio:.2f}{aim}; tokens {'identical' if same else 'differ'}\n"
            f"    positions computed: ours {counts['positions_computed']}, theirs {other.num_fed}; with logits: "
            f"ours {counts['positions_queried']}, theirs {other.num_queried}; {step_ms:.2f} ms a step of ours, "
            f"{share:.1%} of it neither forward nor token statistics (aim: at most 10 %)\n{engines}")
    figures = turns.to_json() | {
        "dtype": dtype, "tokens_same": same, "ours_tokens_per_second": ours, "theirs_tokens_per_second": theirs,
        "ours_positions_computed": counts["positions_computed"], "theirs_positions_computed": other.num_fed,
        "ours_positions_queried": counts["positions_queried"], "theirs_positions_queried": other.num_queried,
        "ours_step_ms": step_ms, "ours_share_outside": share, "engines": of_engines}
    return Timing(text, figures, same or dtype != "float32")


def accounted(decoder: Decoder, model: DecodableTransformer, request: Request) -> dict[str, int]:
    """The accounting of our decode."""
    decoding = decoder.begin(model, [request])
    for _ in decoder.stream(decoding):
        pass
    accounting: Accounting = decoding.accounting
    return accounting.to_json(model)


@dataclass
class Stopwatch:
    """A LanguageModel that adds up the seconds inside another's forward and statistics."""

    base: DecodableTransformer
    seconds: float = 0.0

    @property
    def spec(self) -> ModelSpec:
        return self.base.spec

    def new_store(self, num_rows: int, length: int) -> KVStore:
        return self.base.new_store(num_rows, length)

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        began = time.perf_counter()
        hidden_BQE = self.base.hidden(tokens_BS, plan, store)
        self.seconds += time.perf_counter() - began
        return hidden_BQE

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> TokenStatistics:
        began = time.perf_counter()
        statistics = self.base.statistics(hidden_BQE, request)
        self.seconds += time.perf_counter() - began
        return statistics

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        return self.base.forward_cost(num_fed, num_keys_seen, num_queried, num_stored_read)


def outside(decoder: Decoder, model: DecodableTransformer, request: Request, repeats: int = 5) -> tuple[float, float]:
    """Median share of a decode spent outside the forward and the statistics, and milliseconds per step, after one
    warm-up decode. Valid on a CPU only: GPU calls are asynchronous."""
    found = []
    for _ in range(repeats + 1):
        watch, num_steps = Stopwatch(model), 0
        began = time.perf_counter()
        decoding = decoder.begin(watch, [request])
        for _ in decoder.stream(decoding):
            num_steps += 1
        decoder.completions(decoding)
        total = time.perf_counter() - began
        found.append((1 - watch.seconds / total, 1e3 * total / num_steps))
    return sorted(found[1:])[repeats // 2]
