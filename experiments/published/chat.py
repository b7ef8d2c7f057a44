"""Talk with a published model: python -m quicksilver.experiments experiment=chat model.path=FOLDER

Each line of the input is said, and the answer streams to stdout. An empty line begins a new conversation.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...decoders import Decoder, stream_generate
from ...kernels.checks import check_integer
from ...kernels.dispatch import Implementation, using
from ...models import LoadedModel
from ..harness.progress import console
from ..study.checks import check_machine
from .answer import DTYPES, Weights, written


@dataclass(frozen=True)
class Chat:
    """Answers of at most `num_new` tokens, drawn with `seed` where the decoder draws. `dtype` is that of the
    weights."""

    weights: Weights
    decoder: Decoder
    seed: int
    num_new: int
    dtype: str
    threads: int
    device: str
    kernels: str

    def __post_init__(self) -> None:
        check_machine(self.device, self.kernels, self.threads)
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
        turns: list[dict[str, str]] = []
        with using(Implementation.named(self.kernels)):
            for line in _lines():
                if not line.strip():
                    turns = []
                    continue
                said = [*turns, {"role": "user", "content": line}]
                try:
                    turns = [*said, {"role": "assistant", "content": self._answer(loaded, said)}]
                except ValueError as error:  # of a conversation that is too long, or that the template refuses
                    console.print(f"error: {error}; not said", markup=False)
        return 0

    def _answer(self, loaded: LoadedModel, turns: list[dict[str, str]]) -> str:
        tokenizer = loaded.tokenizer
        decoder = replace(self.decoder, end_id=tokenizer.end_ids)
        stream = stream_generate(loaded.model, decoder, [tokenizer.apply_chat_template(turns)], num_new=self.num_new,
                                 tokenizer=tokenizer, seeds=[self.seed])
        written(stream)
        texts = stream.finish().texts
        assert texts is not None
        return texts[0]


def _lines() -> Iterator[str]:
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.rstrip("\n")
