"""The sizes that modules state about themselves follow the tensors, as one table: module type -> rule."""

from collections.abc import Callable, Mapping
from functools import cache

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from spaces.clone import walk
from spaces.heads import follow


def update_attributes(old: nn.Module, new: nn.Module, stated: Mapping[str, int]) -> None:
    """Make every module of `new`, a pruned copy of `old`, state its tensors' sizes.

    Args:
        old: The dense network.
        new: Its copy with sliced tensors; changed in place.
        stated: Channels of modules that have no tensor to read them from, by path.
    """
    for (path, before), (_, after) in zip(walk(old), walk(new), strict=True):
        for rule in _rules_of(type(before)):  # type: ignore[arg-type]  # classes are hashable
            rule(before, after, stated.get(path))
    if any("#" in key for key in stated):
        follow(dict(walk(new)), stated)


@cache
def _rules_of(kind: type[nn.Module]) -> list[Callable[..., None]]:
    """The rules for modules of this type."""
    return [rule for known, rule in TABLE.items() if issubclass(kind, known)]


def _convolution(old: _ConvNd, new: _ConvNd, _: int | None) -> None:
    first, second = new.weight.shape[:2]
    if old.transposed:
        per_group = old.in_channels // old.groups
        new.groups = first // per_group if old.groups > 1 else 1
        new.in_channels, new.out_channels = first, second * new.groups
    else:
        per_group = old.out_channels // old.groups
        new.groups = first // per_group if old.groups > 1 else 1
        new.in_channels, new.out_channels = second * new.groups, first


def _linear(_: nn.Linear, new: nn.Linear, __: int | None) -> None:
    new.out_features, new.in_features = new.weight.shape


def _per_channel_norm(old: _NormBase, new: _NormBase, stated: int | None) -> None:
    own = next((t for t in (new.weight, new.running_mean) if t is not None), None)
    new.num_features = own.shape[0] if own is not None else stated or old.num_features


def _group_norm(old: nn.GroupNorm, new: nn.GroupNorm, stated: int | None) -> None:
    channels = len(new.weight) if new.affine else stated or old.num_channels
    new.num_groups = channels // (old.num_channels // old.num_groups)
    new.num_channels = channels


def _layer_norm(old: nn.LayerNorm | nn.RMSNorm, new: nn.LayerNorm | nn.RMSNorm, stated: int | None) -> None:
    if new.elementwise_affine:
        new.normalized_shape = tuple(new.weight.shape)
    elif stated is not None:
        new.normalized_shape = (stated,)


def _prelu(_: nn.PReLU, new: nn.PReLU, __: int | None) -> None:
    new.num_parameters = len(new.weight)


def _embedding(_: nn.Embedding, new: nn.Embedding, __: int | None) -> None:
    new.embedding_dim = new.weight.shape[1]


def _multihead_attention(_: nn.MultiheadAttention, new: nn.MultiheadAttention, __: int | None) -> None:
    new.embed_dim = len(new.out_proj.weight)
    new.head_dim = new.embed_dim // new.num_heads
    if new._qkv_same_embed_dim:
        new.kdim = new.vdim = new.embed_dim
    else:
        new.kdim, new.vdim = new.k_proj_weight.shape[1], new.v_proj_weight.shape[1]


TABLE: dict[type[nn.Module], Callable[..., None]] = {
    _ConvNd: _convolution,
    nn.Linear: _linear,
    _NormBase: _per_channel_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.PReLU: _prelu,
    nn.Embedding: _embedding,
    nn.MultiheadAttention: _multihead_attention,
}
