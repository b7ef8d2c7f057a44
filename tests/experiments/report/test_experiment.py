"""The report made again from the records of a folder alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments.harness.progress import console
from quicksilver.experiments.harness.records import key_of
from quicksilver.experiments.report.experiment import Report

from tests.experiments.handmade import joint_record
from tests.experiments.study.test_rows import training


def stored(folder: Path, *records: dict[str, Any]) -> Path:
    folder.mkdir()
    for record in records:
        (folder / f"{key_of(record['point'])}.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_records_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"records='.*{name}': must be a folder that holds records"):
        Report(str(tmp_path / name)).check()


def test_the_page_is_of_the_records_that_have_a_section_and_says_where_it_is(tmp_path: Path) -> None:
    other = joint_record(2, "11")
    other["point"] |= {"kind": "OfAnotherProject"}
    records = stored(tmp_path / "records", joint_record(2, "1100"), training(), other)
    report = Report(str(records))
    report.check()
    with console.capture() as said:
        assert report.run(tmp_path / "page") == 0
    page = tmp_path / "page" / "report.html"
    assert said.get().replace("\n", "").endswith(f"report: {page}")
    html = page.read_text()
    assert "What parallel commits lose" in html
    assert "Training</h2>" in html
    assert "OfAnotherProject" not in html
    assert page.with_name("joint_error.png").read_bytes().startswith(b"\x89PNG")


def test_a_damaged_record_ends_it_by_name(tmp_path: Path) -> None:
    records = stored(tmp_path / "records", joint_record(2, "11"))
    (path,) = records.iterdir()
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match=f"{path.name}: a damaged record"):
        Report(str(records)).run(tmp_path / "page")
    assert not (tmp_path / "page").exists()
