"""Bounds on costs: what a search may propose, and how a genome that costs too much is made to fit."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from search.config import ConstraintsSettings
from spaces.errors import ConfigError
from spaces.messages import Genome
from spaces.space import ChannelSpace

SETTING = {
    "flops": "max_flops",
    "params": "max_params",
    "activation_bytes": "max_activations",
}
"""Cost -> the setting that bounds it, as a share of the dense network's."""


def bounds_of(settings: ConstraintsSettings, space: ChannelSpace) -> "Bounds":
    """The bounds that [constraints] puts on the costs of a space."""
    dense = space.cost(space.dense)
    shares = {cost: getattr(settings, name) for cost, name in SETTING.items()}
    most = {
        cost: share * float(getattr(dense, cost)[0]) for cost, share in shares.items() if share is not None
    }
    if settings.max_latency_ms is not None:
        most["latency_ms"] = settings.max_latency_ms
    return Bounds(space, most)


class Bounds:
    """Upper bounds on costs, as `space.cost` names them.

    Every cost grows with every kept count, so the minimal genome is the cheapest in all of them.

    Attributes:
        most: The largest allowed value of each bounded cost.

    Args:
        space: Prices genomes.
        most: By the name of the cost, in its own unit; none: everything is allowed.
    """

    def __init__(self, space: ChannelSpace, most: Mapping[str, float]) -> None:
        self.most = dict(most)
        self._space = space
        self._choices = [np.array(group.choices) for group in space.groups]

    def met(self, genomes: Sequence[Genome] | np.ndarray) -> np.ndarray:
        """Whether each genome meets all bounds: (n, n_groups) -> (n,) bool."""
        costs = self._space.cost(genomes)
        met = np.ones(len(costs), dtype=bool)
        for name, most in self.most.items():
            met &= getattr(costs, name) <= most
        return met

    def check(self) -> None:
        """Refuse bounds that no network of the space meets.

        Raises:
            ConfigError: Names the least cost that there is.
        """
        dense, least = self._space.cost(self._space.dense), self._space.cost(self._space.minimal)
        for name, most in self.most.items():
            whole, lowest = float(getattr(dense, name)[0]), float(getattr(least, name)[0])
            if lowest > most:
                unit, of = (1.0, f" (dense: {whole:.4g})") if name == "latency_ms" else (whole, " of dense's")
                setting, nearest = SETTING.get(name, "max_latency_ms"), math.ceil(1e4 * lowest / unit) / 1e4
                raise ConfigError(
                    f"constraints.{setting} = {most / unit:.4g}: no network here comes below {nearest:g}{of}"
                    "; allow as much, or let more be pruned (pruning.round_to, pruning.depth)"
                )

    def repaired(self, genome: Genome) -> Genome:
        """The genome scaled down until it meets the bounds; itself where it does.

        All groups shrink by the same factor, the largest with which the bounds are met: so the genome keeps
        its proportions. What rounding gave away too much of is then given back, gene by gene, first where
        least of the bounds is used up for what is gained, until no gene can rise to what it was.
        """
        if self.met([genome])[0]:
            return genome
        start = np.array(genome)
        low = self._scaled(start)
        while (higher := self._raised(low, start)) is not None:
            low = higher
        return tuple(low.tolist())

    def _scaled(self, start: np.ndarray) -> np.ndarray:
        """The largest genome `factor * start`, rounded down to legal choices, that meets the bounds."""
        factors = [
            choices[choices <= kept] / kept
            for choices, kept in zip(self._choices, start, strict=True)
            if kept
        ]
        scales = np.unique(np.concatenate([[0.0], *factors]))
        columns = [
            choices[np.maximum(np.searchsorted(choices, scales * kept * (1 + 1e-12), side="right") - 1, 0)]
            for choices, kept in zip(self._choices, start, strict=True)
        ]
        rows = self._space.settled(np.minimum(np.column_stack(columns), start))
        fits = np.flatnonzero(self.met(rows))  # the first always does where anything does
        return rows[fits[-1] if len(fits) else 0]

    def _raised(self, kept: np.ndarray, start: np.ndarray) -> np.ndarray | None:
        """The genome with one gene a choice higher, at most what it was; None where no gene can rise."""
        genes = np.flatnonzero(kept < start)
        rows = np.repeat(kept[None], len(genes), axis=0)
        for row, gene in zip(rows, genes, strict=True):
            choices = self._choices[gene]
            row[gene] = choices[np.searchsorted(choices, kept[gene], side="right")]
        rows = self._space.settled(rows)
        able = (rows > kept).any(axis=1) & (rows <= start).all(axis=1)  # a fallen branch stays where it is
        rows, genes = rows[able], genes[able]
        if len(rows):
            met = self.met(rows)
            rows, genes = rows[met], genes[met]
        if not len(rows):
            return None
        before, after = self._space.cost(kept[None]), self._space.cost(rows)
        price = np.zeros(len(rows))
        for name, most in self.most.items():
            price += (getattr(after, name) - getattr(before, name)[0]) / most
        gain = np.log(rows[np.arange(len(rows)), genes] / np.maximum(kept[genes], 0.5))
        return np.asarray(rows[int(np.argmin(price / gain))])
