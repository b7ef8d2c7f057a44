"""Compare this engine with public code on the same weights: same tokens, and both times.

    python -m quicksilver.experiments.peers --llada CHECKOUT --fast-dllm CHECKOUT --dllm CHECKOUT --dream CHECKOUT \\
        --sdar CHECKOUT --llada2 CHECKOUT --dinfer CHECKOUT --transformers

Random models drive both sides in float32 at temperature 0, the head scaled so that decisions are separated and the
mask id banned on both sides. The table counts the decodes whose tokens are the same, those that differ by a defect
of the peer's (with it repaired, the peer gives our tokens), and the decisions closer than 1e-5. Then come the times of
LLaDA, Fast-dLLM and transformers, in turns in one process; a ratio is the median over rounds of theirs / ours.

Fast-dLLM's model file wants transformers 4.46, nothing else does; --tokens-only leaves it and the times out.
Exit code 1 if tokens differ without a shown defect, 2 if a peer cannot be run.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cores import waiting_threads

os.environ.update(waiting_threads(os.environ))  # read by torch's OpenMP runtime as it is loaded

import torch
from rich.console import Console
from rich.table import Table

from ..progress import console
from . import dinfer, dllm, dream, fast_dllm, fast_dllm_model, llada, llada2, sdar, transformers, transformers_experts
from .base import Finding
from .speed import Line


@dataclass(frozen=True)
class Peer:
    """What the command runs of a peer: tokens compared on our model alone, those on the peer's, and times."""

    home: str
    agreement: Callable[[Path, int], Iterator[Finding]]
    agreement_on_its_model: Callable[[Path, int], Iterator[Finding]] | None = None
    speed: Callable[[Path], Iterator[Line]] | None = None


PEERS = {
    "llada": Peer(llada.HOME, llada.agreement, speed=llada.speed),
    "fast-dllm": Peer(fast_dllm.HOME, fast_dllm.agreement, fast_dllm_model.agreement, fast_dllm_model.speed),
    "dllm": Peer(dllm.HOME, dllm.agreement),
    "dream": Peer(dream.HOME, dream.agreement),
    "sdar": Peer(sdar.HOME, sdar.agreement),
    "llada2": Peer(llada2.HOME, llada2.agreement),
    "dinfer": Peer(dinfer.HOME, dinfer.agreement),
}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m quicksilver.experiments.peers", description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, peer in PEERS.items():
        options.add_argument(f"--{name}", type=Path, metavar="CHECKOUT", help=f"folder with a checkout of {peer.home}")
    options.add_argument("--transformers", action="store_true", help="the installed transformers: autoregression, and "
                         "the times of experts, for which it must be 5 or newer")
    options.add_argument("--tokens-only", action="store_true", help="no times, and nothing of Fast-dLLM's model file")
    options.add_argument("--models", type=int, default=20, help="random models for each setting (default: %(default)s)")
    options.add_argument("--threads", type=int, default=2)
    return options


def planned(options: argparse.Namespace) -> tuple[list[Iterator[Finding]], list[Iterator[Line]]]:
    """The comparisons and the times that the options ask for; none has begun. ValueError if one cannot be run."""
    chosen = {name: path for name in PEERS if (path := getattr(options, name.replace("-", "_"))) is not None}
    if not chosen and not options.transformers:
        raise ValueError(f"name a peer: --transformers, or a checkout with {', '.join(f'--{name}' for name in PEERS)}")
    if "fast-dllm" in chosen and not options.tokens_only:
        fast_dllm_model.check_transformers()
    findings: list[Iterator[Finding]] = []
    lines: list[Iterator[Line]] = []
    for name, path in chosen.items():
        peer = PEERS[name]
        if not path.is_dir():
            raise ValueError(f"--{name} {path}: is no folder; give a checkout of {peer.home}")
        findings.append(peer.agreement(path, options.models))
        if peer.agreement_on_its_model is not None and not options.tokens_only:
            findings.append(peer.agreement_on_its_model(path, options.models))
        if peer.speed is not None and not options.tokens_only:
            lines.append(peer.speed(path))
    if options.transformers:
        findings.append(transformers.agreement(options.models))
        if not options.tokens_only:
            lines += [transformers.speed(), transformers_experts.speed()]
    return findings, lines


def table(findings: Sequence[Finding]) -> Table:
    """The findings as one table."""
    laid_out = Table("peer", "setting", "identical", "by a defect", "closer than 1e-5", "note")
    for found in findings:
        laid_out.add_row(found.peer, found.setting, f"{found.num_same} of {found.num_decodes}",
                         str(found.num_by_defect or ""), str(found.num_close),
                         found.note if found.holds else f"TOKENS DIFFER. {found.note}".strip(),
                         style=None if found.holds else "red")
    return laid_out


def main() -> int:
    """Run the command; its exit code."""
    output = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 150)
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    findings: list[Finding] = []
    lines: list[Line] = []
    try:
        to_compare, to_time = planned(options)
        with console.status("comparing tokens") as status:
            for finding in itertools.chain.from_iterable(to_compare):
                findings.append(finding)
                status.update(f"compared {finding.peer}: {finding.setting}")
        output.print(table(findings), soft_wrap=False)
        for line in itertools.chain.from_iterable(to_time):
            lines.append(line)
            output.print(line.text, markup=False)
    except (ValueError, ImportError) as error:
        console.print(f"error: {error}", markup=False)
        return 2
    return 0 if all(found.holds for found in (*findings, *lines)) else 1


if __name__ == "__main__":
    sys.exit(main())
