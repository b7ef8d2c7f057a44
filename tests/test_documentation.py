"""Every Python example of the documentation runs as it stands, in a namespace of its own; links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "decoders" / "README.md"]
LINKING = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))]


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


def anchors(page: Path) -> set[str]:
    """What links to a Markdown page's headings may name, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_what_is_in_the_tree(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    assert links
    for link in links:
        if link.startswith(("http:", "https:")):
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target.name != "report.html", f"{link}: is not in git"
        assert not heading or heading in anchors(target), link
