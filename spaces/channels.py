"""The channel graph: ids of channels, what must go together, and what may not go.

Every dimension of every parameter and buffer starts with an id per position. Operator rules only append:
pairs of ids that live and die together, and ids that must stay. Nothing is merged until the end, when one
pass of connected components yields the partition; rules therefore never depend on what was merged before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ids: TypeAlias = np.ndarray
"""Channel id of each position along a dimension (int64); -1 where the position has none."""

Dims: TypeAlias = tuple[Ids | None, ...]
"""One entry a dimension; None where nothing is tracked along it."""


@dataclass(frozen=True, eq=False)
class Partition:
    """The ids in their smallest sets that go together.

    Attributes:
        label: Component of each id, (n_ids,).
        frozen: Whether a component must stay, (n_components,).
        reason: Why, per component; None for those that may go and for those whose nature is to stay
            (a kernel's width).
    """

    label: np.ndarray
    frozen: np.ndarray
    reason: list[str | None]

    def with_frozen(self, reasons: Mapping[int, str]) -> "Partition":
        """The partition in which these components must stay, too."""
        frozen, reason = self.frozen.copy(), list(self.reason)
        for component, why in reasons.items():
            if not frozen[component]:
                frozen[component], reason[component] = True, why
        return replace(self, frozen=frozen, reason=reason)


class ChannelGraph:
    """Collects ids, ties and reasons; see the module's docstring."""

    def __init__(self) -> None:
        self.size = 0
        self._left: list[Ids] = []
        self._right: list[Ids] = []
        self._frozen: list[tuple[Ids, str | None]] = []

    def fresh(self, length: int) -> Ids:
        """New ids."""
        ids = np.arange(self.size, self.size + length)
        self.size += length
        return ids

    def freeze(self, ids: Ids | None, reason: str | None) -> None:
        """These must stay. A reason of None: nobody would expect otherwise."""
        if ids is not None and ids.size:
            self._frozen.append((ids.ravel(), reason))

    def holds(self, ids: Ids) -> bool:
        """Whether all of them are already known to stay."""
        return bool(np.isin(ids, np.concatenate([held for held, _ in self._frozen] or [ids[:0]])).all())

    def tie(self, left: Ids, right: Ids, reason: str) -> None:
        """Position by position, these go together; one that meets an untracked position must stay.

        Args:
            left: Ids.
            right: As many ids.
            reason: Why those that meet an untracked position stay.
        """
        if left is right:
            return
        tracked = (left >= 0) & (right >= 0)
        if not tracked.all():
            self.freeze(left[~tracked], reason)
            self.freeze(right[~tracked], reason)
            left, right = left[tracked], right[tracked]
        self._left.append(left.ravel())
        self._right.append(right.ravel())

    def tie_rows(self, rows: Ids, reason: str) -> Ids:
        """Every row of (n, m) goes together as one; returns the first id of each row, (n,)."""
        first = rows[:, 0]
        if rows.shape[1] > 1:
            self.tie(np.repeat(first, rows.shape[1] - 1), rows[:, 1:].ravel(), reason)
        return first

    def partition(self) -> Partition:
        """Connected components, and which of them must stay."""
        left, right = (np.concatenate([np.empty(0, np.int64), *ends]) for ends in (self._left, self._right))
        links = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(self.size, self.size))
        count, label = connected_components(links, directed=False)
        frozen = np.zeros(count, dtype=bool)
        reason: list[str | None] = [None] * count
        for ids, why in self._frozen:
            for component in np.unique(label[ids[ids >= 0]]):
                frozen[component] = True
                reason[component] = reason[component] or why
        return Partition(label, frozen, reason)
