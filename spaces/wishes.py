"""What the user wants pruned: `ignore=` and `only=`, by module path or pattern."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from torch import nn

from spaces.channels import Partition
from spaces.errors import NetworkError, did_you_mean
from spaces.grouping import NEVER, Owners


@dataclass(frozen=True, slots=True)
class Wishes:
    """Channels made by the modules `ignored` stay; if `only` is given, so do those of all others.

    A module's path stands for everything inside it; `*` and `?` match as in file names.
    """

    ignored: frozenset[str]
    only: frozenset[str] | None

    @classmethod
    def of(cls, model: nn.Module, ignore: Sequence[str] | str, only: Sequence[str] | str) -> "Wishes":
        """Look the patterns up.

        Raises:
            NetworkError: A pattern matches no module, or nothing is left of `only`.
        """
        paths = [path for path, _ in model.named_modules() if path]
        ignored, chosen = (
            _look_up(paths, name, given) for name, given in (("ignore", ignore), ("only", only))
        )
        if chosen and chosen <= ignored:
            raise NetworkError(f"ignore={ignore!r} and only={only!r} contradict each other: nothing is left")
        return cls(frozenset(ignored), frozenset(chosen) if only else None)

    def apply(self, partition: Partition, owners: Owners) -> Partition:
        """Freeze what the user does not want pruned."""
        if not self.ignored and self.only is None:
            return partition
        makers: dict[int, set[str]] = defaultdict(set)
        ids = np.flatnonzero(owners.produced_at < NEVER)
        for component, axis in zip(partition.label[ids].tolist(), owners.axis(ids).tolist(), strict=True):
            makers[component].add(owners.module(axis))
        reasons = {}
        for component in range(len(partition.frozen)):
            made_by = makers[component]
            if made_by & self.ignored:
                reasons[component] = "is ignored on request"
            elif self.only is not None and not made_by & self.only:
                reasons[component] = "is not among those asked for"
        return partition.with_frozen(reasons)


def to_drop(model: nn.Module, drop: Sequence[str] | str) -> tuple[str, ...]:
    """Paths of the modules that the patterns name, without those inside others of them.

    Raises:
        NetworkError: A pattern matches no module.
    """
    paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    found = _look_up(paths, "drop", drop)
    inside = {path for path in found for other in found if path.startswith(f"{other}.")}
    return tuple(sorted(found - inside))


def _look_up(paths: Sequence[str], setting: str, patterns: Sequence[str] | str) -> set[str]:
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matched = {path for path in paths if matches(path, pattern)}
        if not matched:
            raise NetworkError(
                f"{setting}={pattern!r} matches no module of the network; {did_you_mean(pattern, paths)}"
            )
        found |= matched
    return found


def matches(path: str, pattern: str) -> bool:
    """Whether the pattern names the module at the path, or something around it."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")
