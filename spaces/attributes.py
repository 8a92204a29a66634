"""The sizes that modules state about themselves follow the tensors, as one table: module type -> rule.

The rules write into the modules' own dictionaries: `nn.Module.__setattr__` would take most of their time.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from spaces.heads import follow


def update_attributes(
    old: Sequence[tuple[str, nn.Module]], new: Sequence[tuple[str, nn.Module]], stated: Mapping[str, int]
) -> None:
    """Make every module of `new`, a pruned copy of `old`, state its tensors' sizes.

    Args:
        old: The dense network's modules, by path.
        new: Its copy's, with sliced tensors; changed in place.
        stated: Channels of modules that have no tensor to read them from, by path.
    """
    for (path, before), (_, after) in zip(old, new, strict=True):
        for rule in _rules_of(type(before)):  # type: ignore[arg-type]  # classes are hashable
            rule(before, after, stated.get(path))
    if any("#" in key for key in stated):
        follow(dict(new), stated)


@cache
def _rules_of(kind: type[nn.Module]) -> list[Callable[..., None]]:
    """The rules for modules of this type."""
    return [rule for known, rule in TABLE.items() if issubclass(kind, known)]


def _convolution(old: _ConvNd, new: _ConvNd, _: int | None) -> None:
    first, second = _weight(new).shape[:2]
    per_group = (old.in_channels if old.transposed else old.out_channels) // old.groups
    groups = first // per_group if old.groups > 1 else 1
    read, made = (first, second * groups) if old.transposed else (second * groups, first)
    vars(new).update(groups=groups, in_channels=read, out_channels=made)


def _linear(_: nn.Linear, new: nn.Linear, __: int | None) -> None:
    made, read = _weight(new).shape
    vars(new).update(in_features=read, out_features=made)


def _per_channel_norm(old: _NormBase, new: _NormBase, stated: int | None) -> None:
    own = next((t for t in (_weight(new), new._buffers.get("running_mean")) if t is not None), None)
    vars(new).update(num_features=own.shape[0] if own is not None else stated or old.num_features)


def _group_norm(old: nn.GroupNorm, new: nn.GroupNorm, stated: int | None) -> None:
    channels = _weight(new).shape[0] if new.affine else stated or old.num_channels
    vars(new).update(
        num_groups=channels // (old.num_channels // old.num_groups),
        num_channels=channels,
    )


def _layer_norm(old: nn.LayerNorm | nn.RMSNorm, new: nn.LayerNorm | nn.RMSNorm, stated: int | None) -> None:
    if new.elementwise_affine:
        vars(new).update(normalized_shape=tuple(_weight(new).shape))
    elif stated is not None:
        vars(new).update(normalized_shape=(stated,))


def _prelu(_: nn.PReLU, new: nn.PReLU, __: int | None) -> None:
    vars(new).update(num_parameters=_weight(new).shape[0])


def _embedding(_: nn.Embedding, new: nn.Embedding, __: int | None) -> None:
    vars(new).update(embedding_dim=_weight(new).shape[1])


def _multihead_attention(_: nn.MultiheadAttention, new: nn.MultiheadAttention, __: int | None) -> None:
    new.embed_dim = len(new.out_proj.weight)
    new.head_dim = new.embed_dim // new.num_heads
    if new._qkv_same_embed_dim:
        new.kdim = new.vdim = new.embed_dim
    else:
        new.kdim, new.vdim = new.k_proj_weight.shape[1], new.v_proj_weight.shape[1]


def _weight(module: nn.Module) -> Any:
    own = module._parameters.get("weight")
    return module.weight if own is None else own  # reparametrised ones compute it


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
