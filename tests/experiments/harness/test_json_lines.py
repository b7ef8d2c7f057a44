"""A file of rows is whole whenever it is looked at, even after kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from quicksilver.experiments.harness.json_lines import JsonLines

ENDLESS = """
import sys
from pathlib import Path
from quicksilver.experiments.json_lines import JsonLines
file = JsonLines(Path(sys.argv[1]))
while True:
    file.append({"number": len(file.rows()), "filler": "x" * 20000})
"""


def test_rows_come_back_in_order_and_can_be_replaced(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "rows.jsonl")
    assert file.rows() == []
    for number in range(3):
        file.append({"number": number})
    assert file.rows() == [{"number": 0}, {"number": 1}, {"number": 2}]
    file.replace([{"number": 7}])
    assert file.rows() == [{"number": 7}]


def test_a_row_that_is_no_number_is_refused_and_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "rows.jsonl")
    file.append({"a": 1.5})
    with pytest.raises(ValueError, match="Out of range float"):
        file.append({"a": float("nan")})
    assert file.rows() == [{"a": 1.5}]


@pytest.mark.parametrize("text", ['{"a": 1}\n{"b"', '{"a": 1}\n3\n'])
def test_a_damaged_line_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="rows.jsonl:2: not a row"):
        JsonLines(path).rows()


def test_kill_9_leaves_whole_rows_and_the_next_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)])
    while not path.exists() or path.stat().st_size < 200_000:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    lines = path.read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(len(lines)))
    JsonLines(path).append({"number": -1})
    assert JsonLines(path).rows()[-1] == {"number": -1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]
