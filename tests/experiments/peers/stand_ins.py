"""Public loops in miniature, written from the papers with the signatures of the peers' own: what a checkout would hold.
OFFSET is added to every committed token, so that any other than 0 must be found out."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from quicksilver.experiments.peers.base import Comparison, Outcome

_RULE = """
import torch

def quotas(num_masks, steps):
    return [num_masks // steps + (step < num_masks % steps) for step in range(steps)]

def confidence(logits_FV):
    prob_F, token_F = logits_FV.double().softmax(-1).max(-1)
    return list(zip(prob_F.tolist(), (token_F + OFFSET).tolist()))
"""

LLADA = _RULE + """
from transformers import AutoModel

def generate(model, prompt, attention_mask=None, steps=0, gen_length=0, block_length=0, temperature=1.0, cfg_scale=0.0,
             mask_id=0):
    assert temperature == 0
    x = torch.cat((prompt, torch.full((1, gen_length), mask_id)), 1)
    given = x != mask_id
    for begin in range(prompt.shape[1], x.shape[1], block_length):
        for quota in quotas(block_length, steps * block_length // gen_length):
            if cfg_scale > 0:
                if attention_mask is not None:
                    doubled = attention_mask.repeat(2, 1)
                both = model(torch.cat((x, torch.where(given, mask_id, x))), attention_mask=doubled).logits
                logits = both[1] + (cfg_scale + 1) * (both[0] - both[1])
            else:
                logits = model(x, attention_mask=attention_mask).logits[0]
            best = confidence(logits)
            open_ = [i for i in range(begin, begin + block_length) if x[0, i] == mask_id]
            for i in sorted(open_, key=lambda i: -best[i][0])[:quota]:
                x[0, i] = best[i][1]
    return x
"""

# The factor rule has its known faults, and the cached loops one forward for a block that the first has finished.
LOOPS = _RULE + """
from transformers import AutoModel

def get_transfer_index_dynamic(logits, temperature, remasking, mask_index, x, num_transfer_tokens, factor):
    best = confidence(logits[0])
    order = sorted((i for i in range(len(best)) if mask_index[0, i]), key=lambda i: -best[i][0])
    limits = [1 - factor / (n + 1) for n in range(1, len(order) + 1)]
    limits[0] = -1.0
    fails = [n for n in range(len(order)) if best[order[n]][0] < limits[n]]
    count = min(fails + [len(order) - 1])
    if count in (0, len(order) - 1):
        count += 1
    transfer = torch.zeros_like(mask_index)
    transfer[0, order[:count]] = True
    return torch.where(mask_index, torch.tensor([[token for _, token in best]]), x), transfer

def chosen(logits, x, mask_index, quota, threshold, factor):
    if factor is not None:
        return get_transfer_index_dynamic(logits, 0.0, "low_confidence", mask_index, x, None, factor)
    best = confidence(logits[0])
    order = sorted((i for i in range(len(best)) if mask_index[0, i]), key=lambda i: -best[i][0])
    taken = order[:quota] if threshold is None else [i for n, i in enumerate(order) if not n or best[i][0] >= threshold]
    transfer = torch.zeros_like(mask_index)
    transfer[0, taken] = True
    return torch.where(mask_index, torch.tensor([[token for _, token in best]]), x), transfer

def loop(model, prompt, steps, gen_length, block_length, mask_id, threshold, factor, feed):
    x = torch.cat((prompt, torch.full((1, gen_length), mask_id)), 1)
    for begin in range(prompt.shape[1], x.shape[1], block_length):
        end, past = begin + block_length, None
        for step, quota in enumerate(quotas(block_length, steps * block_length // gen_length) + [0] * block_length):
            if (x[0, begin:end] != mask_id).all() and (past is None or step > 1):
                break
            lo, hi, output = feed(model, x, begin, end, past)
            past = past or output.past_key_values
            where = torch.arange(lo, hi)
            mask_index = (x[:, lo:hi] == mask_id) & (where >= begin) & (where < end)
            token, transfer = chosen(output.logits, x[:, lo:hi], mask_index, quota, threshold, factor)
            x[:, lo:hi] = torch.where(transfer, token, x[:, lo:hi])
    return x, 0

def generate(model, prompt, steps, gen_length, block_length, temperature, mask_id, threshold=None, factor=None):
    def feed(model, x, begin, end, past):
        return 0, x.shape[1], model(x)
    return loop(model, prompt, steps, gen_length, block_length, mask_id, threshold, factor, feed)

def generate_with_prefix_cache(model, prompt, steps, gen_length, block_length, temperature, mask_id, threshold=None,
                               factor=None):
    def feed(model, x, begin, end, past):
        if past is None:
            return 0, x.shape[1], model(x, use_cache=True)
        before = [tuple(part[:, :, :begin] for part in layer) for layer in past]
        return begin, x.shape[1], model(x[:, begin:], past_key_values=before, use_cache=True)
    return loop(model, prompt, steps, gen_length, block_length, mask_id, threshold, factor, feed)

def generate_with_dual_cache(model, prompt, steps, gen_length, block_length, temperature, mask_id, threshold=None,
                             factor=None):
    def feed(model, x, begin, end, past):
        if past is None:
            return 0, x.shape[1], model(x, use_cache=True)
        position = torch.arange(x.shape[1])[None]
        return begin, end, model(x[:, begin:end], past_key_values=past, use_cache=True,
                                 replace_position=(position >= begin) & (position < end))
    return loop(model, prompt, steps, gen_length, block_length, mask_id, threshold, factor, feed)
"""


def checkout(folder: Path, file: str, text: str, offset: int = 0) -> Path:
    """A folder that holds one file of a peer's."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("OFFSET", str(offset)))
    return folder


def measured(comparisons: Iterable[Comparison[Outcome]]) -> Iterator[Outcome]:
    """What the comparisons find."""
    return (comparison.measure() for comparison in comparisons)
