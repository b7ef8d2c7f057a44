"""Stop strings are found wherever they begin and end in tokens, and what is decoded after them is waste."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.decoders import (
    Blocks,
    CapturedSteps,
    Decoder,
    Greedy,
    Leftmost,
    Linear,
    RandomOrder,
    Recompute,
    Request,
    Whole,
    generate,
    stream_generate,
)
from quicksilver.decoders.stop_strings import StopStrings
from quicksilver.models import Causal

from tests.conftest import VOCAB_SIZE, TableModel

from .test_texts import Bytes, Pieces, writing

ONE_BY_ONE = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Recompute())
PIECES = ["a", "b", "ab", "ba", " a", "\u00e9", "\u20ac!", "bb ", "a\n", "\n"]


class Chunks:
    """Tokens of several characters; the last id is the mask."""

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: list[int]) -> str:
        return "".join(PIECES[token] for token in ids)


def written(tokens: list[int], stop: list[str], decoder: Decoder = ONE_BY_ONE, end_id: int | None = None) -> Any:
    """A row in which a model writes these tokens, whatever it sees."""
    model = writing([0, *tokens], len(PIECES) + 1)
    stream = stream_generate(model, replace(decoder, end_id=end_id), [Request([0, *[len(PIECES)] * len(tokens)], 1)],
                             tokenizer=Chunks(), stop=stop)
    updates = [update.texts[0] for update in stream if update.texts]
    return stream.finish(), updates


@settings(deadline=None, max_examples=200)
@given(tokens=st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=12),
       stop=st.lists(st.text("ab \u00e9\n!", min_size=1, max_size=4), max_size=3), size=st.integers(1, 4))
def test_a_completion_ends_before_the_first_of_them_wherever_tokens_are_cut(
        tokens: list[int], stop: list[str], size: int) -> None:
    tokens = tokens[: len(tokens) // size * size]
    if not tokens:
        return
    text = Chunks().decode(tokens)
    places = [text.find(string) for string in stop if string in text]
    # The token with which the text first holds one, as a search through every beginning finds it.
    wanted = next((number for number in range(1, len(tokens) + 1)
                   if any(string in Chunks().decode(tokens[:number]) for string in stop)), len(tokens))
    for decoder in (replace(ONE_BY_ONE, windows=Blocks(size), schedule=Linear(size)),
                    replace(ONE_BY_ONE, windows=Blocks(size), schedule=Linear(1), policy=RandomOrder()),
                    Decoder(Whole(), Linear(2), Greedy(), RandomOrder(), Recompute())):
        found, updates = written(tokens, stop, decoder)
        assert found.texts == [text[: min(places, default=len(text))]]
        assert found.completions[0].completion == tokens[:wanted]
        counts = found.accounting
        assert counts.tokens_useful == wanted
        assert counts.tokens_useful + counts.tokens_cut == counts.tokens_committed
        if isinstance(decoder.windows, Blocks):
            assert counts.tokens_committed == -(-wanted // size) * size
        assert updates[-1] == found.texts[0]
        if isinstance(decoder.policy, Leftmost):  # what a stream has shown stays
            shown = [update.rstrip("_") for update in updates]
            assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(shown))


class Letters:
    """Token 0 is "a", 1 is "b", ..."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids)


def test_a_row_leaves_the_batch_and_the_others_go_on() -> None:
    model, prompts = TableModel(Causal(), seed=4), [[1], [2], [3]]
    free = generate(model, ONE_BY_ONE, prompts, num_new=12, tokenizer=Letters())
    assert free.texts is not None
    stop = free.texts[1][3:5]
    found = generate(model, ONE_BY_ONE, prompts, num_new=12, tokenizer=Letters(), stop=[stop, "no such text"])
    assert found.texts == [text.partition(stop)[0] for text in free.texts]
    assert found.texts is not None
    assert len(found.texts[1]) <= 3
    assert found.accounting.tokens_cut == 0
    assert found.accounting.row_steps == sum(len(row.completion) for row in found.completions)
    runner = CapturedSteps(ONE_BY_ONE)
    for _ in range(2):
        assert generate(model, ONE_BY_ONE, prompts, num_new=12, tokenizer=Letters(), stop=[stop], runner=runner,
                        ).completions == found.completions


def test_texts_that_do_not_come_change_nothing() -> None:
    model = TableModel(Causal(), seed=4)
    free = generate(model, ONE_BY_ONE, ["b", "c"], num_new=12, tokenizer=Letters())
    assert generate(model, ONE_BY_ONE, ["b", "c"], num_new=12, tokenizer=Letters(), stop=["zz", "b" * 30]) == free


def test_a_prompts_own_text_stops_nothing_and_a_stop_string_begins_in_the_completion() -> None:
    model = writing([0, 1, 2, 3, 4, 5], VOCAB_SIZE)
    for prompt, text in (("a", "bcdef"), ("abc", "def")):
        found = generate(model, ONE_BY_ONE, [prompt], num_new=len(text), tokenizer=Letters(), stop=["ab", "cd"])
        assert found.texts == [text.partition("cd")[0]]


def test_whichever_comes_first_ends_a_row_the_end_token_or_the_text() -> None:
    tokens = [0, 1, 4, 0, 1, 1]
    assert written(tokens, ["bb"], end_id=4)[0].texts == ["ab"]
    for size in (1, 2, 3, 6):
        found, _ = written(tokens, [" a"], replace(ONE_BY_ONE, windows=Blocks(size)), end_id=1)
        assert found.completions[0].completion == [0, 1]
        found, _ = written(tokens, ["b a"], replace(ONE_BY_ONE, windows=Blocks(size)), end_id=0)
        assert found.completions[0].completion == [0]
        assert found.texts == [""]


def test_a_character_of_several_tokens_may_end_one() -> None:
    text = "x\u20acy\U0001f600z"
    model = writing([*b">", *text.encode()], 256)
    euro, smile = "\u20ac", "\U0001f600"
    for stop, before, num_tokens in ((euro, "x", 4), (smile, f"x{euro}y", 9), (f"y{smile}z", f"x{euro}", 10)):
        stream = stream_generate(model, ONE_BY_ONE, [">"], num_new=len(text.encode()), tokenizer=Bytes(), stop=[stop])
        shown = [update.texts[0] for update in stream if update.texts]
        found = stream.finish()
        assert found.texts == [before]
        assert len(found.completions[0].completion) == num_tokens
        assert all("\ufffd" not in text and stop not in text for text in shown)


def test_what_may_begin_one_is_not_shown_before_it_is_known() -> None:
    model = writing([0, 1, 2, 3, 1, 2, 4, 5], VOCAB_SIZE)
    stream = stream_generate(model, ONE_BY_ONE, ["a"], num_new=7, tokenizer=Letters(), stop=["bce"])
    assert [update.texts for update in stream] == [
        ["_______"], ["_______"], ["bcd____"], ["bcd____"], ["bcd____"], ["bcd"]]


def test_a_words_space_counts_as_the_text_reads() -> None:
    model = writing([0, 1, 2, 3, 0, 4], 9)
    found = generate(model, ONE_BY_ONE, ["the cat"], num_new=4, tokenizer=Pieces(), stop=[" on the"])
    assert found.texts == [" sat"]
    assert len(found.completions[0].completion) == 3


@pytest.mark.parametrize(("stop", "message"), [
    ("ab", "stop='ab': must be a list of texts, even of one"), (3, "stop=3: must be a list of texts"),
    (["a", ""], r"stop=\('a', ''\): '' must be a text of at least one character"),
    ([b"a"], r"stop=\(b'a',\): b'a' must be a text")], ids=str)
def test_what_is_no_text_is_refused(stop: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(TableModel(Causal()), ONE_BY_ONE, [[1]], num_new=4, tokenizer=Letters(), stop=stop)


def test_texts_need_a_tokenizer() -> None:
    with pytest.raises(ValueError, match=r"stop=\('a',\) with tokenizer=None: texts need a tokenizer"):
        generate(TableModel(Causal()), ONE_BY_ONE, [[1]], num_new=4, stop=["a"])
    assert StopStrings.of((), None).num_until([1], [2]) is None
