"""Retired identifiers stay out of the sources, and CHANGELOG.md says what took their place."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RETIRED = {
    # models
    "AddedMasks", "BooleanMasks", "CatchingHead", "Feed", "FewerWhereSure", "ForeignModule", "ForeignShape",
    "LengthProbe", "Masks", "Mixture", "NoisyClean", "OwnChoice", "OwnMasks", "Probe", "Routed", "RouterWatch",
    "SharedInBlock", "Storing", "Unbalanced", "holds_logits", "narrow_layers", "of_sum", "ruled", "sees_all",
    # experiments
    "Contestant", "OutOfTime", "ReadyStep", "Rival", "beside_recompute", "concluded", "contestant", "contrast_steps",
    "in_turns", "on_record", "share_right", "unlearnt"}
SOURCES = [path for folder in ("kernels", "models", "decoders", "experiments")
           for path in sorted((ROOT / folder).rglob("*.py"))]


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Every name that a module defines, reads, imports or passes by keyword."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "asname", "arg"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield from value.split(".")


def test_no_source_uses_a_retired_identifier() -> None:
    found = {str(path.relative_to(ROOT)): used for path in SOURCES
             if (used := RETIRED.intersection(identifiers(ast.parse(path.read_text()))))}
    assert not found


@pytest.mark.parametrize("code", [
    "x = Probe(1)", "model.of_sum(x)", "from .routers import RouterWatch", "import a.Mixture", "def ruled(): pass",
    "class Feed: pass", "f(sees_all=True)", "lambda contestant: 1", "from a import b as Routed"])
def test_a_retired_identifier_is_found_wherever_it_stands(code: str) -> None:
    assert RETIRED.intersection(identifiers(ast.parse(code)))


def test_the_changelog_names_every_retired_identifier() -> None:
    words = set(re.findall(r"\w+", (ROOT / "CHANGELOG.md").read_text()))
    assert not RETIRED - words
