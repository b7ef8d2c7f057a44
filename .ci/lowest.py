"""Prints pip's constraints for the lowest versions of what pyproject.toml asks for, torch and Triton apart.

    python .ci/lowest.py > constraints.txt
"""

import re
import tomllib
from pathlib import Path

APART = ("torch", "triton")


def lowest(requirements: list[str]) -> list[str]:
    """`name==version` for each requirement `name>=version,...`. ValueError if one has no lower bound."""
    pins = []
    for requirement in requirements:
        found = re.fullmatch(r"([\w-]+)>=([\w.]+)(,.*)?", requirement)
        if found is None:
            raise ValueError(f"requirement {requirement!r}: must begin with its lower bound, as in name>=1.2")
        if found[1] not in APART:
            pins.append(f"{found[1]}=={found[2]}")
    return pins


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
    print("\n".join(lowest(project["dependencies"] + project["optional-dependencies"]["test"])))
