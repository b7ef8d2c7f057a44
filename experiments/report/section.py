"""A section of the report, added by a study.

A study defines its section in its module `section`, which the page discovers:

    KINDS                        the kinds of records that it covers, each with its title in the list of settings
    section(records, sources)    the Section of such records, all under the same conditions

A kind is the class of the points that the study records. The conditions of a record are those of its point's `model`, a
TrainingPoint, also where nothing is trained.
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
    """`template`, a path below experiments/, renders `values` and `images` (PNGs by file name). `summary` and `details`
    are templates that render more values, below the findings and at the end of the page. `findings` are sentences;
    `shown` is printed on the console. A `headline` replaces all titles at the top of the page."""

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
    """The interface of a study's module `section`."""

    KINDS: Mapping[str, str]

    def section(self, records: Sequence[Json], sources: Sequence[str]) -> Section: ...


def section_modules() -> list[SectionModule]:
    """The modules `section` of all studies, sorted by folder name."""
    studies = sorted(folder.name for folder in files(_PACKAGE).iterdir() if folder.joinpath("section.py").is_file())
    return [cast(SectionModule, import_module(f"{_PACKAGE}.{study}.section")) for study in studies if study != "report"]


def kinds_of_records() -> dict[str, str]:
    """The kinds of records that sections cover, as in their KINDS."""
    return {kind: words for module in section_modules() for kind, words in module.KINDS.items()}


def listed(words: Sequence[object]) -> str:
    """The words as an enumeration: "a, b and c"."""
    *most, last = map(str, words)
    return f"{', '.join(most)} and {last}" if most else last
