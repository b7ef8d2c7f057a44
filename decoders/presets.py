"""The published decoders by name: each function returns a paper's `Decoder`, with the paper's knobs as its arguments.

    from quicksilver.decoders import presets
    decoder = presets.fast_dllm_dual(block=32, tau=0.9)

`block` is the length of the blocks decoded from left to right; a preset without it decodes the whole completion as one
window. `steps` is the number of denoising steps of one window: of each block, or of the whole completion, never a total
over blocks. Defaults are the published values, 8 steps where a paper varies them. Fields common to all decoders are
changed with `replace`: `dataclasses.replace(presets.llada(), sampler=Categorical(0.7), end_id=2)`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from .caches import Append, BlockCausalCache, Delayed, Dual, Prefix, Recompute, Vicinity
from .decoder import Decoder
from .guidance import ClassifierFree
from .policies import (
    ByConfidence,
    Capped,
    EntropyBound,
    EntropySum,
    EntropyThreshold,
    Factor,
    Hierarchy,
    Klass,
    Leftmost,
    LowEntropy,
    PathPlanning,
    Prophet,
    RandomOrder,
    Redecide,
    RelativeThreshold,
    Remdm,
    RemdmLoop,
    Rescaled,
    Threshold,
    TokenEditing,
    TopMargin,
    TopProbability,
)
from .samplers import Categorical, Credited, Greedy, Sampler
from .schedules import Binomial, Cosine, Dream, Even, FirstHitting, Floor, Free, Linear, Unbounded
from .windows import Blocks, GridBlocks, Whole

_GREEDY = Greedy()


def autoregressive(sampler: Sampler = _GREEDY) -> Decoder:
    """Token by token from left to right with a KV cache, for causal models (the baseline)."""
    return Decoder(Blocks(1), Linear(1), sampler, Leftmost(), Append())


def mdlm(steps: int = 8, temperature: float = 1.0, top_p: float | None = None) -> Decoder:
    """MDLM, ancestral: in each step every mask is committed by its own chance (arXiv 2406.07524)."""
    return Decoder(Whole(), Binomial(steps), Categorical(temperature, top_p=top_p), RandomOrder(), Recompute())


def first_hitting(temperature: float = 1.0, top_p: float | None = None) -> Decoder:
    """One random mask a step, at the time the exact reverse process would (arXiv 2409.02908)."""
    return Decoder(Whole(), FirstHitting(), Categorical(temperature, top_p=top_p), RandomOrder(), Recompute())


def remdm_cap(steps: int = 8, eta: float = 0.008, temperature: float = 1.0, top_p: float | None = None) -> Decoder:
    """ReMDM, probability of remasking capped at eta (arXiv 2503.00307)."""
    sampler = Categorical(temperature, top_p=top_p)
    return Decoder(Whole(), Free(Linear(steps)), sampler, Remdm(Capped(eta)), Recompute())


def remdm_rescale(steps: int = 8, eta: float = 0.015, temperature: float = 1.0, top_p: float | None = None) -> Decoder:
    """ReMDM, probability of remasking eta times its largest (arXiv 2503.00307)."""
    sampler = Categorical(temperature, top_p=top_p)
    return Decoder(Whole(), Free(Linear(steps)), sampler, Remdm(Rescaled(eta)), Recompute())


def remdm_confidence(steps: int = 8, temperature: float = 1.0, top_p: float | None = None) -> Decoder:
    """ReMDM, the least probable tokens are remasked most (arXiv 2503.00307)."""
    sampler = Categorical(temperature, top_p=top_p)
    return Decoder(Whole(), Free(Linear(steps)), sampler, Remdm(ByConfidence()), Recompute())


def remdm_loop(steps: int = 8, eta: float = 0.02, hold_from: float = 0.55, hold_until: float = 0.05,
               alpha: float = 0.9, temperature: float = 1.0, top_p: float | None = None) -> Decoder:
    """ReMDM, loop: commit, exchange tokens while a share alpha stays, commit the rest (arXiv 2503.00307)."""
    sampler = Categorical(temperature, top_p=top_p)
    return Decoder(Whole(), Free(Linear(steps)), sampler, RemdmLoop(eta, hold_from, hold_until, alpha), Recompute())


def maskgit(steps: int = 8) -> Decoder:
    """MaskGIT, few tokens first by the cosine, most probable first (arXiv 2202.04200)."""
    return Decoder(Whole(), Cosine(steps), Greedy(), TopProbability(), Recompute())


def llada(block: int = 32, steps: int = 32) -> Decoder:
    """LLaDA, an equal number of tokens a step in blocks, most probable first (arXiv 2502.09992)."""
    return Decoder(Blocks(block), Linear(steps), Greedy(), TopProbability(), Recompute())


def llada_random(block: int = 32, steps: int = 32) -> Decoder:
    """LLaDA, remasking=random: random order (arXiv 2502.09992)."""
    return Decoder(Blocks(block), Linear(steps), Greedy(), RandomOrder(), Recompute())


def llada_guided(block: int = 32, steps: int = 32, scale: float = 1.0) -> Decoder:
    """LLaDA with classifier-free guidance: two rows a forward (arXiv 2410.18514)."""
    guidance = ClassifierFree(scale)
    return Decoder(Blocks(block), Linear(steps), Greedy(), TopProbability(), Recompute(), guidance=guidance)


def dream_origin(steps: int = 8, temperature: float = 1.0, top_p: float | None = None) -> Decoder:
    """Dream, alg=origin: ancestral (arXiv 2508.15487)."""
    return Decoder(Whole(), Binomial(steps), Categorical(temperature, top_p=top_p), RandomOrder(), Recompute())


def dream_maskgit_plus(steps: int = 8, eps: float = 1e-3) -> Decoder:
    """Dream, alg=maskgit_plus: its truncated number of tokens a step, most probable first (arXiv 2508.15487)."""
    return Decoder(Whole(), Dream(steps, eps), Greedy(), TopProbability(), Recompute())


def dream_margin(steps: int = 8, eps: float = 1e-3) -> Decoder:
    """Dream, alg=topk_margin: largest margin of the two best tokens first (arXiv 2508.15487)."""
    return Decoder(Whole(), Dream(steps, eps), Greedy(), TopMargin(), Recompute())


def dream_entropy(steps: int = 8, eps: float = 1e-3) -> Decoder:
    """Dream, alg=entropy: lowest entropy first (arXiv 2508.15487)."""
    return Decoder(Whole(), Dream(steps, eps), Greedy(), LowEntropy(), Recompute())


def prophet(steps: int = 8, early: float = 7.5, middle: float = 5.0, late: float = 2.5) -> Decoder:
    """Prophet, LLaDA's steps until the logit gap is wide enough, then everything at once (arXiv 2508.19982)."""
    return Decoder(Whole(), Floor(Linear(steps)), Greedy(), Prophet(early, middle, late), Recompute())


def p2(steps: int = 8, eta: float = 1.0) -> Decoder:
    """P2, self-planning: the best positions stay, masked or committed before (arXiv 2502.03540)."""
    return Decoder(Whole(), Free(Linear(steps)), Greedy(), PathPlanning(eta), Recompute())


def diffusion_vs_ar(steps: int = 8, noise: float = 0.0) -> Decoder:
    """Top-k with remasking: each step commits anew among all positions (arXiv 2410.14157)."""
    return Decoder(Whole(), Free(Linear(steps)), Greedy(), Redecide(noise), Recompute())


def dkv_cache(steps: int = 8, refresh_every: int = 8) -> Decoder:
    """dKV-Cache, keys and values stored one step after a token is committed (arXiv 2505.15781)."""
    return Decoder(Whole(), Linear(steps), Greedy(), TopProbability(), Delayed(refresh_every))


def threshold(tau: float = 0.9) -> Decoder:
    """Fast-dLLM's threshold on the whole completion, nothing cached (arXiv 2505.22618)."""
    return Decoder(Whole(), Unbounded(), Greedy(), Threshold(tau), Recompute())


def fast_dllm(block: int = 32, tau: float = 0.9) -> Decoder:
    """Fast-dLLM, threshold in blocks, nothing cached (arXiv 2505.22618)."""
    return Decoder(Blocks(block), Unbounded(), Greedy(), Threshold(tau), Recompute())


def fast_dllm_prefix(block: int = 32, tau: float = 0.9) -> Decoder:
    """Fast-dLLM, threshold and prefix cache: what lies before the block is stored (arXiv 2505.22618)."""
    return Decoder(Blocks(block), Unbounded(), Greedy(), Threshold(tau), Prefix())


def fast_dllm_dual(block: int = 32, tau: float = 0.9) -> Decoder:
    """Fast-dLLM, threshold and dual cache: only the block is computed (arXiv 2505.22618)."""
    return Decoder(Blocks(block), Unbounded(), Greedy(), Threshold(tau), Dual())


def fast_dllm_factor(block: int = 32, factor: float = 1.0) -> Decoder:
    """Fast-dLLM, factor rule and dual cache (arXiv 2505.22618)."""
    return Decoder(Blocks(block), Unbounded(), Greedy(), Factor(factor), Dual())


def eb_sampler(gamma: float = 0.1) -> Decoder:
    """EB-Sampler, as many as keep the entropy bound of gamma nats, lowest entropy first (arXiv 2505.24857)."""
    return Decoder(Whole(), Unbounded(), Greedy(), EntropyBound(gamma), Recompute())


def dparallel(block: int = 32, nats: float = 0.5) -> Decoder:
    """dParallel, entropy below a threshold; for models distilled to be certain (arXiv 2509.26488)."""
    return Decoder(Blocks(block), Unbounded(), Greedy(), EntropyThreshold(nats), Recompute())


def klass(block: int = 64, tau: float = 0.9, epsilon: float = 0.01, history: int = 2) -> Decoder:
    """KLASS, probable tokens whose distribution is stable, in blocks (arXiv 2511.05664)."""
    return Decoder(Blocks(block), Unbounded(), Greedy(), Klass(tau, epsilon, history), Recompute())


def dinfer_threshold(block: int = 64, tau: float = 0.9, slack: float = 1e-5, radius: int = 16, warm_up: int = 4,
                     refresh_every: int = 16) -> Decoder:
    """dInfer, threshold or within slack of the best, vicinity cache (arXiv 2510.08666)."""
    cache = Vicinity(radius, warm_up, refresh_every)
    return Decoder(Blocks(block), Unbounded(), Greedy(), RelativeThreshold(tau, slack), cache)


def dinfer_hierarchy(block: int = 64, tau: float = 0.9, low: float = 0.4, radius: int = 16, warm_up: int = 4,
                     refresh_every: int = 16) -> Decoder:
    """dInfer, hierarchical: threshold and the best of each run of masks, vicinity cache (arXiv 2510.08666)."""
    cache = Vicinity(radius, warm_up, refresh_every)
    return Decoder(Blocks(block), Unbounded(), Greedy(), Hierarchy(tau, low), cache)


def dinfer_credit(block: int = 64, tau: float = 0.9, slack: float = 1e-5, alpha: float = 0.7, beta: float = 0.8,
                  gamma: float = 0.2, radius: int = 16, warm_up: int = 4, refresh_every: int = 16) -> Decoder:
    """dInfer, credit for tokens that stay the most probable, vicinity cache (arXiv 2510.08666)."""
    sampler, cache = Credited(Greedy(), alpha, beta, gamma), Vicinity(radius, warm_up, refresh_every)
    return Decoder(Blocks(block), Unbounded(), sampler, RelativeThreshold(tau, slack), cache)


def block_diffusion(block: int = 32, steps: int = 32) -> Decoder:
    """An equal number of tokens a step, most probable first, for block-causal models, exact cache (ours)."""
    return Decoder(GridBlocks(block), Linear(steps), Greedy(), TopProbability(), BlockCausalCache())


def bd3lm(block: int = 4, temperature: float = 1.0, top_p: float | None = None) -> Decoder:
    """BD3-LM, first-hitting in blocks, exact cache (arXiv 2503.09573)."""
    sampler = Categorical(temperature, top_p=top_p)
    return Decoder(GridBlocks(block), FirstHitting(), sampler, RandomOrder(), BlockCausalCache())


def sdar_static(block: int = 4, steps: int = 4) -> Decoder:
    """SDAR, low_confidence_static: a fixed number of tokens a step, exact cache (arXiv 2510.06303)."""
    return Decoder(GridBlocks(block), Even(steps), Greedy(), TopProbability(), BlockCausalCache())


def sdar_dynamic(block: int = 4, steps: int = 4, tau: float = 0.85) -> Decoder:
    """SDAR, low_confidence_dynamic: threshold, at least that number, exact cache (arXiv 2510.06303)."""
    return Decoder(GridBlocks(block), Floor(Even(steps)), Greedy(), Threshold(tau), BlockCausalCache())


def jetengine_entropy(block: int = 4, gamma: float = 0.1) -> Decoder:
    """JetEngine, entropy_bounded: entropies sum to less than gamma, exact cache (SDAR's engine, arXiv 2510.06303)."""
    return Decoder(GridBlocks(block), Unbounded(), Greedy(), EntropySum(gamma), BlockCausalCache())


def llada2(block: int = 32, steps: int = 32, tau: float = 0.95) -> Decoder:
    """LLaDA2.0, threshold, at least an equal number of tokens a step, exact cache (arXiv 2512.15745)."""
    return Decoder(GridBlocks(block), Floor(Even(steps)), Greedy(), Threshold(tau), BlockCausalCache())


def llada2_1(block: int = 32, draft_tau: float = 0.7, edit_tau: float = 0.9, num_passes: int = 16) -> Decoder:
    """LLaDA2.1, low threshold for drafts, which are edited while the block is open (arXiv 2602.08676)."""
    policy = TokenEditing(draft_tau, edit_tau, num_passes)
    return Decoder(GridBlocks(block), Unbounded(), Greedy(), policy, BlockCausalCache())


def llada2_1_multi_block(block: int = 32, draft_tau: float = 0.7, edit_tau: float = 0.9, num_passes: int = 16,
                         num_revised: int = 1) -> Decoder:
    """LLaDA2.1, multi-block editing: earlier blocks stay open and are computed again (arXiv 2602.08676)."""
    policy = TokenEditing(draft_tau, edit_tau, num_passes)
    return Decoder(GridBlocks(block, num_revised), Unbounded(), Greedy(), policy, BlockCausalCache())


def mercury_style(block: int = 32, steps: int = 8, noise: float = 0.0) -> Decoder:
    """Coarse to fine in the manner of Mercury (ours; Mercury's rule is unpublished, arXiv 2506.17298).

    Published: Mercury refines all positions of its output in parallel, in few steps, from coarse to fine. Ours: each
    step proposes every position of the block anew, commits the most probable ones (few at first, by a cosine schedule)
    and remasks the others; after a block's first step only the block is computed (dual cache)."""
    return Decoder(Blocks(block), Free(Cosine(steps)), Greedy(), Redecide(noise), Dual())


PRESETS: Mapping[str, Callable[..., Decoder]] = {
    name: value for name, value in vars().items() if inspect.isfunction(value) and value.__module__ == __name__}
"""Every preset by its name."""


def knobs(name: str) -> dict[str, Any]:
    """The arguments of a preset with their defaults. ValueError names the presets where there is none of that name."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r}: must be one of {', '.join(PRESETS)}")
    return {knob: parameter.default for knob, parameter in inspect.signature(PRESETS[name]).parameters.items()}
