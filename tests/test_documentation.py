"""Every Python example of the documentation runs as it stands, in a namespace of its own."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "decoders" / "README.md"]


def python_blocks(page: Path) -> list[str]:
    """The ```python blocks of a Markdown page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("page", "number"), [(page, number) for page in PAGES
                                              for number in range(len(python_blocks(page)))],
                         ids=lambda value: str(value if isinstance(value, int) else value.relative_to(ROOT)))
def test_an_example_runs(page: Path, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(python_blocks(page)[number], f"{page}, example {number}", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out, "an example shows something"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_example_is_missed(page: Path) -> None:
    assert page.read_text().count("```python") == len(python_blocks(page)) > 0
