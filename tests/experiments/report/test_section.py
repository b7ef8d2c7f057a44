"""Sections: found in the folders of studies, each for kinds of records of its own."""

from importlib import import_module
from pathlib import Path

from quicksilver import experiments
from quicksilver.experiments.report.section import kinds_of_records, listed, section_modules

FOLDER = Path(experiments.__file__).parent


def test_every_study_that_has_a_section_is_found_by_the_name_of_its_folder() -> None:
    studies = [path.parent.name for path in sorted(FOLDER.glob("*/section.py")) if path.parent.name != "report"]
    assert "frontier" in studies
    assert section_modules() == [import_module(f"quicksilver.experiments.{study}.section") for study in studies]


def test_a_kind_of_record_belongs_to_one_section() -> None:
    kinds = [kind for module in section_modules() for kind in module.KINDS]
    assert len(kinds) == len(set(kinds))
    assert kinds_of_records().keys() == set(kinds)
    assert kinds_of_records()["MitigationPoint"] == "mitigation"


def test_every_section_is_shown_by_templates_that_are_there() -> None:
    for module in section_modules():
        found = module.section([], ["here"])
        for template in (found.template, found.summary, found.details):
            assert template is None or (FOLDER / template).is_file(), template


def test_words_are_listed_as_in_a_sentence() -> None:
    assert [listed(words) for words in ([1], [1, 2], [1, 2, 3])] == ["1", "1 and 2", "1, 2 and 3"]
