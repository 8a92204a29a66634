"""What must hold for every pruned network, whatever the architecture."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from spaces.clone import clone_with
from spaces.inputs import Call, Example
from spaces.messages import Genome
from spaces.ranking import Ranking
from spaces.space import ChannelSpace
from spaces.surgery import cut
from spaces.tracer import find_tensors


def counted_flops(model: nn.Module, image: Example, device: str = "meta") -> int:
    """FLOPs of one image as torch counts them on the device; the model goes there for good."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        Call.of(image).map(lambda tensor: tensor.to(device))(model.eval().to(device))
    return counter.get_total_flops()


def assert_exact_costs(
    model: nn.Module,
    space: ChannelSpace,
    ranking: Ranking,
    image: Example,
    genomes: Iterable[Genome],
    device: str = "meta",
) -> None:
    """Predicted FLOPs and parameters equal what is counted on the rebuilt networks.

    They are built on the device: meta for speed, the CPU where the forward pass needs values.
    """
    placed = clone_with(model, lambda _, tensor: tensor.detach().to(device))
    for genome in genomes:
        pruned = cut(placed, space, ranking.kept(space, genome))
        costs = space.cost(genome)
        assert sum(parameter.numel() for parameter in pruned.parameters()) == costs.params[0], genome
        assert counted_flops(pruned, image, device) == costs.flops[0], genome


def assert_gradients_flow(model: nn.Module, images: Example) -> None:
    """Every parameter of the dense network that gets a gradient... gets one in the pruned one, finite."""
    model.train()
    loss = torch.stack([out.float().square().mean() for out in find_tensors(Call.of(images)(model))]).sum()
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


def find_all(value: object) -> list[Tensor]:
    """The tensors in a result of tensors, lists, tuples and dictionaries."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """The state, copied."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_untouched(model: nn.Module, before: dict[str, Tensor], training: bool) -> None:
    """Bitwise the same state, in the same mode."""
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(module.training == training for module in model.modules())


def genomes(space: ChannelSpace, count: int, seed: int = 0) -> list[Genome]:
    """The extremes and random ones."""
    rng = np.random.default_rng(seed)
    return [space.dense, space.minimal, *(space.sample(rng) for _ in range(count))]
