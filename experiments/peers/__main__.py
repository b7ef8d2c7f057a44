"""Compare this engine with public code on the same weights: same tokens, and both times.

    python -m quicksilver.experiments.peers --llada CHECKOUT --fast-dllm CHECKOUT --dllm CHECKOUT --dream CHECKOUT \\
        --sdar CHECKOUT --llada2 CHECKOUT --dinfer CHECKOUT --transformers

Random models drive both sides in float32 at temperature 0, the head scaled so that decisions are separated and the
mask id banned on both sides. The table counts the decodes whose tokens are the same, those that differ by a defect
of the peer's (with it repaired, the peer gives our tokens), and the decisions closer than 1e-5. Then come the times of
LLaDA, Fast-dLLM and transformers, in turns in one process; a ratio is the median over rounds of theirs / ours.

Every setting goes on record as it comes, in the folder `records` of --output; what is on record of the same settings
and the same code of the peer is not measured again, unless --anew.

Fast-dLLM's model file wants transformers 4.46, nothing else does; --tokens-only leaves it and the times out.
Exit code 1 if tokens differ without a shown defect, 2 if a peer cannot be run, 130 if it was interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..harness.cores import waiting_threads

os.environ.update(waiting_threads(os.environ))  # read by torch's OpenMP runtime as it is loaded

import torch
from rich.console import Console
from rich.table import Table

from ...kernels.dispatch import named, recording
from ..harness.devices import device_name
from ..harness.progress import console
from ..harness.records import Json
from ..study.runner import Runner
from . import dinfer, dllm, dream, fast_dllm, fast_dllm_model, llada, llada2, sdar, transformers, transformers_experts
from .base import Comparison, Finding, Outcome, Timing
from .origin import of_checkout, of_package


@dataclass(frozen=True)
class Peer:
    """The comparisons with a peer: tokens on our model alone, tokens on the peer's, and times. `files` are the files of
    its checkout that may be run."""

    home: str
    files: Sequence[str]
    agreement: Callable[[Path, int], Iterator[Comparison[Finding]]]
    agreement_on_its_model: Callable[[Path, int], Iterator[Comparison[Finding]]] | None = None
    speed: Callable[[Path], Iterator[Comparison[Timing]]] | None = None


PEERS = {
    "llada": Peer(llada.HOME, [llada.FILE], llada.agreement, speed=llada.speed),
    "fast-dllm": Peer(fast_dllm.HOME, [fast_dllm.FILE, fast_dllm_model.FILE], fast_dllm.agreement,
                      fast_dllm_model.agreement, fast_dllm_model.speed),
    "dllm": Peer(dllm.HOME, dllm.FILES, dllm.agreement),
    "dream": Peer(dream.HOME, dream.FILES, dream.agreement),
    "sdar": Peer(sdar.HOME, [sdar.FILE], sdar.agreement),
    "llada2": Peer(llada2.HOME, llada2.FILES, llada2.agreement),
    "dinfer": Peer(dinfer.HOME, [dinfer.FILE], dinfer.agreement),
}


@dataclass(frozen=True)
class PeerPoint:
    """The key of a record: a setting of a peer, what it compares, and the peer's code."""

    peer: str
    setting: str
    of: Json
    code: Json
    threads: int


@dataclass(frozen=True)
class Recorded:
    """The records of comparisons."""

    runner: Runner
    threads: int
    anew: bool

    def outcome(self, comparison: Comparison[Outcome], code: Json, kind: type[Outcome]) -> Outcome | None:
        """The recorded outcome of a comparison, measured if there is none. None if measuring failed, which the runner
        has reported and recorded."""
        point = PeerPoint(comparison.peer, comparison.setting, comparison.of, code, self.threads)
        if self.anew:
            self.runner.records.path(point).unlink(missing_ok=True)
        result = self.runner.record(point, lambda: _measured(comparison))["result"]
        return None if "failed" in result else kind.of_json(result)


def _measured(comparison: Comparison[Any]) -> Json:
    with recording() as ran:
        outcome = comparison.measure()
    return outcome.to_json() | {
        "device": device_name(torch.get_default_device()), "threads": torch.get_num_threads(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."), "kernels": named(ran)}


@dataclass(frozen=True)
class Planned:
    """Comparisons not yet run, with the code of their peer."""

    code: Json
    comparisons: Iterator[Comparison[Any]]


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
    options.add_argument("--output", type=Path, default=Path("runs/peers"), help="folder (default: %(default)s)")
    options.add_argument("--anew", action="store_true", help="measure what is on record, too")
    return options


def planned(options: argparse.Namespace) -> tuple[list[Planned], list[Planned]]:
    """The token comparisons and the timings that the options select. ValueError if one cannot be run."""
    chosen = {name: path for name in PEERS if (path := getattr(options, name.replace("-", "_"))) is not None}
    if not chosen and not options.transformers:
        raise ValueError(f"name a peer: --transformers, or a checkout with {', '.join(f'--{name}' for name in PEERS)}")
    if "fast-dllm" in chosen and not options.tokens_only:
        fast_dllm_model.check_transformers()
    tokens: list[Planned] = []
    times: list[Planned] = []
    for name, path in chosen.items():
        peer = PEERS[name]
        if not path.is_dir():
            raise ValueError(f"--{name} {path}: is no folder; give a checkout of {peer.home}")
        code = of_checkout(path, peer.home, peer.files)
        tokens.append(Planned(code, peer.agreement(path, options.models)))
        if peer.agreement_on_its_model is not None and not options.tokens_only:
            tokens.append(Planned(code, peer.agreement_on_its_model(path, options.models)))
        if peer.speed is not None and not options.tokens_only:
            times.append(Planned(code, peer.speed(path)))
    if options.transformers:
        code = of_package("transformers")
        tokens.append(Planned(code, transformers.agreement(options.models)))
        if not options.tokens_only:
            times += [Planned(code, transformers.speed()), Planned(code, transformers_experts.speed())]
    return tokens, times


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
    """Run the command and return its exit code."""
    output = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 150)
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    recorded = Recorded(Runner(options.output), options.threads, options.anew)
    findings: list[Finding] = []
    held: list[bool] = []
    try:
        tokens, times = planned(options)
        with console.status("comparing tokens") as status:
            for part in tokens:
                for comparison in part.comparisons:
                    status.update(f"comparing {comparison.peer}: {comparison.setting}")
                    finding = recorded.outcome(comparison, part.code, Finding)
                    held.append(finding is not None and finding.holds)
                    findings += [] if finding is None else [finding]
        output.print(table(findings), soft_wrap=False)
        for part in times:
            for comparison in part.comparisons:
                timing = recorded.outcome(comparison, part.code, Timing)
                held.append(timing is not None and timing.holds)
                if timing is not None:
                    output.print(timing.text, markup=False)
    except (ValueError, ImportError, OSError) as error:
        console.print(f"error: {error}", markup=False)
        return 2
    except KeyboardInterrupt:
        console.print(f"interrupted: {len(held)} settings are on record; the same command goes on", markup=False)
        return 130
    console.print(f"records: {recorded.runner.records.folder}", markup=False)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
