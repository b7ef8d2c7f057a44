"""A section of the report that another experiment adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import RenderableType

from ..harness.records import Json


@dataclass(frozen=True)
class Section:
    """Its title, the template of its part of the page and what that template shows, its figures as PNGs by file name,
    what was found, and what the terminal shows."""

    title: str
    template: str
    values: Json
    images: Mapping[str, bytes]
    findings: Sequence[str]
    shown: RenderableType
