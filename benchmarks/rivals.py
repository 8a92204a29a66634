"""Searches that no user needs, to compare with: ensembles of processes, a scan, all answers known."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from search.controllers.base import SequentialController, Yardstick
from search.controllers.sampling import StratifiedSampler
from search.controllers.structured.belief import FLAT, Belief, flat
from search.controllers.structured.candidates import Candidates
from search.controllers.structured.controller import StructuredController
from search.controllers.structured.improvement import expected_improvement
from search.controllers.structured.mixture import Mixture
from search.controllers.structured.scale import AMOUNT
from search.genes import octaves
from search.prior.proposals import proposals
from spaces.fronts import non_dominated
from spaces.messages import Genome
from spaces.objectives import Objective
from spaces.space import ChannelSpace

_ALONE = 0.25  # kept share at which the scan measures every group
_DRAWS = 64
_LEAST = 4
_POOL = 300
_SURE = 0.02  # standard deviation of a damage that is known


class ScanController(SequentialController):
    """Measures every group alone at a quarter, then asks the networks of least damage if that adds up.

    No learning beyond the scan, whose trials count. With a belief given there is nothing to measure.
    """

    def __init__(
        self,
        space: ChannelSpace,
        objectives: Sequence[Objective],
        seed: int,
        first: Sequence[Genome],
        belief: Belief | None = None,
    ) -> None:
        dense = np.array(space.dense)
        alone = np.repeat(dense[None], len(dense), axis=0).astype(float)
        alone[np.diag_indices(len(dense))] *= _ALONE
        super().__init__(space, objectives, seed, first)
        self._alone = [tuple(row) for row in self.genes.nearest(alone).tolist()]
        self._belief, self._told_of = belief, dict[Genome, float]()
        if belief is None:
            self._queue.extend(self._alone)

    def _learn(self, genome: Genome, losses: np.ndarray | None) -> None:
        if losses is not None:
            self._told_of[genome] = float(losses[-1])

    def _propose(self, rng: np.random.Generator) -> Genome | None:
        belief = self._belief or self._measured_belief()
        for n in (64, 256):
            for genome in proposals(self.space, belief, n, list(self._asked)):
                if genome not in self._asked:
                    return genome
        return self._fresh(self.genes.mutate(self.space.dense, rng), rng)

    def _measured_belief(self) -> Belief:
        dense = self._told_of.get(self.space.dense, 0.0)
        lost = np.array([max(self._told_of.get(genome, dense) - dense, 0.0) for genome in self._alone])
        slopes = np.clip(lost / max(lost.mean(), 1e-9), 0.05, 20.0)
        return Belief(FLAT, slopes[:, None] * flat(len(lost)).slopes, np.ones(len(lost)))


class _Answers(Mixture):
    """What is true, in the place of what is believed."""

    def __init__(self, damage: Callable[[np.ndarray], np.ndarray]) -> None:
        self._damage = damage

    def expecting(self, genomes: np.ndarray) -> "_Answers":
        return self

    def mean(self, genomes: np.ndarray) -> np.ndarray:
        return self._damage(genomes)

    def each(self, genomes: np.ndarray) -> list[tuple[float, np.ndarray, np.ndarray]]:
        return [(1.0, self._damage(genomes), np.full(len(genomes), _SURE))]


class KnowingController(StructuredController):
    """`structured` as it asks, with every answer known before anything is measured: what asking alone can do.

    Args:
        space: Where genomes come from.
        objectives: FLOPs and an amount.
        seed: Decides every random choice.
        first: Genomes to ask before own proposals.
        amounts: The answers: genomes (n, n_groups) to (n,).
    """

    def __init__(
        self,
        space: ChannelSpace,
        objectives: Sequence[Objective],
        seed: int,
        first: Sequence[Genome],
        amounts: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        super().__init__(space, objectives, seed, first, yardstick=Yardstick())
        told = amounts(np.array(first))
        unit = told[0] + np.median(np.abs(told[1:] - told[0]))
        self._scale, self._unit = AMOUNT, float(unit)
        self._answers = _Answers(lambda rows: np.log(np.maximum(1 + (amounts(rows) - told[0]) / unit, 1e-3)))

    def _current(self) -> Mixture:
        self._known = np.array(list(self._asked))
        return self._answers


class RgpeController(SequentialController):
    """Ranking-weighted ensemble of Gaussian processes over past searches of the same genes.

    Each process sees octaves of the kept counts and standardised log disagreement. A past one counts as often
    as it ranks the target's networks best among all, over bootstrap draws; the target's own is judged by
    leaving out. The ensemble's expected hypervolume improvement decides.

    Args:
        space: Where genomes come from.
        objectives: FLOPs and an amount.
        seed: Decides every random choice.
        first: Genomes to ask before own proposals.
        past: Of every source, genomes as octaves of the kept counts (n, n_groups) and amounts (n,).

    Source: Feurer, Letham, Hutter and Bakshy 2018 (Practical transfer learning for Bayesian optimization).
    """

    def __init__(
        self,
        space: ChannelSpace,
        objectives: Sequence[Objective],
        seed: int,
        first: Sequence[Genome],
        past: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        super().__init__(space, objectives, seed, first)
        self._past = [_fitted(x, _standard(np.log(y + 1e-3))) for x, y in past]
        self._sampler, self._candidates = StratifiedSampler(space), Candidates(space, self.genes)
        self._told_of: dict[Genome, float] = {}

    def _learn(self, genome: Genome, losses: np.ndarray | None) -> None:
        if losses is not None:
            self._told_of[genome] = float(losses[-1])

    def _propose(self, rng: np.random.Generator) -> Genome | None:
        if len(self._told_of) < _LEAST:
            return self._fresh(self._sampler.draw(rng), rng)
        genomes = np.array(list(self._told_of))
        amounts = np.maximum(np.array(list(self._told_of.values())), 0.0)
        logs = np.log(amounts + 1e-3)
        x, y = self._octaves(genomes), _standard(logs)
        own = _fitted(x, y)
        weights = self._weights(own, x, y, rng)
        levels = octaves(self.space, genomes)
        front = np.flatnonzero(non_dominated(np.column_stack([levels, amounts])))
        pool = np.concatenate(
            [
                self._candidates.offspring(genomes[front], _POOL, rng),
                np.array([self._sampler.draw(rng) for _ in range(_POOL // 6)]),
            ]
        )
        pool = np.array([row for row in dict.fromkeys(map(tuple, pool.tolist())) if row not in self._asked])
        if not len(pool):
            return self._fresh(self._sampler.draw(rng), rng)
        said = [model.predict(self._octaves(pool), return_std=True) for model in [*self._past, own]]
        mean = np.sum([w * m for w, (m, _) in zip(weights, said, strict=True)], axis=0)
        sd = np.sqrt(np.sum([np.square(w * s) for w, (_, s) in zip(weights, said, strict=True)], axis=0))
        unit = max(float(logs.std()), 1e-6)
        gain = expected_improvement(
            octaves(self.space, pool),
            logs.mean() + unit * mean,
            unit * sd,
            levels[front],
            -np.exp(logs[front]),
            -float(np.exp(logs.max())),
            AMOUNT,
        )
        return tuple(pool[int(gain.argmax())].tolist())

    def _weights(self, own: Any, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """How often each process, the target's own last, ranks the target's networks best: (n + 1,)."""
        left_out = _left_out(own, x, y)
        guesses = [model.predict(x, return_std=True) for model in self._past]
        wrong = np.zeros((_DRAWS, len(guesses) + 1))
        for k in range(_DRAWS):
            some = rng.integers(len(y), size=len(y))
            for j, (mean, sd) in enumerate([*guesses, left_out]):
                drawn = mean + sd * rng.standard_normal(len(y))
                pairs = (drawn[some][:, None] < drawn[some]) ^ (y[some][:, None] < y[some])
                wrong[k, j] = pairs.sum()
        best = wrong == wrong.min(axis=1, keepdims=True)
        best[best[:, -1], :-1] = False  # ties go to the target's own
        share = best / best.sum(axis=1, keepdims=True)
        return np.asarray(share.mean(axis=0))

    def _octaves(self, genomes: np.ndarray) -> np.ndarray:
        return np.log2(np.maximum(genomes, 0.25) / np.array(self.space.dense))


def _standard(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-9))


def _fitted(x: np.ndarray, y: np.ndarray) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    kernel = ConstantKernel(1.0) * Matern(3.0, nu=2.5) + ConstantKernel(0.1) * DotProduct(1.0)
    model = GaussianProcessRegressor(kernel + WhiteKernel(0.05, (1e-3, 1.0)), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def _left_out(model: Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each value from all the others, in closed form: (n,), (n,).

    Source: Rasmussen and Williams 2006, section 5.4.2.
    """
    inverse = np.linalg.inv(model.kernel_(x) + 1e-8 * np.eye(len(x)))
    precision = np.diag(inverse)
    return y - inverse @ y / precision, 1 / np.sqrt(precision)
