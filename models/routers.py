"""Access to a model's routers from outside: record their results, count the load, apply another routing rule.

    with RouterRecorder(model) as recorder:
        model.sequence_hidden(tokens)
    recorder.results[router][forward].expert_BFA
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .mixture import Router, RoutingResult
from .routing_rules import RoutingRule
from .transformer import Transformer


def routers_of(module: nn.Module) -> list[Router]:
    """In the order of the layers."""
    return [router for router in module.modules() if isinstance(router, Router)]


def with_routing_rule(transformer: Transformer, rule: RoutingRule) -> Transformer:
    """A model whose routers apply this rule. It shares the weights of the given model, which stays unchanged.
    ValueError if the rule does not fit its experts."""
    shared = {id(tensor): tensor for tensor in (*transformer.parameters(), *transformer.buffers())}
    other = copy.deepcopy(transformer, shared)
    for router in routers_of(other):
        rule.check(router.routing, len(router.weight))
        router.rule = rule
    return other


class RouterRecorder:
    """Records the result of every router of a module within its `with` block. `results[r]` lists those of router r, in
    the order of the layers, forward after forward."""

    def __init__(self, module: nn.Module) -> None:
        self.routers = routers_of(module)
        self.results: list[list[RoutingResult]] = [[] for _ in self.routers]

    def __enter__(self) -> "RouterRecorder":
        def keep(results: list[RoutingResult]) -> Any:
            return lambda router, inputs, result: results.append(result)

        self._hooks = [router.register_forward_hook(keep(results))
                       for router, results in zip(self.routers, self.results, strict=True)]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def clear(self) -> None:
        """Drop everything recorded so far."""
        for results in self.results:
            results.clear()


def expert_counts(result: RoutingResult) -> Tensor:
    """The number of assignments to each expert: int64 [X]."""
    expert_P = result.expert_BFA.flatten().long()
    return expert_P.new_zeros(result.logits_BFX.shape[-1]).scatter_add_(0, expert_P, torch.ones_like(expert_P))


def max_violation(count_X: Tensor) -> Tensor:
    """MaxVio (arXiv 2408.15664), a scalar: the maximum over the mean load, minus 1. 0 where experts are balanced."""
    return count_X.max() / count_X.double().mean() - 1
