"""Putting tensors together and taking them apart."""

import numpy as np
from torch import Tensor

from spaces.channels import Dims, Ids
from spaces.step import Rule, Step


def cat(step: Step) -> list[Dims]:
    """Channels one after the other; the other dimensions go together."""
    tensors = [tensor for tensor in step["tensors"] if tensor.ndim == step.out.ndim]  # cat skips empty 1-D
    axis = step["dim"] % step.out.ndim
    out = _common(step, tensors, skip=axis)
    if any(step.dims(tensor)[axis] is not None for tensor in tensors):
        out[axis] = np.concatenate([_or_given(step.dims(t)[axis], t.shape[axis]) for t in tensors])
    return [tuple(out)]


def stack(step: Step) -> list[Dims]:
    """A new dimension; all others go together."""
    axis = step["dim"] % step.out.ndim
    out = _common(step, step["tensors"])
    return [(*out[:axis], None, *out[axis:])]


def split(step: Step) -> list[Dims]:
    """Equal parts stay equal: the channels at the same place of each go together."""
    dims = step.dims(step["self"])
    axis = step["dim"] % len(dims)
    ids = dims[axis]
    if ids is None:
        return [dims for _ in step.outputs]
    lengths = [out.shape[axis] for out in step.outputs]
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    if len(set(lengths)) == 1:
        for part in parts[1:]:
            step.tie(parts[0], part)
    return [(*dims[:axis], part, *dims[axis + 1 :]) for part in parts]


def glu(step: Step) -> list[Dims]:
    """One half times the sigmoid of the other."""
    dims = list(step.dims(step["self"]))
    axis = step["dim"] % len(dims)
    if dims[axis] is not None:
        left, right = np.split(dims[axis], 2)
        step.tie(left, right)
        dims[axis] = left
    return [tuple(dims)]


def unbind(step: Step) -> list[Dims]:
    """One tensor a position, so that the positions cannot go."""
    dims = step.dims(step["self"])
    axis = step["dim"] % len(dims)
    step.freeze(dims[axis], "is taken apart by position")
    return [(*dims[:axis], *dims[axis + 1 :]) for _ in step.outputs]


def _common(step: Step, tensors: list[Tensor], skip: int | None = None) -> list[Ids | None]:
    first, *others = tensors
    out = list(step.dims(first))
    for axis in range(first.ndim):
        for other in others if axis != skip else ():
            found = step.dims(other)[axis]
            step.tie(out[axis], found)
            out[axis] = found if out[axis] is None else out[axis]
    return out


def _or_given(ids: Ids | None, length: int) -> Ids:
    return np.full(length, -1) if ids is None else ids


RULES: dict[str, Rule] = {
    **dict.fromkeys(["cat", "concat", "concatenate"], cat),
    "stack": stack,
    "glu": glu,
    **dict.fromkeys(["split", "split_with_sizes", "unsafe_split", "unsafe_chunk"], split),
    "unsafe_split_with_sizes": split,
    "unbind": unbind,
}
