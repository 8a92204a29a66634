"""What was measured, as the damage model takes it: retention of every network, and its noise."""

from dataclasses import dataclass, replace

import numpy as np

from search.controllers.base import Yardstick
from spaces.fronts import MARGIN
from spaces.messages import Genome

_KNOWN_SPREAD = 0.02  # of retention between repeats of one network, before any was repeated


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of n networks, dense not among them.

    Attributes:
        genomes: Which, (n, n_groups).
        retention: (metric - chance) / (dense - chance), means over replicates: (n,).
        sampling: Covariance of the retentions from who happens to be among the cases: (n, n).
        repeats: Replicates behind each mean: (n,).
        dense_repeats: Behind dense's.
        spread: Standard deviation of retention between repeats of one network, a first guess.
        floor: Retention below which a front counts nothing.
    """

    genomes: np.ndarray
    retention: np.ndarray
    sampling: np.ndarray
    repeats: np.ndarray
    dense_repeats: int
    spread: float
    floor: float

    def rows(self, index: np.ndarray) -> "Evidence":
        """Of those networks only: (k,) indices."""
        return replace(
            self,
            genomes=self.genomes[index],
            retention=self.retention[index],
            sampling=self.sampling[np.ix_(index, index)],
            repeats=self.repeats[index],
        )

    def noise(self, spread: float) -> np.ndarray:
        """Covariance of the errors when repeats spread so much: (n, n)."""
        noise = self.sampling + spread**2 / self.dense_repeats
        noise[np.diag_indices(len(noise))] += spread**2 / self.repeats
        return noise


class Ledger:
    """Collects what is told and makes evidence of it.

    What two networks err on alike cancels in their difference to dense, so the noise is the covariance, over
    patients, of these differences. It is kept as inner products of the networks' centred shares, so that a
    new network costs one row.
    """

    def __init__(self, yardstick: Yardstick) -> None:
        self._yardstick = yardstick
        self._place: dict[Genome, int] = {}
        self._values: list[list[float]] = []
        self._cases: list[list[np.ndarray]] = []
        self._rows: list[np.ndarray | None] = []
        self._gram = np.zeros((0, 0))

    def add(self, genome: Genome, value: float, cases: np.ndarray | None) -> None:
        """One finite measurement, larger is better, and its share per case where known."""
        if genome not in self._place:
            self._place[genome] = len(self._values)
            self._values.append([])
            self._cases.append([])
            self._rows.append(None)
            self._gram = np.pad(self._gram, (0, 1))
        i = self._place[genome]
        self._values[i].append(value)
        if cases is not None and cases.ndim == 1 and np.isfinite(cases).all():
            self._cases[i].append(cases)
            self._write(i)

    def evidence(self, dense: Genome) -> Evidence | None:
        """Of all networks but dense; None until dense and two others were measured."""
        if dense not in self._place or len(self._place) < 3:
            return None
        d = self._place[dense]
        means = np.array([np.mean(values) for values in self._values])
        chance = self._chance(means, means[d])
        margin = means[d] - chance
        if margin <= 0:
            return None
        others = np.array([i for i in range(len(means)) if i != d])
        genomes = np.array(list(self._place))[others]
        gram = self._gram[np.ix_(others, others)] - self._gram[others, d][:, None] - self._gram[others, d]
        has_cases = np.array([row is not None for row in self._rows])
        n_patients = len(row) if (row := self._rows[d]) is not None else 1
        sampling = _steadied(gram + self._gram[d, d], n_patients) / margin**2
        unknown = ~has_cases[others] | (not has_cases[d])
        sampling[unknown] = sampling[:, unknown] = 0.0
        known = np.diag(sampling)[~unknown]
        sampling[unknown, unknown] = np.median(known) if len(known) else 0.0
        floor = 0.0 if self._yardstick.chance is None else max(0.0, 1 - MARGIN / margin)
        return Evidence(
            genomes,
            1 + (means[others] - means[d]) / margin,
            sampling,
            np.array([len(self._values[i]) for i in others], dtype=float),
            len(self._values[d]),
            self._spread() / margin if self._spread() else _KNOWN_SPREAD,
            floor,
        )

    def _chance(self, means: np.ndarray, dense: float) -> float:
        """The metric of a network that knows nothing; where nobody said, well below the worst seen."""
        if self._yardstick.chance is not None:
            return self._yardstick.chance
        return float(dense - 1.5 * (dense - means.min()))

    def _spread(self) -> float:
        """Standard deviation of the metric between repeats; 0 if none was repeated."""
        repeated = [np.array(values) for values in self._values if len(values) > 1]
        freedom = sum(len(values) - 1 for values in repeated)
        return float(np.sqrt(sum(np.square(v - v.mean()).sum() for v in repeated) / max(freedom, 1)))

    def _write(self, i: int) -> None:
        sizes = [len(cases) for cases in self._cases[i]]
        cases = np.mean([c for c in self._cases[i] if len(c) == sizes[0]], axis=0)
        patients = self._yardstick.patients
        deviations = cases - cases.mean()
        if patients is not None and len(patients) == len(cases):
            deviations = np.bincount(np.unique(patients, return_inverse=True)[1], weights=deviations)
        n = len(deviations)
        row = deviations / len(cases) * np.sqrt(n / max(n - 1, 1))
        self._rows[i] = row
        for j, other in enumerate(self._rows):
            if other is not None:
                self._gram[i, j] = self._gram[j, i] = row @ other if len(other) == n else 0.0


def _steadied(covariance: np.ndarray, n: int) -> np.ndarray:
    """A covariance estimated from n patients, (p, p), drawn towards one correlation for all pairs.

    With p near n some combinations of networks seem to have no noise at all, and a fit would be forced to
    explain them. The estimate counts n / (n + p).
    Source: Ledoit and Wolf 2004 (Honey, I shrunk the sample covariance matrix), with a simple weight.
    """
    p = len(covariance)
    sd = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    correlation = covariance / np.outer(sd, sd)
    mean = (correlation.sum() - np.trace(correlation)) / max(p * (p - 1), 1)
    target = np.full((p, p), np.clip(mean, 0.0, 1.0))
    np.fill_diagonal(target, np.diag(correlation))
    return (n * correlation + p * target) / (n + p) * np.outer(sd, sd)
