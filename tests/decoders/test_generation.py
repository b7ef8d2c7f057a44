"""What users call against the loop that it drives."""

from typing import Any

import pytest
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
    TopProbability,
    Whole,
    generate,
    stream_generate,
)
from quicksilver.models import Bidirectional, Causal

from tests.conftest import MASK_ID, TableModel

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


class Tensors(Letters):
    def encode(self, text: str) -> Any:
        return tuple(super().encode(text))


@pytest.mark.parametrize(("arguments", "message"), [
    ({"prompts": "bcd", "num_new": 2}, "prompts='bcd': must be a list of prompts"),
    ({"prompts": [], "num_new": 2}, "at least one request"),
    ({"prompts": ["bcd"], "num_new": 2}, "prompt 'bcd' with tokenizer=None"),
    ({"prompts": ["bcd"], "num_new": 2, "tokenizer": Tensors()}, "must return a list of token ids, not a tuple"),
    ({"prompts": [1, 2, 3], "num_new": 2}, "prompt 1: must be a string, a list of token ids or a Request"),
    ({"prompts": [[1, 2]]}, f"with num_new=0: must hold the mask id {MASK_ID}"),
    ({"prompts": [[1, 2]], "num_new": -1}, "num_new=-1"),
    ({"prompts": [[1, 2]], "num_new": 2, "seeds": [1, 2]}, r"seeds=\[1, 2\]: must be as many as the 1 prompts"),
    ({"prompts": [[1, 2]], "num_new": 2, "seeds": [-1]}, "seed=-1"),
    ({"prompts": [[1, 99]], "num_new": 2}, "token id 99"),
    ({"prompts": [[1, 2]], "num_new": 40}, "a canvas of 42 tokens"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_generated_is_refused(arguments: dict[str, Any], message: str) -> None:
    prompts = arguments.pop("prompts")
    with pytest.raises(ValueError, match=message):
        generate(MODEL, CONFIDENT, prompts, **arguments)
