"""How many tokens a block's step must commit to equal autoregression, by the batch, as the roofline predicts.

    tokens(batch) = time of a block's step / time of an autoregressive step,  each of `batch` rows

With few rows both steps wait for the same weights, and one token is enough. With many the block's products decide, and
as many tokens are needed as a block has positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..harness.roofline import Card
from .point import StepPoint

BATCHES = (1, 4, 16, 64, 256)
TOKENS = (2, 4, 8)
_LARGEST_BATCH = 4096


def predicted_seconds(point: StepPoint, batch: int, card: Card) -> float:
    """The predicted time of a step of `batch` rows. ValueError where the card's rate for the dtype is not known."""
    if point.dtype not in card.flops_per_second:
        raise ValueError(f"dtype={point.dtype!r} with card={card.name!r}: must be one of "
                         f"{', '.join(card.flops_per_second)}")
    return card.step_seconds(point.model.shape, batch, batch * point.num_positions, point.cost(batch), point.dtype)


def break_even_tokens(point: StepPoint, batch: int, card: Card) -> float:
    """Tokens a row that the block's step must commit to be as fast as autoregression."""
    return predicted_seconds(point, batch, card) / predicted_seconds(replace(point, block=None), batch, card)


def losing_batch(point: StepPoint, tokens: float, card: Card) -> int | None:
    """The smallest batch, a power of two up to 4,096, at which a step that commits so many tokens a row loses; None: it
    loses at none."""
    batches = (2**power for power in range(_LARGEST_BATCH.bit_length()))
    return next((batch for batch in batches if break_even_tokens(point, batch, card) > tokens), None)


def rates(card: Card) -> str:
    """A card with its bandwidth and products, as words."""
    products = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in card.flops_per_second.items())
    return f"{card.name}: {card.bytes_per_second / 1e9:,.0f} GB/s, {products}"


def section(points: Sequence[StepPoint], card: Card) -> Iterator[str]:
    """The prediction for every block among the points, as lines of a page."""
    overhead = f"; {1e6 * card.seconds_per_step:.0f} us a step and {1e6 * card.seconds_per_layer:.0f} us a layer" if (
        card.seconds_per_layer) else ""
    yield f"## Break-even, predicted for {card.name}"
    yield ""
    yield f"By the roofline ({rates(card)}{overhead}):"
    yield "the tokens a row that a block's step must commit to be as fast as autoregression, and the smallest batch at"
    yield "which a step that commits so many loses."
    yield ""
    header = ["model", "context", "block", *(f"batch {batch}" for batch in BATCHES),
              *(f"{tokens} tokens lose from" for tokens in TOKENS)]
    yield "| " + " | ".join(header) + " |"
    yield "| " + " | ".join(["---"] * len(header)) + " |"
    blocks = {(point.name, point.context, point.num_positions): point for point in points if point.num_positions > 1}
    for (name, context, block), point in sorted(blocks.items()):
        tokens = (f"{break_even_tokens(point, batch, card):.2f}" for batch in BATCHES)
        losing = (losing_batch(point, number, card) for number in TOKENS)
        yield "| " + " | ".join([name, str(context), str(block), *tokens,
                                 *("never" if batch is None else f"batch {batch}" for batch in losing)]) + " |"
