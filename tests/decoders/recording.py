"""A decode with everything that it did: plans, hidden states and steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from quicksilver.decoders import Accounting, Completion, Decoder, Edit, Proposal, Request
from quicksilver.decoders.windows import Window
from quicksilver.models import DecodableTransformer, KVStore, Plan
from torch import Tensor


@dataclass(frozen=True)
class RecordingModel(DecodableTransformer):
    """A model that keeps the plans of its forwards, and the hidden states that it answers with their positions."""

    plans: list[Plan] = field(default_factory=list)
    answers: list[Tensor] = field(default_factory=list)
    asked: list[Tensor] = field(default_factory=list)

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        hidden_BQE = super().hidden(tokens_BS, plan, store)
        self.plans.append(plan)
        if plan.query_BQ.shape[1]:
            self.answers.append(hidden_BQE.clone())
            self.asked.append(plan.query_BQ)
        return hidden_BQE


@dataclass(frozen=True)
class Taken:
    """A step: its number, window and rows, what was proposed and changed, and the tokens [B, S] after it."""

    index: int
    window: Window
    rows: tuple[int, ...]
    proposal: Proposal
    edit: Edit
    tokens_BS: Tensor


class Run(NamedTuple):
    completions: list[Completion]
    steps: list[Taken]
    plans: list[Plan]
    answers: list[Tensor]
    asked: list[Tensor]
    accounting: Accounting


def run(decoder: Decoder, model: DecodableTransformer, requests: Sequence[Request]) -> Run:
    """Decode the requests, recording."""
    recording = RecordingModel(model.transformer, model.spec.mask_id, model.spec.shift, model.head)
    decode = decoder.begin(recording, requests)
    steps = [Taken(step.index, step.window, step.rows, step.proposal, step.edit, step.canvas.tokens_BS.clone())
             for step in decoder.stream(decode)]
    return Run(decoder.completions(decode), steps, recording.plans, recording.answers, recording.asked,
               decode.accounting)


def exists(taken: Taken, requests: Sequence[Request], position_BQ: Tensor | None = None) -> Tensor:
    """Which of the positions (None: those of the step's window) a row has, bool [B, Q]."""
    stop_B = torch.tensor([len(requests[row].tokens) for row in taken.rows])
    return (taken.window.query_BQ if position_BQ is None else position_BQ) < stop_B[:, None]
