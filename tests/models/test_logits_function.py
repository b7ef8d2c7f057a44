"""A bare function against the model that it hides."""

import pytest
import torch
from quicksilver.decoders import (
    Blocks,
    ClassifierFree,
    Decoder,
    Dual,
    Greedy,
    Leftmost,
    Linear,
    Recompute,
    TopProbability,
)
from quicksilver.models import Bidirectional, Causal, LogitsFunction
from torch import Tensor

from tests.conftest import MASK_ID, MAX_LENGTH, VOCAB_SIZE, ragged_requests, random_model

CONFIDENT = Decoder(Blocks(4), Linear(2), Greedy(), TopProbability(), Recompute())


@pytest.mark.parametrize(("decoder", "pattern"), [
    (CONFIDENT, Bidirectional()),
    (Decoder(Blocks(4), Linear(2), Greedy(), TopProbability(), Recompute(), guidance=ClassifierFree(0.5)),
     Bidirectional()),
    (Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Recompute()), Causal()),
], ids=["confident", "guided", "causal"])
@pytest.mark.parametrize("seed", range(5))
def test_a_function_decodes_as_the_model_whose_logits_it_gives(decoder: Decoder, pattern: Bidirectional | Causal,
                                                               seed: int) -> None:
    """Rows of different lengths included, which the function sees one length at a time."""
    model = random_model(pattern, seed)
    lengths = []

    def logits(tokens_BL: Tensor) -> Tensor:
        lengths.append(tokens_BL.shape[1])
        return model.transformer.head(model.transformer.sequence_hidden(tokens_BL))

    function = LogitsFunction(logits, MASK_ID, VOCAB_SIZE, max_length=MAX_LENGTH, pattern=pattern,
                              shift=model.shift)
    requests = ragged_requests(5, seed, block=4)
    assert decoder.decode(function, requests) == decoder.decode(model, requests)
    assert set(lengths) == {len(request.tokens) for request in requests}


def test_nothing_can_be_stored() -> None:
    function = LogitsFunction(lambda tokens_BL: torch.zeros(*tokens_BL.shape, VOCAB_SIZE), MASK_ID, VOCAB_SIZE,
                              max_length=MAX_LENGTH)
    decoder = Decoder(Blocks(4), Linear(2), Greedy(), TopProbability(), Dual())
    with pytest.raises(ValueError, match="no keys and values to store; use cache recompute"):
        decoder.begin(function, ragged_requests(1, block=4))


def test_logits_of_another_shape_and_bad_fields_are_refused() -> None:
    function = LogitsFunction(lambda tokens_BL: torch.zeros(len(tokens_BL), 5), MASK_ID, VOCAB_SIZE,
                              max_length=MAX_LENGTH)
    with pytest.raises(ValueError, match=r"returned logits of shape \[1, 5\] for tokens of shape \[1, \d+\]: must be"):
        CONFIDENT.decode(function, ragged_requests(1, block=4))
    with pytest.raises(ValueError, match="mask_id=6"):
        LogitsFunction(function.function, 6, 5, max_length=8)
    with pytest.raises(ValueError, match="shift=2"):
        LogitsFunction(function.function, 4, 5, max_length=8, shift=2)
    with pytest.raises(ValueError, match="max_length=0"):
        LogitsFunction(function.function, 4, 5, max_length=0)


def test_a_module_that_draws_its_answers_is_refused_where_a_decode_begins() -> None:
    module = torch.nn.Sequential(torch.nn.Embedding(VOCAB_SIZE, VOCAB_SIZE), torch.nn.Dropout()).eval()
    function = LogitsFunction(module, MASK_ID, VOCAB_SIZE, max_length=MAX_LENGTH)
    CONFIDENT.begin(function, ragged_requests(1, block=4))
    module.train()
    with pytest.raises(ValueError, match="Sequential: its Dropout is in training mode; call its eval"):
        CONFIDENT.begin(function, ragged_requests(1, block=4))
