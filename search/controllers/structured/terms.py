"""The damage model's prior: which shapes damage takes, as features and covariances of genomes."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from search.controllers.structured.belief import Belief, flat
from spaces.space import ChannelSpace

_KNOTS = np.array([0.0, 0.25, 0.75, 1.5, 3.0])
"""In octaves of the kept ratio. Between two knots a group's damage is a straight line; its slope is free."""

_STEEPNESS = np.array([0.15, 0.2, 0.3, 0.6])
"""Prior damage per octave on each piece when every group is pruned alike: mild pruning costs less."""

_WHOLE = 0.7
"""Share of a group's own variance that is its sensitivity as a whole; the rest bends its curve."""

_LENGTH = 1.0
"""Of the smooth rest, in root mean square octaves."""

_UNIT = 0.25
"""Variance of couplings and rest at scale one and amplitude one: half of what ruins a network."""


@dataclass(frozen=True)
class Scales:
    """How much of each kind of damage the prior expects.

    Attributes:
        amplitude: Of all damage, relative to the prior mean's.
        groups: Variance of a group's own slopes, relative to those that all have in common.
        couplings: Variance of products between neighbouring groups.
        rest: Variance of what is not additive at all.
        step: Variance of what all pruned networks have in common however little is pruned: dense's luck, and
            what its weights owe to having been trained for nothing else.
    """

    amplitude: float = 1.0
    groups: float = 3.0
    couplings: float = 0.03
    rest: float = 0.3
    step: float = 0.03


@dataclass(frozen=True, eq=False)
class Features:
    """Of n genomes.

    Attributes:
        common: (n, n_pieces) prior damage on each piece, the mean over groups.
        own: (n, n_groups * (1 + n_pieces)) the same of every group: as a whole, and by piece.
        products: (n, n_pairs) of neighbouring pruning ratios.
        octaves: (n, n_groups) octaves pruned over sqrt(n_groups).
        pruned: (n, 1) 1 where anything is.
    """

    common: np.ndarray
    own: np.ndarray
    products: np.ndarray
    octaves: np.ndarray
    pruned: np.ndarray

    def __len__(self) -> int:
        return len(self.common)

    def rows(self, index: np.ndarray) -> Self:
        """Those rows."""
        return type(self)(*(mine[index] for mine in vars(self).values()))

    def joined(self, other: "Features") -> Self:
        """These rows, then the other's."""
        parts = [np.concatenate([mine, vars(other)[name]]) for name, mine in vars(self).items()]
        return type(self)(*parts)


class Terms:
    """Additive ramps with common and own slopes, products of neighbours, and a smooth rest.

    Damage is 0 for the dense network. Its prior mean rises with pruning in every group; each slope is
    Gaussian and of free sign, so that a group whose mild pruning helps can be learnt.

    Args:
        space: Of the genomes.
        belief: How the groups' slopes are expected to differ; by default they are not.
    """

    def __init__(self, space: ChannelSpace, belief: Belief | None = None) -> None:
        self._dense = np.array(space.dense, dtype=float)
        self._pairs = _neighbours(space)
        self.belief = belief or flat(len(self._dense))

    def features(self, genomes: np.ndarray) -> Features:
        """Everything the covariances need of some genomes: (n, n_groups) -> n rows."""
        n_groups = len(self._dense)
        octaves = self._octaves(genomes)
        ramps = self.ramps(genomes)
        doubtful = ramps * self.belief.doubt[:, None]
        by_piece = doubtful.reshape(len(ramps), -1)
        own = np.column_stack([np.sqrt(_WHOLE) * doubtful.sum(axis=2), np.sqrt(1 - _WHOLE) * by_piece])
        ratios = 1 - np.exp2(-octaves)
        products = ratios[:, self._pairs[:, 0]] * ratios[:, self._pairs[:, 1]]
        scale = np.sqrt(max(len(self._pairs), 1))
        common = (ramps * self.belief.slopes).sum(axis=1)
        pruned = (octaves > 0).any(axis=1, keepdims=True).astype(float)
        return Features(common, own, products / scale, octaves / np.sqrt(n_groups), pruned)

    def ramps(self, genomes: np.ndarray) -> np.ndarray:
        """Damage that flat belief expects, by group and piece: (n, n_groups) -> (n, n_groups, n_pieces)."""
        widths = np.append(np.diff(_KNOTS)[:-1], np.inf)
        ramps = np.clip(self._octaves(genomes)[:, :, None] - _KNOTS[:-1], 0.0, widths)
        return ramps * _STEEPNESS / len(self._dense)

    def _octaves(self, genomes: np.ndarray) -> np.ndarray:
        return -np.log2(np.maximum(np.asarray(genomes, dtype=float), 0.25) / self._dense)

    @staticmethod
    def mean(features: Features, scales: Scales) -> np.ndarray:
        """Prior mean of the damage: (n,)."""
        return scales.amplitude * features.common.sum(axis=1)

    def parts(self, a: Features, b: Features) -> np.ndarray:
        """Covariances of common, groups, couplings, rest and step at scale one: (5, n, m)."""
        common, own, products, step = (
            getattr(a, kind) @ getattr(b, kind).T for kind in ("common", "own", "products", "pruned")
        )
        return np.stack([common, own, _UNIT * products, _UNIT * _rest(a.octaves, b.octaves), step])

    def covariance(self, a: Features, b: Features, scales: Scales) -> np.ndarray:
        """Prior covariance of the damage, `parts` by their weights: (n, m). One product instead of four."""
        common, own, products, rest, step = weights(scales) * np.array([1.0, 1.0, _UNIT, _UNIT, 1.0])
        weighted = [common * a.common, own * a.own, products * a.products, step * a.pruned]
        linear = np.hstack(weighted) @ np.hstack([b.common, b.own, b.products, b.pruned]).T
        return np.asarray(linear + rest * _rest(a.octaves, b.octaves))

    def variances(self, a: Features) -> np.ndarray:
        """The diagonals of `parts`: (5, n)."""
        squares = [np.square(part).sum(axis=1) for part in (a.common, a.own, _UNIT**0.5 * a.products)]
        rest = _UNIT * (1 - np.square(_matern(np.linalg.norm(a.octaves, axis=1))))
        return np.stack([*squares, rest, a.pruned[:, 0]])

    def variance(self, a: Features, scales: Scales) -> np.ndarray:
        """Prior variance of the damage: (n,), the diagonal of `covariance`."""
        return weights(scales) @ self.variances(a)


def weights(scales: Scales) -> np.ndarray:
    """What each of `Terms.parts` counts: (5,)."""
    parts = [1.0, scales.groups, scales.couplings, scales.rest, scales.step]
    return scales.amplitude**2 * np.array(parts)


def _rest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A Matern 5/2 process held at 0 in the dense network: (n, g), (m, g) -> (n, m)."""
    squares = (-2 * a) @ b.T
    squares += np.square(a).sum(axis=1)[:, None]
    squares += np.square(b).sum(axis=1)
    rest = _matern(np.sqrt(np.maximum(squares, 0.0, out=squares), out=squares))
    rest -= _matern(np.linalg.norm(a, axis=1))[:, None] * _matern(np.linalg.norm(b, axis=1))
    return rest


def _matern(distance: np.ndarray) -> np.ndarray:
    scaled = distance * (np.sqrt(5.0) / _LENGTH)  # s; then (1 + s + s^2 / 3) exp(-s) without new arrays
    value = scaled / 3
    value += 1
    value *= scaled
    value += 1
    return np.asarray(np.multiply(value, np.exp(np.negative(scaled, out=scaled), out=scaled), out=value))


def _neighbours(space: ChannelSpace) -> np.ndarray:
    """Pairs of groups that meet in a module: (n_pairs, 2); successive ones where members tell nothing."""
    members = [set(group.members) for group in space.groups]
    near = [(i, j) for i in range(len(members)) for j in range(i + 1, min(i + 4, len(members)))]
    pairs = [(i, j) for i, j in near if members[i] & members[j]]
    return np.array(pairs or [(i, j) for i, j in near if j == i + 1], dtype=int).reshape(-1, 2)
