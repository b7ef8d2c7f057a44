"""The process in which chat templates run: a line of JSON a request, and one as its answer. See template_process.

It is started as a file, so that nothing but Jinja2 is imported. Templates run in Jinja2's sandbox, in as much memory
and processor time as a request allows: past its time the process is ended by the system (SIGXCPU).
"""

import json
import math
import resource
import signal
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST_OF_A_MESSAGE = 500


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


@lru_cache(maxsize=4)
def _template(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment.from_string(source)


def _rendered(source: str, variables: Mapping[str, Any], most_characters: int) -> str:
    pieces, room = [], most_characters
    for piece in _template(source).generate(**variables):
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            raise ValueError(f"writes more than {most_characters:,} characters")
    return "".join(pieces)


def _bound(memory_bytes: int, seconds: int) -> None:
    """From here on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    for limit, value in ((resource.RLIMIT_AS, memory_bytes),
                         (resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + seconds)):
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))


def _answer(request: dict[str, Any]) -> dict[str, str]:
    _bound(request["memory_bytes"], request["seconds"])
    try:
        return {"text": _rendered(request["source"], request["variables"], request["characters"])}
    except MemoryError:
        return {"error": f"takes more than {request['memory_bytes'] >> 20:,} MiB of memory"}
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError,
            RecursionError) as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:_MOST_OF_A_MESSAGE]}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is interrupted, and ends this
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()
