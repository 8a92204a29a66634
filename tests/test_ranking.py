"""Ranking: known orders, coupled parameters, normalisation, determinism, wrong input."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.errors import InputError, NetworkError
from spaces.ranking import rank_channels
from spaces.space import ChannelSpace
from spaces.tracing import trace
from tests.nets import CASES, chain


def _perceptron(first: list[float], second: list[float]) -> tuple[nn.Module, ChannelSpace]:
    """One hidden layer: weights into and out of each hidden unit, no biases."""
    model = nn.Sequential(nn.Linear(1, len(first), bias=False), nn.Linear(len(first), 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(first)[:, None])
        model[1].weight.copy_(torch.tensor(second)[None])
    return model, trace(model, torch.ones(1, 1))


def _batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.full((4, 1), 2.0), torch.zeros(4, 1)), (torch.full((4, 1), -1.0), torch.ones(4, 1))]


def _order(criterion: str, first: list[float], second: list[float]) -> list[int]:
    model, space = _perceptron(first, second)
    return rank_channels(model, space, criterion, _batches(), F.mse_loss).order[0].tolist()


def test_norms_by_hand() -> None:
    assert _order("l1", [1, -3, 2], [1, 1, 1]) == [1, 2, 0]
    assert _order("l2", [1, -3, 2], [1, 1, 1]) == [1, 2, 0]
    # consumers count as much as producers: 3/6 + 0/6 < 1/6 + 5/6, in shares of each tensor's sum
    assert _order("l1", [3, 1, 2], [0, 5, 1]) == [1, 0, 2]
    # squared, one large weight outweighs: 9/11 + 0 > 1/11 + 4/8, but 3/5 + 0 < 1/5 + 2/4
    assert _order("l2", [3, 1, 1], [0, 2, 2]) == [0, 1, 2]
    assert _order("l1", [3, 1, 1], [0, 2, 2]) == [1, 2, 0]


def test_large_tensors_do_not_drown_small_ones() -> None:
    quiet, loud = ([3, 1, 2], [0, 5, 1]), ([3000, 1000, 2000], [0, 5, 1])
    assert _order("l1", *quiet) == _order("l1", *loud)


def test_equal_units_keep_their_order() -> None:
    assert _order("l1", [1, 1, 1, 1], [2, 2, 2, 2]) == [0, 1, 2, 3]


def test_taylor_is_the_squared_product_of_weight_and_gradient() -> None:
    first, second = [1.0, -2.0, 0.5], [0.5, 1.0, -0.3]
    model, space = _perceptron(first, second)
    shares = [np.zeros(3), np.zeros(3)]
    a, b = np.array(first), np.array(second)
    for images, targets in _batches():
        x, t = images[0].item(), targets[0].item()
        error = 2 * (x * (a * b).sum() - t)
        shares[0] += (a * error * x * b) ** 2
        shares[1] += (b * error * x * a) ** 2
    expected = sum(share / share.mean() for share in shares)
    ranking = rank_channels(model, space, "taylor", _batches(), F.mse_loss)
    assert ranking.order[0].tolist() == np.argsort(-expected).tolist()
    assert ranking.order[0].tolist() == [1, 0, 2]


def test_whole_groups_are_scored_together() -> None:
    model = CASES["grouped"].build()
    with torch.no_grad():
        for module in (model[0], model[1], model[3]):
            module.weight.fill_(1)
            module.bias.fill_(1)
        model[1].weight[6:9] = 5  # the third of four groups
    space = trace(model, torch.randn(1, 1, 6, 6))
    assert rank_channels(model, space).order[0][0] == 2


def test_random_follows_its_seed() -> None:
    model = nn.Sequential(nn.Linear(1, 20), nn.Linear(20, 1))
    space = trace(model, torch.ones(1, 1))
    orders = [rank_channels(model, space, "random", seed=seed).order[0].tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_wrong_input() -> None:
    model, example = chain(), torch.randn(1, 1, 6, 6)
    space = trace(model, example)
    with pytest.raises(InputError, match="unknown criterion 'tailor'; did you mean 'taylor'"):
        rank_channels(model, space, "tailor")
    with pytest.raises(InputError, match="criterion 'taylor' looks at data: give batches="):
        rank_channels(model, space, "taylor")
    with pytest.raises(InputError, match="got no batches"):
        rank_channels(model, space, "taylor", [], F.mse_loss)
    with pytest.raises(NetworkError, match="not the one that was traced"):
        rank_channels(CASES["residual"].build(), space)
