"""Talk with a published model: python -m quicksilver.experiments experiment=chat model.path=FOLDER

Each line of the input is said, and the answer streams to stdout. An empty line begins a new conversation.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...decoders import CapturedSteps, Decoder, stream_generate
from ...kernels.checks import check_integer
from ...kernels.dispatch import Implementation, using
from ..harness.progress import console
from ..study.checks import capture_field, check_machine
from .answer import DTYPES, Weights, written


@dataclass(frozen=True)
class Chat:
    """Answers of at most `num_new` tokens, drawn with `seed` where the decoder draws. `dtype` is that of the
    weights, `capture` how steps are taken."""

    weights: Weights
    decoder: Decoder
    seed: int
    num_new: int
    dtype: str
    threads: int
    device: str
    kernels: str
    capture: str = "none"

    def __post_init__(self) -> None:
        check_machine(self.device, self.kernels, self.threads)
        capture_field(self)
        check_integer("num_new", self.num_new)
        check_integer("seed", self.seed, at_least=0)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r}: must be one of {', '.join(DTYPES)}")

    def check(self) -> None:
        """ValueError with the reason if the weights cannot be read."""
        self.weights.check()

    def run(self, folder: Path) -> int:
        """Answer until the input ends. Returns 0."""
        torch.set_num_threads(self.threads)
        loaded = self.weights.load(folder / "weights", DTYPES[self.dtype], self.device)
        decoder = replace(self.decoder, end_id=loaded.tokenizer.end_ids)
        runner = CapturedSteps.named(self.capture, decoder)
        turns: list[dict[str, str]] = []

        def answer(said: list[dict[str, str]]) -> str:
            prompt = loaded.tokenizer.apply_chat_template(said)
            stream = stream_generate(loaded.model, decoder, [prompt], num_new=self.num_new, tokenizer=loaded.tokenizer,
                                     seeds=[self.seed], runner=runner)
            written(stream)
            texts = stream.finish().texts
            assert texts is not None
            return texts[0]

        with using(Implementation.named(self.kernels)):
            for line in _lines():
                if not line.strip():
                    turns = []
                    continue
                said = [*turns, {"role": "user", "content": line}]
                try:
                    turns = [*said, {"role": "assistant", "content": answer(said)}]
                except ValueError as error:  # of a conversation that is too long, or that the template refuses
                    console.print(f"error: {error}; not said", markup=False)
        return 0


def _lines() -> Iterator[str]:
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.rstrip("\n")
