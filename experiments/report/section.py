"""A section of the report: what a study adds to the page.

A study that has one keeps it in its module `section`, which the page finds by itself:

    KINDS                        the kinds of records that it is made of, each with what was done, in words
    section(records, sources)    the Section of such records, all of one conditions
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from typing import Protocol, cast

from rich.console import RenderableType

from ..harness.records import Json

_PACKAGE = "quicksilver.experiments"


@dataclass(frozen=True)
class Section:
    """`template`, a path below experiments/, shows `values` and `images` (PNGs by file name). `summary` and `details`,
    templates too, show more of the values: below the findings, and at the end of the page. `findings` are sentences,
    `shown` goes to the terminal. A `headline` takes the place of all titles at the top of the page."""

    title: str
    template: str
    values: Json
    images: Mapping[str, bytes]
    findings: Sequence[str]
    shown: RenderableType
    summary: str | None = None
    details: str | None = None
    headline: str | None = None


class SectionModule(Protocol):
    """What a study's module `section` holds."""

    KINDS: Mapping[str, str]

    def section(self, records: Sequence[Json], sources: Sequence[str]) -> Section: ...


def section_modules() -> list[SectionModule]:
    """Those of all studies, by the names of their folders."""
    studies = sorted(folder.name for folder in files(_PACKAGE).iterdir() if folder.joinpath("section.py").is_file())
    return [cast(SectionModule, import_module(f"{_PACKAGE}.{study}.section")) for study in studies if study != "report"]


def kinds_of_records() -> dict[str, str]:
    """The kinds of records of which sections are made, each with what was done, in words."""
    return {kind: words for module in section_modules() for kind, words in module.KINDS.items()}


def listed(words: Sequence[object]) -> str:
    """The words as a list in a sentence."""
    *most, last = map(str, words)
    return f"{', '.join(most)} and {last}" if most else last
