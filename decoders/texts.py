"""What tokens read as beside those before them: their text is cut out of a longer one, never decoded alone.

A tokenizer of pieces of words drops the space before the first token that it is given, and a token of bytes may hold
half a character, which reads as U+FFFD until its other half is there.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby, takewhile
from typing import Any, Protocol

from ..kernels.checks import check_integers, shown

BLANK = "_"
_HALF = "\ufffd"
# Tokens of a prompt that are decoded with a piece of its completion; a token is read by its nearest neighbours.
_NEAR = 16


class Tokenizer(Protocol):
    """What is asked of a tokenizer; one of transformers will do. Chat messages need its `apply_chat_template` too."""

    def encode(self, text: str, /) -> list[int]: ...
    def decode(self, ids: list[int], /) -> str: ...


def continuation(tokenizer: Tokenizer, before: Sequence[int], tokens: Sequence[int]) -> str:
    """The text that `tokens` add to that of the tokens before them."""
    whole = tokenizer.decode([*before, *tokens])
    earlier = tokenizer.decode([*before]) if before else ""
    # What is before may read otherwise here: its last character may be half of one.
    same = takewhile(lambda pair: pair[0] == pair[1], zip(earlier, whole, strict=False))
    return whole[len(earlier) if whole.startswith(earlier) else len([*same]) :]


def with_blanks(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Sequence[int], mask_id: int) -> str:
    """The text of a completion in progress: a "_" for each position that holds the mask id, and for half a character
    beside one or at the end. Elsewhere what is no character stays U+FFFD, as it will not become one."""
    near, parts, first, past_blank = list(prompt[-_NEAR:]), [], list[int](), False
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


def _whole_characters(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """The tokens without those at their end that hold half a character, which what follows must not complete."""
    while tokens and tokenizer.decode(tokens).endswith(_HALF):
        tokens = tokens[:-1]
    return tokens


def chat_tokens(tokenizer: Tokenizer | None, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a conversation up to where the answer begins. ValueError names messages without a role or content,
    and a tokenizer without a template."""
    for message in messages:
        if not {"role", "content"} <= message.keys():
            raise ValueError(f"chat message {shown(message)}: must have a role and content")
    template = getattr(tokenizer, "apply_chat_template", None)
    if template is None or getattr(tokenizer, "chat_template", template) is None:
        raise ValueError(f"chat messages {shown(messages)} with tokenizer={shown(tokenizer)}: need a tokenizer with a "
                         "chat template; give text or token ids")
    ids = template([dict(message) for message in messages], add_generation_prompt=True)
    return check_integers("tokens of the chat template", ids["input_ids"] if isinstance(ids, Mapping) else ids)
