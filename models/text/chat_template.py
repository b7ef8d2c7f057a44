"""A checkpoint's chat template: Jinja2, which writes a conversation as one text.

A template is a stranger's program: it runs in Jinja2's sandbox, where it reads what it is given, calls no method that
changes it and reaches no attribute of Python's own. That it ends is not promised.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...kernels.checks import shown


class _Generation(Extension):
    """`{% generation %}`, with which transformers marks what the model says: the text within, as it is."""

    tags = {"generation"}  # noqa: RUF012 (Jinja2's own declaration)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None,
            separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    """JSON as transformers' templates mean it: of a text, not of a page, in which Jinja2 would escape < and >."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@dataclass(frozen=True)
class ChatTemplate:
    """`source` is a template by the conventions of transformers, `special_tokens` its variables for tokens
    ("bos_token"), `origin` where it stands, which errors name."""

    source: str
    special_tokens: Mapping[str, str]
    origin: str

    @cached_property
    def _template(self) -> Template:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                    extensions=[_Generation, loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        return environment.from_string(self.source)

    def rendered(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True,
                 variables: Mapping[str, Any] | None = None) -> str:
        """The conversation as text, up to the start of the answer with `add_generation_prompt`; `variables` are further
        ones of this template, such as tools. ValueError with the reason where the template refuses the messages, or is
        none."""
        given = {"tools": None, "documents": None, **self.special_tokens, **(variables or {})}
        try:
            return self._template.render(**given, messages=[dict(message) for message in messages],
                                         add_generation_prompt=add_generation_prompt)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError,
                RecursionError) as error:
            raise ValueError(f"{self.origin}: the chat template refuses {shown(messages)}: {type(error).__name__}: "
                             f"{error}") from None
