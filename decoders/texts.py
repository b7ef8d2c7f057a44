"""Detokenization in context: tokens are decoded together with those before them, and their text is cut out.

A subword tokenizer drops the space before its first token, and a byte-level token may hold half a character, which
decodes to U+FFFD until the other half follows.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby, takewhile
from typing import Any, Protocol

from ..kernels.checks import check_integer, check_integers, shown

BLANK = "_"
_HALF = "\ufffd"
# Prompt tokens decoded together with a piece of the completion; only near neighbours affect a token's text.
NEAR = 16


class Tokenizer(Protocol):
    """The interface of a tokenizer; `models.text.CheckpointTokenizer` and those of transformers fit. Chat messages also
    need `apply_chat_template`. Ids from `num_tokens` on, where it tells that, or transformers' vocabulary does, have no
    text: they are banned."""

    def encode(self, text: str, /) -> list[int]: ...
    def decode(self, ids: list[int], /) -> str: ...


def continuation(tokenizer: Tokenizer, before: Sequence[int], tokens: Sequence[int]) -> str:
    """The text that `tokens` add to that of the tokens `before` them."""
    whole = tokenizer.decode([*before, *tokens])
    earlier = tokenizer.decode([*before]) if before else ""
    # The earlier text may decode differently here: its last character may have been incomplete.
    same = takewhile(lambda pair: pair[0] == pair[1], zip(earlier, whole, strict=False))
    return whole[len(earlier) if whole.startswith(earlier) else len([*same]) :]


def with_blanks(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Sequence[int], mask_id: int) -> str:
    """The text of a completion in progress: a "_" for each masked position, and for half a character next to one or at
    the end. Elsewhere invalid bytes stay U+FFFD, since no later token completes them."""
    near, parts, first, past_blank = list(prompt[-NEAR:]), [], list[int](), False
    for masked, run in groupby(tokens, lambda token: token == mask_id):
        run = list(run)
        if masked:
            parts.append(BLANK * len(run))
            past_blank = True
            continue
        first = first or run
        before = _whole_characters(tokenizer, near or first) if past_blank else near
        text = continuation(tokenizer, before, run)
        whole = text.strip(_HALF) if past_blank else text.rstrip(_HALF)
        start = text.index(whole)
        parts.append(BLANK * start + whole + BLANK * (len(text) - start - len(whole)))
    return "".join(parts)


def num_tokens(tokenizer: Tokenizer | None) -> int | None:
    """One more than the tokenizer's largest id; None where it does not tell."""
    told = getattr(tokenizer, "num_tokens", None)
    vocabulary = getattr(tokenizer, "get_vocab", None)
    if told is None and vocabulary is not None:
        return 1 + max(vocabulary().values(), default=-1)
    return None if told is None else check_integer("num_tokens", told)


def _whole_characters(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """The tokens without trailing ones that hold half a character, which later tokens must not complete."""
    while tokens and tokenizer.decode(tokens).endswith(_HALF):
        tokens = tokens[:-1]
    return tokens


def chat_tokens(tokenizer: Tokenizer | None, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a conversation up to the start of the answer. ValueError for messages without a role or content, or
    a tokenizer without a chat template."""
    for message in messages:
        if not {"role", "content"} <= message.keys():
            raise ValueError(f"chat message {shown(message)}: must have a role and content")
    template = getattr(tokenizer, "apply_chat_template", None)
    if template is None or getattr(tokenizer, "chat_template", template) is None:
        raise ValueError(f"chat messages {shown(messages)} with tokenizer={shown(tokenizer)}: need a tokenizer with a "
                         "chat template; give text or token ids")
    ids = template([dict(message) for message in messages], add_generation_prompt=True)
    return check_integers("tokens of the chat template", ids["input_ids"] if isinstance(ids, Mapping) else ids)
