"""Pooling, padding, resampling: they work on the last dimensions and leave the channels alone."""

import math
from collections.abc import Sequence

import numpy as np

from spaces.channels import Dims, Ids
from spaces.step import Rule, Step


def over_last(count: int) -> Rule:
    """The rule of an operator on the last `count` dimensions."""

    def rule(step: Step) -> list[Dims]:
        source = step.inputs[0]
        dims = step.dims(source)
        leading = source.ndim - count
        for ids in dims[leading:]:
            step.freeze(ids, "is resampled or pooled over")
        return [(*dims[:leading], *(None for _ in range(out.ndim - leading))) for out in step.outputs]

    return rule


def unpool(count: int) -> Rule:
    """The rule of an operator that puts values back where pooling found them."""

    def rule(step: Step) -> Sequence[Dims]:
        leading = step["self"].ndim - count
        for own, other in zip(
            step.dims(step["self"])[:leading], step.dims(step["indices"])[:leading], strict=True
        ):
            step.tie(own, other)
        return over_last(count)(step)

    return rule


def constant_pad(step: Step) -> list[Dims]:
    """Padding adds positions that belong to no channel; a negative one drops some."""
    dims = list(step.dims(step["self"]))
    for i in range(len(step["pad"]) // 2):
        before, after = step["pad"][2 * i : 2 * i + 2]
        ids = dims[-1 - i]
        if ids is not None and (before or after):
            padded = np.concatenate([np.full(max(before, 0), -1), ids, np.full(max(after, 0), -1)])
            dims[-1 - i] = padded[max(-before, 0) : len(padded) - max(-after, 0)]
    return [tuple(dims)]


def pixel_shuffle(step: Step) -> list[Dims]:
    """The channels that make up one pixel block go together."""
    *leading, channels, height, width = step.dims(step["self"])
    for ids in (height, width):
        step.freeze(ids, "is shuffled into pixels")
    made = None if channels is None else step.tie_rows(channels.reshape(-1, step["upscale_factor"] ** 2))
    return [(*leading, made, None, None)]


def pixel_unshuffle(step: Step) -> list[Dims]:
    """Every channel becomes several, which go together."""
    *leading, channels, height, width = step.dims(step["self"])
    for ids in (height, width):
        step.freeze(ids, "is shuffled into channels")
    return [(*leading, _repeated(channels, step["downscale_factor"] ** 2), None, None)]


def channel_shuffle(step: Step) -> list[Dims]:
    """Channels at the same place of every group go together: the shuffle then stays one."""
    batch, channels, *space = step.dims(step["self"])
    if channels is not None:
        by_place = channels.reshape(step["groups"], -1).T
        channels = np.repeat(step.tie_rows(by_place), step["groups"])
    return [(batch, channels, *space)]


def patches(step: Step) -> list[Dims]:
    """im2col: the patch of every channel becomes part of the channel dimension."""
    batch, channels, *space = step.dims(step["self"])
    for ids in space:
        step.freeze(ids, "is cut into patches")
    return [(batch, _repeated(channels, math.prod(step["kernel_size"])), None)]


def grid_sample(step: Step) -> list[Dims]:
    """Positions are looked up in a grid."""
    batch, channels, *space = step.dims(step["input"])
    for ids in (*space, *step.dims(step["grid"])):
        step.freeze(ids, "is sampled over")
    return [(batch, channels, *(None for _ in space))]


def _repeated(ids: Ids | None, times: int) -> Ids | None:
    return None if ids is None else np.repeat(ids, times)


_POOLS = ("avg_pool{}d", "max_pool{}d_with_indices", "fractional_max_pool{}d")
_ADAPTIVE_POOLS = ("_adaptive_avg_pool{}d", "adaptive_avg_pool{}d", "adaptive_max_pool{}d")
_PADS = ("reflection_pad{}d", "replication_pad{}d")
_RESAMPLING = {
    1: ("upsample_linear1d",),
    2: ("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    3: ("upsample_trilinear3d",),
}
_NEAREST = ("upsample_nearest{}d", "_upsample_nearest_exact{}d")

RULES: dict[str, Rule] = {
    **{
        name.format(count): over_last(count)
        for count, resampling in _RESAMPLING.items()
        for name in (*_POOLS, *_ADAPTIVE_POOLS, *_PADS, *_NEAREST, *resampling)
    },
    "max_unpool2d": unpool(2),
    "max_unpool3d": unpool(3),
    "grid_sampler_2d": grid_sample,
    "grid_sampler_3d": grid_sample,
    "constant_pad_nd": constant_pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
    "im2col": patches,
}
