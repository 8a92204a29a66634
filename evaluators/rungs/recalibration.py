"""Norm statistics re-estimated: what a slice of a trained network needs first."""

import torch
from torch import nn

from evaluators.data.tensors import PackedImages
from evaluators.norms import averaged_statistics

IMAGES = 256
"""Training images that are looked at."""
BATCH = 64
BATCH_VALUES = 2**20
"""Most input values of a batch: bounds the memory for large images."""


def recalibrate(network: nn.Module, images: PackedImages, seed: int) -> None:
    """Give every batch norm that keeps running statistics those of these images, in place.

    The images run through the network without gradients: the layers that keep statistics normalise by batch
    and average what they see; everything else behaves as in eval mode. A network without such layers
    (instance or layer norms) is left as it is. The same seed chooses the same images for every network.

    Args:
        network: On the device of the images; ends in eval mode.
        images: Training images (n, channels, *spatial).
        seed: Decides which of them are looked at, and in what order.
    """
    network.eval()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    size = max(2, min(BATCH, BATCH_VALUES // images[0].numel()))
    with averaged_statistics(network) as norms, torch.inference_mode():
        for norm in norms:
            norm.train()
        # Of about one size: every batch counts the same, so a small last one would count too much.
        batches = order.to(images.device).tensor_split(-(-len(order) // size))
        for batch in batches if norms else ():
            if len(batch) > 1 or len(order) == 1:  # a last image alone has no spread
                network(images[batch])
    network.eval()
