"""A tape: what it runs again, what it does not make again, and what it refuses."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from quicksilver.decoders.capture.operators import replay_of
from quicksilver.decoders.capture.tape import Tape
from torch import Tensor


def recorded(function: Callable[..., Tensor], *arguments: Tensor, make: Callable[..., Callable[[], None]] = replay_of):
    with torch.inference_mode():
        with Tape() as tape:
            result = function(*arguments)
        entries, result = tape.finish(result)
        return tape, (make(entries), result)


def check(function: Callable[..., Tensor], *arguments: Tensor, make: Callable[..., Callable[[], None]] = replay_of
          ) -> None:
    """The function again, with other values in its arguments, gives and writes what it does when it is called."""
    _, (replay, result) = recorded(function, *arguments, make=make)
    with torch.inference_mode():
        for seed in range(3):
            torch.manual_seed(seed)
            values = [torch.randint(-8, 8, argument.shape).to(argument.dtype) for argument in arguments]
            for argument, value in zip(arguments, values, strict=True):
                argument.copy_(value)
            expected = function(*values)
            replay()
            assert torch.equal(result, expected)
            assert all(torch.equal(*pair) for pair in zip(arguments, values, strict=True))


def in_place(x_N: Tensor, y_N: Tensor) -> Tensor:
    x_N.mul_(2)[1:].add_(y_N[:-1])
    torch.gt(x_N, y_N, out=x_N)
    return x_N + y_N


def scattered(x_N: Tensor, y_N: Tensor) -> Tensor:
    total_N, plain_N = torch.zeros(4), torch.zeros(4)
    before_N = total_N + 1
    total_N.view(2, 2)[0].add_(x_N[:2])
    return total_N + before_N + plain_N + torch.arange(4) * y_N


def split(x_N: Tensor, y_N: Tensor) -> Tensor:
    first, second = x_N.split(2)
    value, index = torch.cat((second, first)).max(0)
    return torch.where(y_N[0] > 5, float("inf"), value + index + y_N[[1, 3, 1]].sum())


def expanded(x_N: Tensor, y_N: Tensor) -> Tensor:
    return (x_N[0] * 2).expand(3)


def of_an_argument(x_N: Tensor, y_N: Tensor) -> Tensor:
    y_N.copy_(x_N)
    return y_N[1:]


def copied_by_reshape(x_N: Tensor, y_N: Tensor) -> Tensor:
    """What is called a view of an argument and is a copy, and one of constants that is written."""
    turned_N = x_N.view(2, 2).t().reshape(4)
    table_N = torch.arange(4.0).view(2, 2).t().flatten()
    table_N.add_(y_N)
    return turned_N + table_N + x_N.view(2, 2).flatten()


FUNCTIONS = (in_place, scattered, split, expanded, of_an_argument, copied_by_reshape)


def test_views_of_what_is_found_and_what_follows_from_constants_are_not_made_again() -> None:
    weight_NN = torch.eye(4)

    def product(x_N: Tensor) -> Tensor:
        return weight_NN.t() @ x_N + torch.arange(4) * 3

    _, (replay, result) = recorded(product, torch.ones(4))
    with torch.inference_mode(), torch.profiler.profile() as profile:
        weight_NN.mul_(2)
        replay()
    ran = {event.key for event in profile.key_averages()}
    assert not ran & {"aten::t", "aten::arange", "aten::mul"}
    assert result.tolist() == [2, 5, 8, 11]


def test_what_is_found_is_told() -> None:
    x_N, y_N = torch.ones(2), torch.ones(2)
    tape, _ = recorded(lambda x_N: x_N[:1] + y_N, x_N)
    assert {tensor.untyped_storage().data_ptr() for tensor in tape.found} == {
        tensor.untyped_storage().data_ptr() for tensor in (x_N, y_N)}


@pytest.mark.parametrize(("function", "reason"), [
    (lambda x_N: x_N + x_N.sum().item(), "Tensor.item reads values on the host"),
    (lambda x_N: x_N + len(x_N.tolist()), "Tensor.tolist reads values on the host"),
    (lambda x_N: x_N if bool(x_N[0] > 0) else -x_N, "Tensor.__bool__ reads values on the host"),
    (lambda x_N: x_N + float(np.asarray(x_N)[0]), "Tensor.__array__ reads values on the host"),
    (lambda x_N: x_N[x_N > 0], "aten.index.Tensor does not do the same again"),
    (lambda x_N: torch.where(x_N > 0)[0], "aten.nonzero.default does not do the same again"),
    (lambda x_N: x_N.repeat_interleave(x_N.long()), "aten.repeat_interleave.Tensor does not do the same again"),
    (lambda x_N: x_N.nonzero(), "aten.nonzero.default does not do the same again"),
    (lambda x_N: x_N + torch.rand(4), "aten.rand.default draws from a generator"),
    (lambda x_N: x_N.clone().unsqueeze_(0), "aten.unsqueeze_.default does not do the same again")])
def test_what_would_not_do_the_same_again_is_refused_and_runs(function: Callable[[Tensor], Tensor], reason: str
                                                               ) -> None:
    """In inference mode, where operators made of others reach a tape whole."""
    with torch.inference_mode():
        torch.manual_seed(0)
        expected = function(torch.ones(4))
        torch.manual_seed(0)
        with Tape() as tape:
            found = function(torch.ones(4))
    assert torch.equal(found, expected)
    assert tape.reason == reason
    with pytest.raises(AssertionError, match=reason.partition(" ")[0]):
        tape.finish(found)
