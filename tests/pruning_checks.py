"""What must hold for every pruned network, whatever the architecture."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from spaces.inputs import Call, Example
from spaces.messages import Genome
from spaces.ranking import Ranking
from spaces.space import ChannelSpace
from spaces.surgery import cut
from spaces.tracer import attention_unfused, find_tensors


def counted_flops(model: nn.Module, image: Example) -> int:
    """FLOPs of one image as torch counts them on the CPU: on meta it counts norms slowly, piece by piece.

    Attention is computed step by step: what its fused kernels do would not be counted.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), attention_unfused(), counter:
        Call.of(image)(model.eval())
    return counter.get_total_flops()


def assert_exact_costs(
    model: nn.Module,
    space: ChannelSpace,
    ranking: Ranking,
    image: Example,
    genomes: Iterable[Genome],
) -> None:
    """Predicted FLOPs and parameters equal what is counted on the rebuilt networks."""
    for genome in genomes:
        pruned = cut(model, space, ranking.kept(space, genome))
        costs = space.cost(genome)
        assert sum(parameter.numel() for parameter in pruned.parameters()) == costs.params[0], genome
        assert counted_flops(pruned, image) == costs.flops[0], genome


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
