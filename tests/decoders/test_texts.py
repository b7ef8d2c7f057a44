"""Text of tokens in their context: spaces, characters of several tokens, and what is not decided yet."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from quicksilver.decoders import (
    Blocks,
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
from quicksilver.decoders.texts import continuation, with_blanks
from quicksilver.models import Bidirectional, Causal, LogitsFunction

PIECES = ["\u2581the", "\u2581cat", "\u2581sat", "\u2581on", "\u2581mat", "ting", ",", "</s>", "<mask>"]
THE, CAT, SAT, ON, MAT, TING, COMMA, END, MASK = range(9)


class Pieces:
    """As SentencePiece: a word begins with a space, which is dropped before the first piece of a text."""

    def encode(self, text: str) -> list[int]:
        return [PIECES.index(f"\u2581{word}") for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return "".join(PIECES[token] for token in ids).replace("\u2581", " ").removeprefix(" ")


class Bytes:
    """As byte-level BPE at its finest: a token is a byte, half a character reads as U+FFFD. 255 is the mask."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(("before", "tokens", "text"), [
    ([THE, CAT], [SAT, ON], " sat on"), ([THE, CAT], [TING], "ting"), ([], [SAT, ON], "sat on"), ([THE], [], ""),
    ([THE, SAT], [COMMA, THE], ", the")])
def test_a_continuation_keeps_its_first_space(before: list[int], tokens: list[int], text: str) -> None:
    assert continuation(Pieces(), before, tokens) == text


def test_a_character_that_a_prompt_began_belongs_to_its_continuation() -> None:
    one, two = "\u00e9".encode()
    assert continuation(Bytes(), [*b"caf", one], [two, *b"!"]) == "\u00e9!"
    assert continuation(Bytes(), b"caf", [one]) == "\ufffd"


@pytest.mark.parametrize(("prompt", "tokens", "text"), [
    ([THE, CAT], [MASK, MASK, SAT, MASK], "__ sat_"), ([THE, CAT], [SAT, MASK, TING, ON], " sat_ting on"),
    ([], [MASK, SAT, ON, MASK, MAT], "_ sat on_ mat"), ([], [THE, MASK, SAT], "the_ sat"), ([THE], [MASK] * 3, "___")])
def test_undecided_places_are_blanks_among_words(prompt: list[int], tokens: list[int], text: str) -> None:
    assert with_blanks(Pieces(), prompt, tokens, MASK) == text


def test_only_whole_characters_are_shown_in_whatever_order_their_bytes_come() -> None:
    written = "a\u00e9\u20ac\U0001f600b"
    whole = list(written.encode())
    prompts = (b"", b"xy", "\u00e9".encode(), bytes([0xC3]))
    for prompt, known in itertools.product(prompts, itertools.product([False, True], repeat=len(whole))):
        tokens = [token if is_known else 255 for token, is_known in zip(whole, known, strict=True)]
        shown = with_blanks(Bytes(), prompt, tokens, 255)
        assert "\ufffd" not in shown
        place = 0
        for character in written:
            size = len(character.encode())
            assert (character in shown) == all(known[place : place + size])
            place += size
        assert shown.count("_") >= known.count(False)
    assert with_blanks(Bytes(), b"xy", whole, 255) == written


def writing(tokens: list[int], num_tokens: int, causal: bool = False) -> LogitsFunction:
    """A model that writes these tokens where they stand, whatever it sees."""
    logits_LV = F.one_hot(torch.tensor(tokens).roll(-int(causal)), num_tokens).float()
    return LogitsFunction(lambda tokens_BL: logits_LV[: tokens_BL.shape[1]].repeat(len(tokens_BL), 1, 1),
                          num_tokens - 1, num_tokens, len(tokens), Causal() if causal else Bidirectional(), int(causal))


AUTOREGRESSIVE = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Recompute())
SCATTERED = Decoder(Whole(), Linear(5), Greedy(), RandomOrder(), Recompute())


def test_prompt_and_answer_read_as_one_text() -> None:
    tokens = [THE, CAT, SAT, ON, THE, MAT, END]
    decoder = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Recompute(), end_id=[END, COMMA])
    stream = stream_generate(writing(tokens, 9, causal=True), decoder, ["the cat"], num_new=5, tokenizer=Pieces())
    assert [update.texts for update in stream][:3] == [[" sat____"], [" sat on___"], [" sat on the__"]]
    assert stream.finish().texts == [" sat on the mat"]
    whole = generate(writing(tokens, 9), SCATTERED, [Request([MASK] * 5)], tokenizer=Pieces())
    assert whole.texts == ["the cat sat on the"]


@pytest.mark.parametrize("decoder", [AUTOREGRESSIVE, SCATTERED], ids=["left to right", "anywhere"])
def test_updates_of_any_order_show_no_half_characters(decoder: Decoder) -> None:
    written = "\u00e9t\u00e9 \u20ac\U0001f600"
    model = writing([*b"x", *written.encode()], 256)
    stream = stream_generate(model, decoder, ["x"], num_new=len(written.encode()), tokenizer=Bytes())
    texts = [text for update in stream for text in update.texts or []]
    assert texts[-1] == written
    assert stream.finish().texts == [written]
    assert not any("\ufffd" in text for text in texts)
