"""What weights of fewer bits change of a published model: python -m quicksilver.experiments experiment=quantization

The model answers prompts greedily in float32. Each other dtype is given the same sequences, and then answers itself. A
record of each holds, over the answers' tokens: the root mean square of the difference of logits, of which that of the
logits about their mean is 1; the mean Kullback-Leibler divergence from float32's distributions, in nats; the share of
positions at which another token is the most probable one after the same text; and the share of the tokens of its own
answers that are others than float32's at their place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...decoders import Decoder, generate
from ...kernels.checks import check_integer
from ...kernels.dispatch import named, recording
from ...models import LoadedModel
from ..harness.progress import console
from ..harness.provenance import provenance
from ..harness.records import Json, RecordStore
from ..study.checks import check_different, check_machine
from .answer import DTYPES, Weights, prompt_of

_REFERENCE = "float32"
_CPU = "cpu"


@dataclass(frozen=True)
class QuantizationPoint:
    """Weights in a dtype, compared over the first `num_new` tokens of the answers to prompts."""

    weights: Weights
    prompts: tuple[str, ...]
    decoder: Decoder
    num_new: int
    dtype: str
    threads: int


@dataclass(frozen=True)
class Answers:
    """Prompts as tokens, and their answers."""

    prompts: list[list[int]]
    completions: list[list[int]]

    @classmethod
    def of(cls, point: QuantizationPoint, loaded: LoadedModel) -> "Answers":
        prompts = [prompt_of(loaded.tokenizer, text) for text in point.prompts]
        completions = [generate(loaded.model, point.decoder, [prompt], num_new=point.num_new).completions[0].completion
                       for prompt in prompts]
        return cls(prompts, completions)

    def logits(self, loaded: LoadedModel) -> Tensor:
        """Of each token of the answers, float32 [T, V]."""
        found = []
        for prompt, completion in zip(self.prompts, self.completions, strict=True):
            with torch.inference_mode():
                hidden_1LE = loaded.model.transformer.sequence_hidden(torch.tensor([[*prompt, *completion]]))
                places = slice(len(prompt) - loaded.model.spec.shift, hidden_1LE.shape[1] - loaded.model.spec.shift)
                found.append(loaded.model.logits(hidden_1LE[:, places])[0].float())
        return torch.cat(found)


@dataclass(frozen=True)
class QuantizationLoss:
    """The comparison for each of `dtypes` with float32. The weights are kept in `weights_folder` (None: in "weights"
    below the output)."""

    weights: Weights
    weights_folder: str | None
    prompts: Sequence[str]
    decoder: Decoder
    num_new: int
    dtypes: Sequence[str]
    threads: int

    def __post_init__(self) -> None:
        check_machine(_CPU, "auto", self.threads)
        check_integer("num_new", self.num_new)
        allowed = [name for name in DTYPES if name != _REFERENCE]
        for name, values in (("prompts", self.prompts), ("dtypes", self.dtypes)):
            if not values:
                raise ValueError(f"{name}=[]: needs at least one")
            check_different(name, values)
        for dtype in self.dtypes:
            if dtype not in allowed:
                raise ValueError(f"dtypes={[*self.dtypes]}: must be of {', '.join(allowed)}")

    def check(self) -> None:
        """ValueError with the reason if the weights cannot be read, before anything is fetched."""
        self.weights.check()

    def points(self) -> Iterator[QuantizationPoint]:
        for dtype in self.dtypes:
            yield QuantizationPoint(self.weights, tuple(self.prompts), self.decoder, self.num_new, dtype, self.threads)

    def run(self, folder: Path) -> int:
        """Compare and record what is not recorded yet in `folder`. Returns 0; a failure raises."""
        provenance()  # the state of the code now
        records = RecordStore(folder / "records")
        missing = [point for point in self.points() if records.completed(point) is None]
        if not missing:
            return 0
        torch.set_num_threads(self.threads)
        kept = Path(self.weights_folder) if self.weights_folder else folder / "weights"
        reference = self.weights.load(kept, DTYPES[_REFERENCE], _CPU)
        answers = Answers.of(missing[0], reference)
        logits_TV = answers.logits(reference)
        del reference
        for point in missing:
            loaded = self.weights.load(kept, DTYPES[point.dtype], _CPU)
            result = compared(point, loaded, answers, logits_TV)
            records.write(point, result, provenance())
            console.print(f"{point.dtype}: logits differ by {result['logit_distance']:.4f}, {result['kl_nats']:.4f} "
                          f"nats; the most probable token at {result['share_of_choices_changed']:.2%} of "
                          f"{result['num_tokens']:,} positions; {result['share_of_answers_changed']:.1%} of the tokens "
                          "of answers", markup=False)
        return 0


def compared(point: QuantizationPoint, loaded: LoadedModel, answers: Answers, logits_TV: Tensor) -> Json:
    """What differs from the answers, and from the logits that they were chosen by."""
    found_TV = answers.logits(loaded)
    with recording() as ran:
        own = Answers.of(point, loaded)
    spread = (logits_TV - logits_TV.mean(-1, keepdim=True)).square().mean().sqrt()
    divergence = F.kl_div(found_TV.log_softmax(-1), logits_TV.log_softmax(-1), reduction="none", log_target=True)
    changed = [sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))
               for one, other in zip(own.completions, answers.completions, strict=True)]
    return {
        "num_tokens": len(logits_TV),
        "logit_distance": float((found_TV - logits_TV).square().mean().sqrt() / spread),
        "kl_nats": float(divergence.sum(-1).mean()),
        "share_of_choices_changed": float((found_TV.argmax(-1) != logits_TV.argmax(-1)).float().mean()),
        "share_of_answers_changed": sum(changed) / len(logits_TV),
        "linear": named(ran).get("linear", "F.linear")}
