"""Weights computed from other parameters: handled or frozen, never wrong."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from spaces.errors import NetworkError
from spaces.ranking import rank_channels
from spaces.surgery import prune
from spaces.tracing import trace
from spaces.verification import verify
from tests.nets import conv
from tests.pruning_checks import assert_gradients_flow


def _old(name: str) -> Callable[[nn.Module], nn.Module]:
    def wrap(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, but people have such networks
            return getattr(nn.utils, name)(module)

    return wrap


WRAPPERS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "old weight_norm": _old("weight_norm"),
    "old spectral_norm": _old("spectral_norm"),
}


@pytest.mark.filterwarnings("ignore")  # deprecations of the old forms
@pytest.mark.parametrize("name", WRAPPERS)
def test_reparametrised_weights_are_handled_or_frozen(name: str) -> None:
    wrap = WRAPPERS[name]
    model = nn.Sequential(
        conv(1, 6), nn.ReLU(), wrap(conv(6, 8)), nn.ReLU(), conv(8, 4), nn.ReLU(), conv(4, 4), conv(4, 2)
    )
    example = torch.randn(2, 1, 6, 6)
    space = trace(model, example)
    assert verify(model, example, space, genomes=5).passed
    handled = {group.name for group in space.groups}
    assert {"4", "6"} <= handled
    assert {"0", "2"} <= handled | {frozen.name.split(".")[0] for frozen in space.frozen}
    pruned = prune(model, space, space.minimal, rank_channels(model, space))
    assert_gradients_flow(pruned, example)


def test_a_network_of_frozen_weights_only_says_why() -> None:
    with pytest.raises(NetworkError, match="nothing to prune"):
        trace(nn.Sequential(parametrizations.spectral_norm(conv(1, 2))), torch.randn(1, 1, 6, 6))
