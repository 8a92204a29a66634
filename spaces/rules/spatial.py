"""Pooling, padding, resampling: they work on the last dimensions and leave the channels alone."""

import math

import numpy as np

from spaces.channels import Dims, Ids
from spaces.tracer import Rule, Step


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


_ONE, _TWO, _THREE = over_last(1), over_last(2), over_last(3)

RULES: dict[str, Rule] = {
    **dict.fromkeys(["avg_pool1d", "_adaptive_avg_pool1d", "adaptive_avg_pool1d"], _ONE),
    **dict.fromkeys(["reflection_pad1d", "replication_pad1d", "upsample_nearest1d"], _ONE),
    **dict.fromkeys(["upsample_linear1d", "_upsample_nearest_exact1d"], _ONE),
    **dict.fromkeys(["max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d"], _TWO),
    **dict.fromkeys(["adaptive_avg_pool2d", "adaptive_max_pool2d", "fractional_max_pool2d"], _TWO),
    **dict.fromkeys(["reflection_pad2d", "replication_pad2d", "upsample_nearest2d"], _TWO),
    **dict.fromkeys(["upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d"], _TWO),
    **dict.fromkeys(["_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"], _TWO),
    **dict.fromkeys(["max_pool3d_with_indices", "avg_pool3d", "_adaptive_avg_pool3d"], _THREE),
    **dict.fromkeys(["adaptive_avg_pool3d", "adaptive_max_pool3d", "fractional_max_pool3d"], _THREE),
    **dict.fromkeys(["reflection_pad3d", "replication_pad3d", "upsample_nearest3d"], _THREE),
    **dict.fromkeys(["upsample_trilinear3d", "_upsample_nearest_exact3d"], _THREE),
    **dict.fromkeys(["grid_sampler_2d", "grid_sampler_3d"], grid_sample),
    "constant_pad_nd": constant_pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
    "im2col": patches,
}
