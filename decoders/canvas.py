"""The canvas: tokens, which positions are masked, and the step and log-probability of each commit.

A request is a row of tokens with the mask id wherever a token is wanted: usually a prompt followed by masks, in general
masks anywhere (infilling). Rows are aligned at their first token; shorter rows end earlier. The spare column L takes
writes that concern no position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.checks import check_integer, check_integers, integer_field
from ..kernels.commit import commit
from ..models.adapter import LanguageModel


@dataclass(frozen=True)
class Request:
    """Token ids with the mask id where one is wanted. `start` is the first position of the completion; `Blocks` count
    from it. The completion is cut at position `end` (None: not at all); what is decoded from there on is waste. Of its
    first `min_new` tokens none ends it. ValueError for an id, a number or a seed that is not an integer >= 0."""

    tokens: Sequence[int]
    start: int = 0
    seed: int = 0
    end: int | None = None
    min_new: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", check_integers("tokens", self.tokens))
        integer_field(self, "start", at_least=0)
        integer_field(self, "seed", at_least=0)
        if self.start >= len(self.tokens):
            raise ValueError(f"start={self.start}: the prompt must be shorter than the canvas of {len(self.tokens)}")
        if self.end is not None:
            integer_field(self, "end", at_least=self.start + 1, at_most=len(self.tokens))
        integer_field(self, "min_new", at_least=0, at_most=self.stop - self.start)

    @property
    def stop(self) -> int:
        """Where the completion ends, at the latest."""
        return len(self.tokens) if self.end is None else self.end

    @classmethod
    def completing(cls, prompt: Sequence[int], num_new: int, *, mask_id: int, seed: int = 0, min_new: int = 0,
                   edge: int | None = None) -> "Request":
        """A request for `num_new` tokens after `prompt`, decoded as far as position `edge` (None: no further)."""
        end = len(prompt) + check_integer("num_new", num_new)
        edge = end if edge is None else check_integer("edge", edge, at_least=end)
        return cls([*prompt, *[mask_id] * (edge - len(prompt))], start=len(prompt), seed=seed, min_new=min_new,
                   end=None if edge == end else end)


def check_length(length: int, model: LanguageModel) -> None:
    """ValueError if a canvas is longer than the model's max_length."""
    if length > model.spec.max_length:
        raise ValueError(f"a canvas of {length} tokens: the model's max_length is {model.spec.max_length}")


@dataclass(frozen=True)
class Canvas:
    """State of B rows, each tensor [B, S] with S = L + 1 (the spare column); written in place.

    tokens int64; masked bool; given bool (tokens of the request); step int64 of each commit, counted in its window;
    log_prob float32 of each commit, in nats, if the policy declares it (else 0); int64: stop_B, seed_B, and
    may_end_from_B, the first position that an end token may have."""

    tokens_BS: Tensor
    masked_BS: Tensor
    given_BS: Tensor
    log_prob_BS: Tensor
    step_BS: Tensor
    stop_B: Tensor
    seed_B: Tensor
    may_end_from_B: Tensor

    @classmethod
    def of(cls, requests: Sequence[Request], model: LanguageModel) -> "Canvas":
        """A canvas as long as the longest request. ValueError if a request does not fit the model."""
        if not requests:
            raise ValueError("requests=[]: at least one request is needed")
        length = max(len(request.tokens) for request in requests)
        check_length(length, model)
        rows = torch.zeros(len(requests), length + 1, dtype=torch.int64)
        for row, request in zip(rows, requests, strict=True):
            row[: len(request.tokens)] = torch.tensor(request.tokens)
        largest = int(rows.masked_fill(rows == model.spec.mask_id, 0).max())  # a model without mask has no such token
        if largest >= model.spec.vocab_size:
            raise ValueError(f"token id {largest}: must be from 0 to {model.spec.vocab_size - 1} (vocab_size - "
                             "1)")
        stop_B = torch.tensor([len(request.tokens) for request in requests])
        exists_BS = torch.arange(length + 1) < stop_B[:, None]
        masked_BS = exists_BS & (rows == model.spec.mask_id)
        start_B = torch.tensor([request.start for request in requests])
        if (masked_BS & (torch.arange(length + 1) < start_B[:, None])).any():
            raise ValueError(f"the mask id {model.spec.mask_id} stands before a request's start, where nothing is "
                             "decoded")
        shifted_out = masked_BS[:, : model.spec.shift]
        if shifted_out.any():
            raise ValueError("a next-token model cannot decide position 0: give a prompt of at least one token")
        seed_B = torch.tensor([request.seed for request in requests])
        may_end_from_B = torch.tensor([request.start + request.min_new for request in requests])
        on = model.spec.device
        return cls(rows.to(on), masked_BS.to(on), (exists_BS & ~masked_BS).to(on),
                   torch.zeros(rows.shape, device=on), torch.zeros_like(rows, device=on), stop_B.to(on), seed_B.to(on),
                   may_end_from_B.to(on))

    @property
    def length(self) -> int:
        return self.tokens_BS.shape[1] - 1

    def rows(self, index_B: Tensor) -> "Canvas":
        """A copy of the rows `index_B`."""
        return Canvas(*(tensor[index_B] for tensor in vars(self).values()))

    def put_rows(self, index_B: Tensor, rows: "Canvas") -> None:
        """Overwrite the rows `index_B`."""
        for mine, theirs in zip(vars(self).values(), vars(rows).values(), strict=True):
            mine[index_B] = theirs

    def commit(self, query_BQ: Tensor, commit_BQ: Tensor, token_BQ: Tensor, log_prob_BQ: Tensor | None,
               step: Tensor) -> Tensor:
        """Write the proposed tokens at the queried positions where `commit_BQ` is true. Returns the number of queried
        positions still masked, int64 [B]."""
        return commit(self.tokens_BS, self.masked_BS, self.step_BS, self.log_prob_BS, query_BQ, commit_BQ, token_BQ,
                      log_prob_BQ, step)

    def remask(self, query_BQ: Tensor, remask_BQ: Tensor, mask_id: int) -> Tensor:
        """Remask the queried positions where `remask_BQ` is true. Returns the number of queried positions then masked,
        int64 [B]."""
        column_BQ = torch.where(remask_BQ, query_BQ, self.length)
        self.tokens_BS.scatter_(1, column_BQ, mask_id)
        self.masked_BS.scatter_(1, column_BQ, True)
        self.masked_BS[:, self.length] = False
        return self.masked_BS.gather(1, query_BQ).sum(1)

    def revisable(self, query_BQ: Tensor) -> Tensor:
        """Which queried positions are committed, neither masked nor given, bool [B, Q]."""
        fixed_BS = self.masked_BS | self.given_BS
        return ~fixed_BS.gather(1, query_BQ) & (query_BQ < self.length)
