"""A model's routers, from outside: watch where they send positions, and give them another rule.

    with RouterWatch(model) as watch:
        model.sequence_hidden(tokens)
    watch.routed[router][forward].expert_BFA
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .mixture import Routed, Router
from .routing_rules import RoutingRule
from .transformer import Transformer


def routers_of(module: nn.Module) -> list[Router]:
    """In the order of the layers."""
    return [router for router in module.modules() if isinstance(router, Router)]


def ruled(transformer: Transformer, rule: RoutingRule) -> Transformer:
    """The model with this rule for its routers; it shares its weights with the one given, which stays as it is.
    ValueError if the rule does not suit its experts."""
    shared = {id(tensor): tensor for tensor in (*transformer.parameters(), *transformer.buffers())}
    other = copy.deepcopy(transformer, shared)
    for router in routers_of(other):
        rule.check(router.routing, len(router.weight))
        router.rule = rule
    return other


class RouterWatch:
    """Within its `with` block, what every router of a module gives: `routed[r]` lists that of router r, in the order of
    the layers, forward after forward."""

    def __init__(self, module: nn.Module) -> None:
        self.routers = routers_of(module)
        self.routed: list[list[Routed]] = [[] for _ in self.routers]

    def __enter__(self) -> "RouterWatch":
        def keep(seen: list[Routed]) -> Any:
            return lambda router, inputs, routed: seen.append(routed)

        self._hooks = [router.register_forward_hook(keep(seen))
                       for router, seen in zip(self.routers, self.routed, strict=True)]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def clear(self) -> None:
        """Forget what was seen so far."""
        for seen in self.routed:
            seen.clear()


def load(routed: Routed) -> Tensor:
    """How many assignments each expert got: int64 [X]."""
    expert_P = routed.expert_BFA.flatten().long()
    return expert_P.new_zeros(routed.logits_BFX.shape[-1]).scatter_add_(0, expert_P, torch.ones_like(expert_P))


def violation(load_X: Tensor) -> Tensor:
    """How far the fullest expert is above the mean load, as a share of it (a scalar): MaxVio of arXiv 2408.15664. 0 is
    balance."""
    return load_X.max() / load_X.double().mean() - 1
