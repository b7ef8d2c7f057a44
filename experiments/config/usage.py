"""Command-line help, generated from conf: --help, and GROUP=help for the options of one group."""

import re
import textwrap
from collections.abc import Iterator
from importlib import resources

from ...decoders.presets import PRESETS

_WIDTH = 100
_MOST_EXPERIMENTS = 12
_LINES_OF_NAMES = 2
PARTS = ("windows", "schedule", "sampler", "policy", "cache", "guidance")


def options(group: str) -> dict[str, str]:
    """The YAML text of each option of a group, by name; empty if there is no such group."""
    folder = resources.files("quicksilver.conf") / group
    files = sorted(folder.iterdir(), key=lambda file: file.name) if folder.is_dir() else []
    return {file.name.removesuffix(".yaml"): file.read_text() for file in files if file.name.endswith(".yaml")}


def usage() -> str:
    """Experiments, groups, keys and where results go: at most 40 lines of 100 columns."""
    config = (resources.files("quicksilver.conf") / "config.yaml").read_text()
    keys = re.findall(r"^(\w+): (\S+) +# (.+)$", config, flags=re.MULTILINE)
    return "\n".join([
        "python -m quicksilver.experiments [experiment=NAME] [GROUP=OPTION ...] [KEY=VALUE ...]",
        "", "Experiments (frontier where none is named; experiment.KEY=VALUE sets what one owns):",
        *_experiments(options("experiment")),
        "", "Groups (GROUP=help lists the options of one; -m runs all of GROUP=A,B):",
        *_wrapped("task", ", ".join(options("task"))),
        _line("decoder", 14, f"{len(PRESETS)} presets with knobs, as decoder=llada decoder.steps=4; or parts"),
        _line("", 14, f"of decoder=parts: {', '.join(PARTS)}"),
        _line("model", 14, f"{', '.join(options('model'))}; pair=experts: both models with mixtures of experts"),
        _line("head", 14, f"{', '.join(options('head'))}; also training, balancing; kernel and shapes of benchmarks"),
        "", "Keys:",
        *(_line(f"{key}={value}", 21, about) for key, value, about in keys),
        "", "Results: runs/records has a JSON file a measured point, so that the same command goes on; a report",
        "is runs/NAME-HASH/report.html, and runs/latest links to the newest. --cfg job shows all options."])


def _experiments(found: dict[str, str]) -> Iterator[str]:
    """A line each; those for which there is no room are named alone."""
    names = list(found)
    shown = names if len(names) <= _MOST_EXPERIMENTS else names[: _MOST_EXPERIMENTS - _LINES_OF_NAMES]
    yield from (_line(name, 14, _about(found[name])) for name in shown)
    if len(shown) < len(names):
        yield from _wrapped("also", f"{', '.join(names[len(shown) :])} (experiment=help)")


def listed(group: str) -> Iterator[str]:
    """A line per option of a group: presets with source and knobs, others with their file's first comment."""
    found = options(group)
    if group == "decoder":
        yield "decoder=NAME decoder.KNOB=VALUE; steps are those of a block, or of the answer where there is no block"
        for name, preset in PRESETS.items():
            yield f"{name:20}  {_source(preset.__doc__ or ''):16}  {_knobs(found[name])}".rstrip()
        yield f"{'parts':20}  {'mix and match':16}  {' '.join(PARTS)}"
        return
    width = max(map(len, found), default=0)
    for name, text in found.items():
        yield _line(name, width, _about(text))


def _wrapped(name: str, names: str) -> list[str]:
    return textwrap.wrap(names, _WIDTH, initial_indent=f"  {name:14}  ", subsequent_indent=18 * " ")


def _line(name: str, width: int, about: str) -> str:
    """A name and its description, shortened to the width of a line."""
    head = f"  {name:{width}}  "
    return (head + textwrap.shorten(about, _WIDTH - len(head), placeholder=" ...")).rstrip()


def _about(text: str) -> str:
    """The comment at the head of an option's file, else its values."""
    first = next(line for line in text.splitlines() if not line.startswith("# @"))
    return first.removeprefix("# ") if first.startswith("# ") else _knobs(text)


def _knobs(text: str) -> str:
    """The keys and values in an option's file; OPTION for a value that comes from another group."""
    return " ".join(f"{key}={'OPTION' if value.startswith('$') else value}"
                    for key, value in re.findall(r"^ *([a-z]\w*): ([^\s#{]\S*)", text, flags=re.MULTILINE))


def _source(docstring: str) -> str:
    """The reference in parentheses at the end of a preset's summary, after its last comma; "ours" if it begins so."""
    said = docstring.splitlines()[0].rpartition("(")[2].rstrip(").")
    return "ours" if said.startswith("ours") else said.rpartition(", ")[2]
