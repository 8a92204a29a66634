"""Which networks meet a campaign's constraints, and what they achieve."""

from collections.abc import Mapping

import pandas as pd

COLUMN = {
    "max_flops": "flops_ratio",
    "max_params": "params_ratio",
    "max_activations": "activation_bytes_ratio",
    "max_latency_ms": "latency_ms",
    "min_metric": "metric",
}
"""Constraint -> the column of a `trials_frame` that it bounds: `max_` from above, `min_` from below."""


def meets(frame: pd.DataFrame, constraints: Mapping[str, float]) -> pd.Series:
    """Whether each network of a `trials_frame` meets all constraints, the metric as measured: bool."""
    met = pd.Series(True, index=frame.index)
    for name, bound in constraints.items():
        values = frame[COLUMN[name]]
        met &= values >= bound if name.startswith("min_") else values <= bound * (1 + 1e-9)
    return met


def verdict(frame: pd.DataFrame, constraints: Mapping[str, float], metric: str) -> str:
    """One sentence: how many networks meet the constraints, and what the best of them achieves.

    The best is the one with the highest metric. Where none meets them, the one among those within the bounds
    on costs that comes nearest in the metric.

    Args:
        frame: A `trials_frame`.
        constraints: At least one.
        metric: Its name, in words.
    """
    asked = ", ".join(f"{name} = {bound:g}" for name, bound in constraints.items())
    pruned = frame[frame["kind"].ne("dense")]
    met = pruned[meets(pruned, constraints)]
    if len(met):
        best = met.iloc[int(met["metric"].argmax())]
        found = f"{len(met)} of {len(pruned)} pruned networks meet them; the best is point {best['number']}"
        return f"constraints {asked}: {found} ({achieved(best, constraints, metric)})"
    if not len(pruned):
        return f"constraints {asked}: no pruned network has been measured yet"
    costs = {name: bound for name, bound in constraints.items() if name != "min_metric"}
    within = pruned[meets(pruned, costs)]
    near = within if len(within) else pruned
    nearest = near.iloc[int(near["metric"].argmax())]
    return (
        f"constraints {asked}: no measured network meets them; the nearest is point {nearest['number']} "
        f"({achieved(nearest, constraints, metric)})"
    )


def achieved(row: pd.Series, constraints: Mapping[str, float], metric: str) -> str:
    """What one network has of each constrained figure, in words."""
    words = {
        "max_flops": lambda value: f"{100 * value:.1f} % of the FLOPs",
        "max_params": lambda value: f"{100 * value:.1f} % of the parameters",
        "max_activations": lambda value: f"{100 * value:.1f} % of the activation bytes",
        "max_latency_ms": lambda value: f"{value:.2f} ms",
        "min_metric": lambda value: f"{metric} {value:.3f}",
    }
    shown = [name for name in constraints if name != "min_metric"]
    return ", ".join(words[name](row[COLUMN[name]]) for name in [*shown, "min_metric"])
