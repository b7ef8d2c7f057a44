"""The oracle: a decode with any cache, compared at every step with a full forward of the same canvas.

With h and p a layer's state and distribution from the cache, h* and p* those of the full forward, per position:

    KL              sum_v p*_v (log p*_v - log p_v), in nats
    flip            argmax p != argmax p*
    relative error  |h - h*| / |h*|

A layer's state is its residual stream after the final norm, and its distribution the head's output on that (a logit
lens); the last layer's are the model's prediction. The decode continues from the cached result, so that errors
accumulate as in use; the policy is also run on the exact result, without effect on the decode.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ...decoders import Completion, Decoder, Edit, Policy, Proposal, Recompute, Request, Step, StepState
from ...decoders.caches.exact import full_forward
from ...kernels.distribution_state import PreviousDistribution
from ...kernels.token_statistics import StatisticsRequest, TokenStatistics
from ...models import DecodableTransformer, KVStore, LanguageModel, ModelSpec, Plan, Transformer


@dataclass(frozen=True)
class StepError:
    """One step, number `index` of its window. `rows` maps the batch to the requests.

    kl_NBQ (float32, nats), flipped_NBQ (bool) and relative_error_NBQ (float32) are [N, B, Q] by layer, first to last;
    one layer if a model does not expose them. They count at masked positions, masked_BQ. Bool [B, Q] too: positions
    committed; positions where the policy's exact edit differs; committed positions where the exact proposal has another
    token. positions_computed includes padding; forwards that only store count with the step that follows."""

    window: int
    index: int
    rows: tuple[int, ...]
    masked_BQ: Tensor
    kl_NBQ: Tensor
    flipped_NBQ: Tensor
    relative_error_NBQ: Tensor
    commit_BQ: Tensor
    edited_otherwise_BQ: Tensor
    token_differs_BQ: Tensor
    positions_computed: int
    positions_whole: int


@dataclass(frozen=True)
class Comparison:
    """The steps of a decode, its completions, and the completions of a separate decode with full recompute."""

    steps: list[StepError]
    completions: list[Completion]
    exact_completions: list[Completion]


@torch.inference_mode()
def compare_with_recompute(decoder: Decoder, model: LanguageModel, requests: Sequence[Request]) -> Comparison:
    """Decode the requests as one batch and compare every step. Only a DecodableTransformer exposes its inner layers.

    ValueError if the decoder or the model does not fit, if the head is fused (full distributions are compared), or if
    the guidance supports no KV cache."""
    if not model.spec.materializes_logits:
        raise ValueError("a fused head: the oracle compares all logits of a position, which only a separate head holds")
    if not decoder.guidance.takes_store:
        raise ValueError(f"guidance={decoder.guidance}: no cache serves it, so there is nothing to compare")
    states: list[StepState] = []
    watched, steps = replace(decoder, policy=_kept(decoder.policy, states)), []
    with _watching(model) as layers:
        seen = _InstrumentedModel(model, layers)
        run = watched.begin(seen, requests)
        for step in watched.stream(run):
            steps.append(_step_error(step, decoder.policy, states.pop(), seen))
    exact = replace(decoder, cache=Recompute())
    return Comparison(steps, watched.completions(run), exact.decode(model, requests))


def _step_error(step: Step, policy: Policy, state: StepState, seen: "_InstrumentedModel") -> StepError:
    model, states_NBQE = seen.model, seen.states_NBQE
    assert seen.request is not None
    assert states_NBQE is not None
    plan = full_forward(step.window, state.canvas.length)
    exact_BQE = model.hidden(state.canvas.tokens_BS, plan, None)
    exact_NBQE = seen.layers.states(exact_BQE, plan.index(model.spec.shift))
    compared = [_divergence(model, cached_BQE, other_BQE)
                for cached_BQE, other_BQE in zip(states_NBQE, exact_NBQE, strict=True)]
    kl_NBQ, flipped_NBQ = (torch.stack(values) for values in zip(*compared, strict=True))
    distance_NBQ = (states_NBQE - exact_NBQE).float().norm(dim=-1)
    exact_proposal = Proposal(model.statistics(exact_BQE, seen.request))
    exact_edit = policy.select(state, exact_proposal)
    otherwise_BQ = (step.edit.commit_BQ != exact_edit.commit_BQ) | (_remask(step.edit) != _remask(exact_edit))
    num_computed, seen.num_computed = seen.num_computed, 0
    return StepError(step.window.index, step.index, step.rows, state.masked_BQ, kl_NBQ, flipped_NBQ,
                     distance_NBQ / exact_NBQE.float().norm(dim=-1), step.edit.commit_BQ, otherwise_BQ,
                     step.edit.commit_BQ & (step.proposal.token_BQ != exact_proposal.token_BQ),
                     num_computed, plan.feed_BF.numel())


def _divergence(model: LanguageModel, cached_BQE: Tensor, exact_BQE: Tensor) -> tuple[Tensor, Tensor]:
    """KL(exact || cached) of the head's distributions for two states, in nats, and whether their argmaxes differ,
    [B, Q]."""
    shape = torch.Size((*cached_BQE.shape[:2], model.spec.vocab_size))
    request = StatisticsRequest(frozenset({"divergence"}),
                                previous=PreviousDistribution.empty(shape, model.spec.device))
    cached, exact = model.statistics(cached_BQE, request), model.statistics(exact_BQE, request)
    assert exact.divergence_BQ is not None
    return exact.divergence_BQ, cached.token_BQ != exact.token_BQ


def _remask(edit: Edit) -> Tensor:
    return torch.zeros_like(edit.commit_BQ) if edit.remask_BQ is None else edit.remask_BQ


def _kept(policy: Policy, states: list[StepState]) -> Policy:
    """The policy, which also appends a copy of every state to `states` and needs the whole window queried."""

    class Kept(Policy):
        statistics = policy.statistics
        needs_open_quota = policy.needs_open_quota
        needs_free_quota = policy.needs_free_quota
        needs_times = policy.needs_times
        revises = policy.revises
        needs_whole_window = True

        def begin(self, query_BQ: Tensor) -> Tensor | None:
            return policy.begin(query_BQ)

        def select(self, state: StepState, proposal: Proposal) -> Edit:
            every_row_B = torch.arange(len(state.query_BQ), device=state.query_BQ.device)
            memory = None if state.memory is None else state.memory.clone()
            states.append(replace(state, step_B=state.step_B.clone(), canvas=state.canvas.rows(every_row_B),
                                  unfinished_B=state.unfinished_B.clone(), memory=memory))
            return policy.select(state, proposal)

    return Kept()


@dataclass
class _Layers:
    """The layers' states in a model's last forward. `transformer` is None if a model does not expose them."""

    transformer: Transformer | None
    outputs: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def states(self, hidden_BQE: Tensor, index_BQ: Tensor | None) -> Tensor:
        """Every layer's states at the queried positions, [N, B, Q, E], of the forward that gave `hidden_BQE`. index_BQ
        are the indices of the queried positions among the fed ones (None: the same)."""
        outputs, self.outputs = self.outputs, []
        if self.transformer is None or not hidden_BQE.shape[1]:
            return hidden_BQE[None]
        inner = [self.transformer.norm(_at(index_BQ, x_BFE), _at(index_BQ, residual_BFE))[0]
                 for x_BFE, residual_BFE in outputs[:-1]]
        return torch.stack([*inner, hidden_BQE])


@contextmanager
def _watching(model: LanguageModel) -> Iterator[_Layers]:
    """The model's layers, recorded by forward hooks within the context."""
    layers = _Layers(model.transformer if isinstance(model, DecodableTransformer) else None)

    def keep(block: nn.Module, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        layers.outputs.append(output)

    with ExitStack() as hooks:
        for block in () if layers.transformer is None else layers.transformer.blocks:
            hooks.callback(block.register_forward_hook(keep).remove)
        yield layers


def _at(index_BQ: Tensor | None, x_BFE: Tensor) -> Tensor:
    return x_BFE if index_BQ is None else x_BFE.gather(1, index_BQ[..., None].expand(-1, -1, x_BFE.shape[-1]))


@dataclass
class _InstrumentedModel:
    """A LanguageModel that keeps the layers' states of its last forward and its last statistics request, and counts the
    positions it computes."""

    model: LanguageModel
    layers: _Layers
    states_NBQE: Tensor | None = None
    request: StatisticsRequest | None = None
    num_computed: int = 0

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    def new_store(self, num_rows: int, length: int) -> KVStore:
        return self.model.new_store(num_rows, length)

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        hidden_BQE = self.model.hidden(tokens_BS, plan, store)
        self.states_NBQE = self.layers.states(hidden_BQE, plan.index(self.model.spec.shift))
        self.num_computed += plan.feed_BF.numel()
        return hidden_BQE

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> TokenStatistics:
        self.request = _copy(request)
        return self.model.statistics(hidden_BQE, request)

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        return self.model.forward_cost(num_fed, num_keys_seen, num_queried, num_stored_read)


def _copy(request: StatisticsRequest) -> StatisticsRequest:
    """The request with copies of the state that is written in place."""
    previous, credit = request.previous, request.credit
    copied = None if previous is None else PreviousDistribution(previous.log_probs_BQV.clone())
    return replace(request, previous=copied,
                   credit=None if credit is None else replace(credit, credit_BQV=credit.credit_BQV.clone()))
