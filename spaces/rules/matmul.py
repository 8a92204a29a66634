"""Convolutions and matrix products: they consume one set of channels and produce another."""

import math

import numpy as np
from torch import Tensor

from spaces.channels import Dims, Ids
from spaces.ledger import Size, sizes
from spaces.step import Rule, Step


def convolution(step: Step) -> list[Dims]:
    """Any convolution of one to three dimensions, transposed or grouped."""
    source, weight, bias = step["input"], step["weight"], step["bias"]
    batch, channels, *space = step.dims(source)
    kernel = step.dims(weight)
    for ids in space:
        step.freeze(ids, "is convolved over")
    for ids in kernel[2:]:
        step.fix(ids)
    if step["groups"] > 1:
        made = _grouped(step, channels, kernel)
    else:
        into, made = (kernel[0], kernel[1]) if step["transposed"] else (kernel[1], kernel[0])
        step.tie(channels, into, "reads channels that are given, as the network's input")
    if bias is not None:
        step.tie(made, step.dims(bias)[0])
    step.produced(made)
    moved = source if step["transposed"] else step.out
    positions = math.prod(moved.shape[2:]) * math.prod(weight.shape[2:])
    step.flops(2 * positions, [_size(source, step.dims(source), 0), *sizes(weight, kernel)[:2]])
    return [(batch, made, *(None for _ in space))]


def _grouped(step: Step, channels: Ids | None, kernel: Dims) -> Ids | None:
    """The unit is a whole group of the convolution: its inputs, its kernels, its outputs."""
    groups, weight = step["groups"], step["weight"]
    step.fix(kernel[1])
    if kernel[0] is None:
        step.freeze(channels, "feeds a convolution of one output channel")
        return None
    rows = step.tie_rows(kernel[0].reshape(groups, -1))
    if channels is None:
        step.freeze(rows, "reads channels that are given, as the network's input")
    else:
        step.tie(step.tie_rows(channels.reshape(groups, -1)), rows)
    return np.repeat(rows, weight.shape[1]) if step["transposed"] else kernel[0]


def product(step: Step, left: Tensor, right: Tensor) -> Dims:
    """`left @ right` of matrices or equal batches of them."""
    a, b = step.dims(left), step.dims(right)
    step.tie(a[-1], b[-2], "is multiplied with channels that are given")
    for one, other in zip(a[:-2], b[:-2], strict=True):
        step.tie(one, other)
    step.produced(a[-2])
    step.produced(b[-1])
    if step.tracer.in_einsum and a[-1] is not None:
        step.tracer.summed.append(a[-1])
    dims = (*a[:-1], b[-1])
    step.flops(2, [*sizes(step.out, dims), _size(left, a, -1)])
    return dims


def matrix_product(step: Step) -> list[Dims]:
    """Mm and bmm."""
    return [product(step, step["self"], step["mat2"])]


def matrix_product_added(step: Step) -> list[Dims]:
    """Addmm and baddbmm: what is added broadcasts to the product."""
    left = step.get("mat1") if step.get("mat1") is not None else step["batch1"]
    right = step["mat2"] if step.get("mat2") is not None else step["batch2"]
    dims = product(step, left, right)
    added = step["self"]
    for ids, other, length in zip(
        reversed(step.dims(added)), reversed(dims), reversed(added.shape), strict=False
    ):
        if length > 1:
            step.tie(ids, other)
    return [dims]


def vector_product(step: Step) -> list[Dims]:
    """mv, addmv and dot; FlopCounterMode does not count them."""
    matrix = step.get("mat") if step.get("mat") is not None else step["self"]
    vector = step.get("vec") if step.get("vec") is not None else step["tensor"]
    rows = step.dims(matrix)[:-1]
    step.tie(step.dims(matrix)[-1], step.dims(vector)[0], "is multiplied with channels that are given")
    if step.get("mat") is not None:
        for ids, other in zip(step.dims(step["self"]), rows, strict=True):
            step.tie(ids, other)
    return [rows]


def embedding(step: Step) -> list[Dims]:
    """The vocabulary stays; the width is produced."""
    words, width = step.dims(step["weight"])
    step.fix(words)
    step.produced(width)
    for ids in step.dims(step["indices"]):
        step.freeze(ids, "is used as an index")
    return [(*(None for _ in step["indices"].shape), width)]


def _size(tensor: Tensor, dims: Dims, dim: int) -> Size:
    ids = dims[dim]
    return tensor.shape[dim] if ids is None else ids


RULES: dict[str, Rule] = {
    **dict.fromkeys(["convolution", "_convolution", "convolution_overrideable"], convolution),
    **dict.fromkeys(["mm", "bmm"], matrix_product),
    **dict.fromkeys(["addmm", "baddbmm"], matrix_product_added),
    **dict.fromkeys(["mv", "addmv", "dot"], vector_product),
    "embedding": embedding,
}
