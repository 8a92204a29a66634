"""From stored descriptors to numbers that mean the same in every network: what the prior reads.

Group features are centred within their network: a prior is about how the groups of one network differ, and
what they have in common shows in the campaign's own first trials.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

GROUP_PLAIN = (
    *("flops_half", "flops_first", "params_half", "activation_bytes_half"),
    *("log_taps", "linear", "decoder", "downsampling", "stem", "skip", "head", "stream", "inside"),
    *("norms", "attention", "depth", "log_resolution", "reach", "effective_rank", "fisher_log_share"),
)
GROUP_CURVES = tuple(
    f"{criterion}_{k}" for criterion in ("l1", "taylor", "activation", "fisher") for k in (1, 4)
)
GROUP_DERIVED = ("log_channels", "edge", "log_producers")
GROUP_FEATURES = (*GROUP_PLAIN, *GROUP_CURVES, *GROUP_DERIVED)
"""Names of the columns of `group_features`."""

_LEAST_MASS = 1e-3


def group_features(groups: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Features of every group of one network, each column with mean 0: (n_groups, len(GROUP_FEATURES)).

    What a description lacks counts as the network's mean, that is 0.
    """
    rows = np.array([_row(group) for group in groups]).reshape(len(groups), len(GROUP_FEATURES))
    known = ~np.isnan(rows)
    means = np.where(known, rows, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, rows - means, 0.0)


def fisher_shares(groups: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """Share of each group in what the loss would change by, relative to their mean in logarithms.

    None where it was not measured.
    """
    found = [group.get("descriptors", {}).get("fisher_log_share") for group in groups]
    if not groups or any(value is None for value in found):
        return None
    logs = np.array(found, dtype=float)
    return logs - logs.mean()


def _row(group: Mapping[str, Any]) -> list[float]:
    numbers = group.get("descriptors", {})
    plain = [float(numbers.get(name, np.nan)) for name in GROUP_PLAIN]
    curves = [-np.log(max(float(numbers.get(name, np.nan)), _LEAST_MASS)) for name in GROUP_CURVES]
    depth = float(numbers.get("depth", np.nan))
    derived = [
        float(np.log2(group["channels"])),
        4 * (depth - 0.5) ** 2,
        float(np.log2(max(numbers.get("producers", 1.0), 1.0))),
    ]
    return [*plain, *curves, *derived]
