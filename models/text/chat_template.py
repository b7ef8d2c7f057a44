"""A checkpoint's chat template: Jinja2, which writes a conversation as one text.

A template is a stranger's program: it runs in Jinja2's sandbox, where it reads what it is given, calls no method that
changes it and reaches no attribute of Python's own, and in a process whose memory and time are bounded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...kernels.checks import shown
from .template_process import TemplateRefused, rendered


@dataclass(frozen=True)
class ChatTemplate:
    """`source` is a template by the conventions of transformers, `special_tokens` its variables for tokens
    ("bos_token"), `origin` where it stands, which errors name."""

    source: str
    special_tokens: Mapping[str, str]
    origin: str

    def rendered(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True,
                 variables: Mapping[str, Any] | None = None) -> str:
        """The conversation as text, up to the start of the answer with `add_generation_prompt`; `variables` are further
        ones of this template, such as tools, and like the messages values of JSON. ValueError with the reason where the
        template refuses the messages, is none, or takes more than `template_process.BOUNDS`."""
        given = {"tools": None, "documents": None, **self.special_tokens, **(variables or {})}
        given |= {"messages": [dict(message) for message in messages], "add_generation_prompt": add_generation_prompt}
        try:
            return rendered(self.source, given)
        except TemplateRefused as error:
            raise ValueError(f"{self.origin}: the chat template refuses {shown(messages)}: {error}") from None
