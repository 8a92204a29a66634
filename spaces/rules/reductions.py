"""Operators that mix all positions of a dimension: harmless along others, so only that dimension stays."""

from spaces.channels import Dims
from spaces.step import Rule, Step


def _axes(step: Step, ndim: int) -> list[int]:
    given = step.get("dim") if "dim" in step.values else step.get("dims")
    if given is None or given == []:
        return list(range(ndim))
    return [axis % max(ndim, 1) for axis in (given if isinstance(given, list | tuple) else [given])]


def reduction(step: Step) -> list[Dims]:
    """Sums, means, extremes: the reduced dimensions vanish or shrink to one."""
    source = step.inputs[0]
    dims, axes = step.dims(source), _axes(step, source.ndim)
    for axis in axes:
        step.freeze(dims[axis], "is reduced over")
    kept = tuple(ids for axis, ids in enumerate(dims) if axis not in axes)
    shrunk = tuple(None if axis in axes else ids for axis, ids in enumerate(dims))
    return [shrunk if out.ndim == source.ndim else kept for out in step.outputs]


def along(step: Step) -> list[Dims]:
    """Softmax, sorting, cumulation, rolling: the dimension stays in place."""
    source = step.inputs[0]
    dims, axes = step.dims(source), _axes(step, source.ndim)
    for axis in axes:
        step.freeze(dims[axis], "is mixed along")
    kept = tuple(None if axis in axes else ids for axis, ids in enumerate(dims))
    return [kept if out.ndim == source.ndim else (None,) * out.ndim for out in step.outputs]


RULES: dict[str, Rule] = {
    **dict.fromkeys(["mean", "sum", "prod", "amax", "amin", "max", "min"], reduction),
    **dict.fromkeys(["argmax", "argmin", "any", "all", "logsumexp", "median"], reduction),
    **dict.fromkeys(["var", "std", "var_mean", "std_mean", "aminmax"], reduction),
    **dict.fromkeys(["norm", "linalg_vector_norm", "count_nonzero", "nansum"], reduction),
    **dict.fromkeys(["_softmax", "_log_softmax", "_safe_softmax", "softmax"], along),
    **dict.fromkeys(["cumsum", "cumprod", "sort", "topk", "roll", "logcumsumexp"], along),
}
