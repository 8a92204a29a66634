"""Several sources as one, split by split; and patients as plain numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from evaluators.data.splits import Splits, Subset
from evaluators.data.volumes import Volumes
from spaces.errors import DataError

T = TypeVar("T", Subset, Volumes)


def joined(sources: Sequence[Splits]) -> Splits:
    """The sources' splits one after the other; they must agree in kind, classes and size of images.

    A training case whose patient is in another source's val or test is left out, and counted with the
    duplicates.

    Raises:
        DataError: Two sources do not fit together.
    """
    first = sources[0]
    for other in sources[1:]:
        for what in ("kind", "classes", "channels", "spatial", "regions"):
            mine, theirs = getattr(first, what), getattr(other, what)
            if mine != theirs:
                raise DataError(f"{first.name} and {other.name} cannot be joined: {what} {mine} and {theirs}")
    if len(sources) == 1:
        return first
    train = _together([source.train for source in sources])
    return replace(
        first,
        name=" + ".join(source.name for source in sources),
        train=train,
        val=_together([source.val for source in sources]),
        open_test=partial(_open_all, tuple(source for source in sources if source.n_test)),
        n_test=sum(source.n_test for source in sources),
        open_whole=_whole_of(sources),
        licence="; ".join(sorted({source.licence for source in sources if source.licence})) or None,
    )


def _open_all(sources: Sequence[Splits]) -> Subset:
    if not sources:
        raise DataError("none of the sources has test images")
    return _together([source.open_test() for source in sources])


def _whole_of(sources: Sequence[Splits]) -> Callable[[str], Volumes] | None:
    openers = tuple(source.open_whole for source in sources if source.open_whole is not None)
    return partial(_open_whole, openers) if len(openers) == len(sources) else None


def _open_whole(openers: Sequence[Callable[[str], Volumes]], split: str) -> Volumes:
    return Volumes.joined([opened(split) for opened in openers])


def _together(parts: Sequence[Subset]) -> Subset:
    if any(part.groups is not None for part in parts):  # whose patients are unknown: every case by itself
        starts = np.cumsum([0, *(len(part) for part in parts)])
        parts = [
            part if part.groups is not None else replace(part, groups=-1 - start - np.arange(len(part)))
            for start, part in zip(starts, parts, strict=False)
        ]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.joined(part)
    return whole


def mapped(splits: Splits, change: Callable[[Subset], Subset]) -> Splits:
    """The same change to every split, to test when it is opened."""
    test = partial(_changed, splits.open_test, change)
    return replace(splits, train=change(splits.train), val=change(splits.val), open_test=test)


def _changed(opened: Callable[..., T], change: Callable[[T], T], *which: str) -> T:
    return change(opened(*which))


def numbered(splits: Splits) -> Splits:
    """Patients as numbers by first appearance over train, val and test, which say nothing about names."""
    parts = [subset.groups for subset in (splits.train, splits.val) if subset.groups is not None]
    if not parts:
        return splits
    together = np.concatenate(parts)
    _, first = np.unique(together, return_index=True)
    numbers = _Numbers(together[np.sort(first)])
    opened = splits.open_whole
    return replace(
        mapped(splits, numbers), open_whole=None if opened is None else partial(_changed, opened, numbers)
    )


@dataclass(frozen=True, eq=False)
class _Numbers:
    known: np.ndarray

    def __call__(self, subset: T) -> T:
        if subset.groups is None:
            return subset
        values, first = np.unique(subset.groups, return_index=True)
        new = values[np.argsort(first)]
        order = np.concatenate([self.known, new[~np.isin(new, self.known)]])
        ranks = np.argsort(order)
        return replace(subset, groups=ranks[np.searchsorted(order[ranks], subset.groups)].astype(np.int64))
