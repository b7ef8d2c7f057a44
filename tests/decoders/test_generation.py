"""What users call against the loop that it drives."""

import tracemalloc
from collections import UserDict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from quicksilver.decoders import (
    Append,
    Blocks,
    Categorical,
    Decoder,
    Greedy,
    Leftmost,
    Linear,
    RandomOrder,
    Recompute,
    Request,
    Tokenizer,
    TopProbability,
    Whole,
    generate,
    presets,
    stream_generate,
)
from quicksilver.models import Bidirectional, BlockCausal, Causal, KVStore, LogitsFunction, Plan
from torch import Tensor

from tests.conftest import MASK_ID, TableModel, random_model

MODEL = TableModel(Bidirectional(), seed=3)
CONFIDENT = Decoder(Whole(), Linear(3), Greedy(), TopProbability(), Recompute())
DRAWN = Decoder(Whole(), Linear(2), Categorical(1.0), RandomOrder(), Recompute())
PROMPTS = [[1, 2, 3], [4], [5, 6]]


class Letters:
    """Token 0 is "a", 1 is "b", ...; the mask is "?"."""

    def encode(self, text: str) -> list[int]:
        return [MASK_ID if letter == "?" else ord(letter) - ord("a") for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids)


def test_generating_is_decoding_and_counts_and_traces_it() -> None:
    requests = [Request.completing(prompt, 6, mask_id=MASK_ID, seed=seed) for seed, prompt in enumerate(PROMPTS)]
    generation = generate(MODEL, DRAWN, PROMPTS, num_new=6)
    assert generation.completions == DRAWN.decode(MODEL, requests)
    assert generation.trace.replay() == [completion.tokens for completion in generation.completions]
    assert generation.accounting.tokens_useful == 18
    assert generation.accounting.forwards == {"denoise": 2}
    assert generation.texts is None


def test_text_in_is_text_out() -> None:
    generation = generate(MODEL, CONFIDENT, ["bcd", "e"], num_new=6, tokenizer=Letters())
    by_tokens = generate(MODEL, CONFIDENT, PROMPTS[:2], num_new=6)
    assert generation.completions == by_tokens.completions
    assert generation.texts == [Letters().decode(completion.completion) for completion in by_tokens.completions]


def test_the_end_token_is_in_the_completion_and_not_in_the_text() -> None:
    model = TableModel(Causal(), seed=4)
    free = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Append())
    tokens = generate(model, free, [[1]], num_new=12).completions[0].completion
    end_id = tokens[5]
    first = tokens.index(end_id)
    stopping = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Append(), end_id)
    generation = generate(model, stopping, ["b"], num_new=12, tokenizer=Letters())
    assert generation.completions[0].completion == tokens[: first + 1]
    assert generation.texts == [Letters().decode(tokens[:first])]
    assert len(generation.trace.steps) == first + 1


def test_blanks_are_filled_where_they_stand() -> None:
    generation = generate(MODEL, CONFIDENT, ["b?d??a", Request([3, MASK_ID, MASK_ID], start=1)], tokenizer=Letters())
    filled, completed = generation.completions
    assert [filled.tokens[place] for place in (0, 2, 5)] == [1, 3, 0]
    assert MASK_ID not in filled.tokens + completed.tokens
    assert completed.completion == completed.tokens[1:]
    assert generation.texts == [Letters().decode(filled.tokens), Letters().decode(completed.completion)]


def test_a_stream_tells_each_step_and_what_is_written_so_far() -> None:
    stream = stream_generate(MODEL, CONFIDENT, ["bcd", "e"], num_new=6, tokenizer=Letters())
    updates = list(stream)
    generation = stream.finish()
    assert [update.step for update in updates] == list(generation.trace.steps)
    blanks = [[text.count("_") for text in update.texts or []] for update in updates]
    assert blanks == [[4, 4], [2, 2], [0, 0]]
    assert updates[-1].texts == generation.texts
    for update, canvas in zip(updates, list(generation.trace.canvases())[1:], strict=True):
        shown = [Letters().decode(row[start:]).replace(chr(ord("a") + MASK_ID), "_")
                 for row, start in zip(canvas, (3, 1), strict=True)]
        assert update.texts == shown


def test_a_stream_may_be_left_and_finished() -> None:
    stream = stream_generate(MODEL, DRAWN, PROMPTS, num_new=6)
    for update in stream:
        assert update.texts is None
        break
    assert stream.finish() == generate(MODEL, DRAWN, PROMPTS, num_new=6)
    assert list(stream) == []
    assert len(stream.finish().trace.steps) == 2


def test_seeds_belong_to_prompts() -> None:
    forward = generate(MODEL, DRAWN, PROMPTS, num_new=9, seeds=[7, 8, 9])
    backward = generate(MODEL, DRAWN, PROMPTS[::-1], num_new=9, seeds=[9, 8, 7])
    assert forward.completions == backward.completions[::-1]
    twice = generate(MODEL, DRAWN, PROMPTS[:1] * 2, num_new=9)
    assert twice.completions[0] != twice.completions[1]


@pytest.mark.parametrize("prompts", [np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int32),
                                     torch.tensor([[1, 2, 3], [4, 5, 6]]),
                                     [torch.tensor([1, 2, 3]), (4, np.int64(5), 6)], iter([range(1, 4), [4, 5, 6]])],
                         ids=lambda prompts: type(prompts).__name__)
def test_prompts_and_seeds_may_come_from_any_library(prompts: Any) -> None:
    rng = np.random.default_rng(0)
    seeds = rng.integers(10, size=2)
    num_new: Any = np.int64(6)
    found = generate(MODEL, DRAWN, prompts, num_new=num_new, seeds=seeds)
    wanted = generate(MODEL, DRAWN, [[1, 2, 3], [4, 5, 6]], num_new=6, seeds=seeds.tolist())
    assert found == wanted
    assert type(found.completions[0].tokens[0]) is int


def test_what_a_prompt_and_an_answer_do_not_fit_in_is_not_built() -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match="max_length is 24"):
        generate(MODEL, CONFIDENT, [[1, 2]], num_new=10**7)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


@pytest.mark.parametrize("decoder", [presets.sdar_static(block=4, steps=2), presets.llada2(block=4, tau=0.3)], ids=str)
def test_prompts_of_any_length_are_decoded_to_a_blocks_edge_and_cut(decoder: Decoder) -> None:
    """Each row as if it were alone and asked for as many tokens as reach the edge, on which all depend."""
    model, prompts = random_model(BlockCausal(4)), [[1], [2, 3], [4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]]
    for num_new in (1, 4, 6):
        found = generate(model, decoder, prompts, num_new=num_new)
        edges = [-(-(len(prompt) + num_new) // 4) * 4 for prompt in prompts]
        for row, prompt, edge in zip(found.completions, prompts, edges, strict=True):
            alone = generate(model, decoder, [prompt], num_new=edge - len(prompt))
            assert row.tokens == alone.completions[0].tokens
            assert row.completion == alone.completions[0].completion[:num_new]
            assert alone.accounting.tokens_cut == 0
        counts = found.accounting
        assert counts.tokens_useful == 4 * num_new
        assert counts.tokens_cut == sum(edges) - sum(map(len, prompts)) - 4 * num_new
        assert counts.tokens_committed == counts.tokens_useful + counts.tokens_cut


def test_a_stream_shows_no_more_than_was_asked_for_and_what_ends_beyond_it_is_cut() -> None:
    model, decoder = random_model(BlockCausal(4)), presets.sdar_static(block=4, steps=2)
    stream = stream_generate(model, decoder, ["b", "cde"], num_new=5, tokenizer=Letters())
    updates, found = list(stream), stream.finish()
    assert found.texts is not None
    assert [len(text) for text in updates[-1].texts or []] == [len(text) for text in found.texts] == [5, 5]
    whole = found.completions[0].tokens
    ended = generate(model, replace(decoder, end_id=whole[6]), [[1]], num_new=5).completions[0]
    assert ended.completion == whole[1:6] if whole[6] not in whole[1:6] else ended.completion[-1] == whole[6]
    cut = generate(model, replace(decoder, end_id=whole[3]), [[1]], num_new=5)
    assert cut.completions[0].completion == whole[1 : whole.index(whole[3], 1) + 1]
    assert cut.accounting.tokens_useful + cut.accounting.tokens_cut == cut.accounting.tokens_committed


def test_an_edge_past_the_models_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a canvas of 28 tokens: the model's max_length is 24"):
        generate(random_model(BlockCausal(7)), presets.sdar_static(block=7, steps=2), [[1, 2]], num_new=20)


class Talking(Letters):
    """Its template: a role's first letter, then what it said; last the letter of who answers."""

    def apply_chat_template(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> list[int]:
        assert add_generation_prompt
        return self.encode("".join(message["role"][0] + message["content"] for message in messages) + "a")


class Wrapped(Talking):
    def apply_chat_template(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> Any:
        """As transformers from version 5 on."""
        return UserDict(input_ids=super().apply_chat_template(messages, add_generation_prompt))


class Untold(Talking):
    chat_template = None


@pytest.mark.parametrize("tokenizer", [Talking(), Wrapped()], ids=lambda tokenizer: type(tokenizer).__name__)
def test_chat_messages_go_through_the_tokenizers_template(tokenizer: Tokenizer) -> None:
    chat = [{"role": "bot", "content": "cd"}, {"role": "fee", "content": "g"}]
    found = generate(MODEL, CONFIDENT, [chat, "bcdfga"], num_new=6, tokenizer=tokenizer)
    assert found.completions[0] == found.completions[1]
    assert found.trace.given[0][:6] == (1, 2, 3, 5, 6, 0)


def test_chat_messages_need_a_template() -> None:
    for tokenizer in (Letters(), Untold()):
        with pytest.raises(ValueError, match=r"chat messages \[.*\] with tokenizer=.*: need a tokenizer with"):
            generate(MODEL, CONFIDENT, [[{"role": "b", "content": "c"}]], num_new=6, tokenizer=tokenizer)


@dataclass(frozen=True)
class Interrupted(TableModel):
    """A model whose forward number `at` is broken off, as by Ctrl-C."""

    at: int = 1
    forwards: list[int] = field(default_factory=list)

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        self.forwards.append(len(self.forwards))
        if len(self.forwards) == self.at + 1:
            raise KeyboardInterrupt
        return super().hidden(tokens_BS, plan, store)

    def __hash__(self) -> int:
        return id(self)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_run_that_was_broken_off_in_a_step_is_not_taken_for_a_finished_one(at: int) -> None:
    stream = stream_generate(Interrupted(Bidirectional(), at=at), CONFIDENT, PROMPTS, num_new=6)
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"broken off in step {at} by KeyboardInterrupt\(\)") as raised:
            stream.finish()
        assert isinstance(raised.value.__cause__, KeyboardInterrupt)
    with pytest.raises(RuntimeError, match="broken off"):
        list(stream)


def test_a_run_whose_logits_are_not_finite_is_broken_off_at_once() -> None:
    model = LogitsFunction(lambda tokens_BL: torch.full((*tokens_BL.shape, 11), torch.nan), MASK_ID, 11, 24)
    stream = stream_generate(model, CONFIDENT, PROMPTS[:1], num_new=6)
    with pytest.raises(FloatingPointError, match="non-finite logits at position 3 of request 0"):
        next(iter(stream))
    with pytest.raises(RuntimeError, match="broken off in step 0 by FloatingPointError"):
        stream.finish()


def test_a_run_that_its_consumer_broke_off_goes_on() -> None:
    """By an exception of the consumer's, by closing the iterator, or by an update's text that cannot be decoded."""
    whole = generate(MODEL, DRAWN, PROMPTS, num_new=6)
    stream = stream_generate(MODEL, DRAWN, PROMPTS, num_new=6)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        for _ in stream:
            raise KeyboardInterrupt
    assert stream.finish() == whole

    stream = stream_generate(MODEL, DRAWN, PROMPTS, num_new=6)
    updates: Any = iter(stream)
    next(updates)
    updates.close()
    assert len(list(stream)) == 1
    assert stream.finish() == whole

    class Forgetful(Letters):
        def decode(self, ids: list[int]) -> str:
            if MASK_ID not in ids and broken:
                raise LookupError(broken.pop())
            return super().decode(ids)

    broken = ["once"]
    stream = stream_generate(MODEL, DRAWN, PROMPTS, num_new=6, tokenizer=Forgetful())
    with pytest.raises(LookupError):
        list(stream)
    assert stream.finish().completions == whole.completions


class Tensors(Letters):
    def encode(self, text: str) -> Any:
        return tuple(super().encode(text))


@pytest.mark.parametrize(("arguments", "message"), [
    ({"prompts": "bcd", "num_new": 2}, "prompts='bcd': must be a list of prompts"),
    ({"prompts": [], "num_new": 2}, "at least one request"),
    ({"prompts": ["bcd"], "num_new": 2}, "prompt 'bcd' with tokenizer=None"),
    ({"prompts": ["bcd"], "num_new": 2, "tokenizer": Tensors()}, "must return a list of token ids, not a tuple"),
    ({"prompts": [1, 2, 3], "num_new": 2}, "prompt 1: must be a string, a list of token ids, a list of chat messages"),
    ({"prompts": [[[1, 2]]], "num_new": 2}, r"prompt \[\[1, 2\]\]: must be .* \(prompt\[0\]=\[1, 2\]: must be"),
    ({"prompts": [["a", "b"]], "num_new": 2}, r"prompt \['a', 'b'\]: must be"),
    ({"prompts": [[1.0, 2.0]], "num_new": 2}, r"prompt \[1.0, 2.0\]: must be"),
    ({"prompts": [[True]], "num_new": 2}, r"prompt \[True\]: must be"),
    ({"prompts": [b"ab"], "num_new": 2}, "prompt b'ab': must be"),
    ({"prompts": [None], "num_new": 2}, "prompt None: must be"),
    ({"prompts": [torch.tensor([[1, 2]])], "num_new": 2}, r"prompt tensor\(\[\[1, 2\]\]\): must be"),
    ({"prompts": [{"input_ids": [1, 2]}], "num_new": 2}, r"prompt \{'input_ids': \[1, 2\]\}: must be"),
    ({"prompts": [[1, 2**64]], "num_new": 2}, r"prompt\[1\]=18446744073709551616: must be an integer"),
    ({"prompts": {"a": 1}, "num_new": 2}, r"prompts=\{'a': 1\}: must be a list of prompts"),
    ({"prompts": 5, "num_new": 2}, "prompts=5: must be a list of prompts"),
    ({"prompts": np.array(5), "num_new": 2}, r"prompts=array\(5\): must be a list of prompts"),
    ({"prompts": Request([1, MASK_ID]), "num_new": 2}, "prompts=Request.*: must be a list of prompts"),
    ({"prompts": [[{"role": "user", "content": "hi"}]], "num_new": 2}, "tokenizer=None: need a tokenizer with a chat"),
    ({"prompts": [[{"text": "hi"}]], "num_new": 2}, r"chat message \{'text': 'hi'\}: must have a role and content"),
    ({"prompts": [[1, 2]], "num_new": 10**9}, "a canvas of 1000000002 tokens: the model's max_length is 24"),
    ({"prompts": [[1, 2]], "num_new": 2.0}, "num_new=2.0: must be an integer"),
    ({"prompts": [[1, 2]], "num_new": 2, "seeds": 3}, "seeds=3: must be a list of integers"),
    ({"prompts": [[1, 2]], "num_new": 2, "seeds": [0.5]}, r"seeds\[0\]=0.5: must be an integer"),
    ({"prompts": [[1, 2]], "num_new": 2, "seeds": [2**63]}, r"seeds\[0\]=9223372036854775808: .* fits 64 bits"),
    ({"prompts": [[1, 2]]}, f"with num_new=0: must hold the mask id {MASK_ID}"),
    ({"prompts": [[1, 2]], "num_new": -1}, "num_new=-1"),
    ({"prompts": [[1, 2]], "num_new": 2, "seeds": [1, 2]}, r"seeds=\[1, 2\]: must be as many as the 1 prompts"),
    ({"prompts": [[1, 2]], "num_new": 2, "seeds": [-1]}, r"seeds\[0\]=-1: must be an integer of at least 0"),
    ({"prompts": [[1, 99]], "num_new": 2}, "token id 99"),
    ({"prompts": [[1, 2]], "num_new": 40}, "a canvas of 42 tokens"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_generated_is_refused(arguments: dict[str, Any], message: str) -> None:
    prompts = arguments.pop("prompts")
    with pytest.raises(ValueError, match=message):
        generate(MODEL, CONFIDENT, prompts, **arguments)
