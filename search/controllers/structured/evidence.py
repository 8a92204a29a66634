"""What was measured, as the damage model takes it: a reading of every network's damage, and its noise."""

from dataclasses import dataclass, replace

import numpy as np

from search.controllers.base import Yardstick
from search.controllers.structured.scale import AMOUNT, RETENTION, Scale
from spaces.fronts import MARGIN
from spaces.messages import Genome

_KNOWN_SPREAD = 0.02  # of readings between repeats of one network, before any was repeated
_LEAST_AMOUNT = 1e-3  # in units: an amount below dense's by nearly a unit is read as this


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of n networks, dense not among them.

    Attributes:
        genomes: Which, (n, n_groups).
        readings: See `Scale`; means over replicates: (n,).
        sampling: Covariance of the readings from who happens to be among the cases, as far as it is not
            shared by all networks: (n, n).
        repeats: Replicates behind each mean: (n,).
        spread: Standard deviation of a reading between repeats of one network, a first guess.
        floor: Worth below which a front counts nothing; None: below that of its worst network.
        scale: What the readings say about damage.
        unit: Of amounts; of retention, dense's margin over chance.
    """

    genomes: np.ndarray
    readings: np.ndarray
    sampling: np.ndarray
    repeats: np.ndarray
    spread: float
    floor: float | None
    scale: Scale = RETENTION
    unit: float = 1.0

    def rows(self, index: np.ndarray) -> "Evidence":
        """Of those networks only: (k,) indices."""
        return replace(
            self,
            genomes=self.genomes[index],
            readings=self.readings[index],
            sampling=self.sampling[np.ix_(index, index)],
            repeats=self.repeats[index],
        )

    def noise(self, spread: float) -> np.ndarray:
        """Covariance of the errors when repeats spread so much: (n, n).

        What all networks err on alike, dense's luck before all, is left to `Terms`: it has a step between
        dense and everything else.
        """
        noise = self.sampling.copy()
        noise[np.diag_indices(len(noise))] += spread**2 / self.repeats
        return noise


class Ledger:
    """Collects what is told and makes evidence of it.

    What two networks err on alike cancels in their difference, so the noise is the covariance, over patients,
    of what each has beyond the mean of all networks. It is kept as inner products of the networks' centred
    shares, so that a new network costs one row.

    Where chance is known, retention is read, else amounts; their unit is dense's own amount plus the median
    of what pruning adds: log(1 + x) is then straight where networks are good and logarithmic where they are
    not. Dense's amount is 0 only where networks are sliced from its own weights.
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
        others = np.array([i for i in range(len(self._values)) if i != d])
        means = np.array([np.mean(values) for values in self._values])
        known = self._yardstick.chance is not None
        unit = means[d] - self._yardstick.chance if known else self._unit(means, d)
        if unit <= 0:
            return None
        lost = means[d] - means[others]
        readings = 1 - lost / unit if known else np.log(np.maximum(1 + lost / unit, _LEAST_AMOUNT))
        slopes = np.full(len(others), 1 / unit) if known else np.exp(-readings) / unit
        floor = max(0.0, 1 - MARGIN / unit) if known else None
        return Evidence(
            np.array(list(self._place))[others],
            readings,
            self._sampling(others) * np.outer(slopes, slopes),
            np.array([len(self._values[i]) for i in others], dtype=float),
            self._spread(means, means[d], unit) or _KNOWN_SPREAD,
            floor,
            RETENTION if known else AMOUNT,
            float(unit),
        )

    def _sampling(self, others: np.ndarray) -> np.ndarray:
        """Covariance of the means of these networks over patients, beyond what all share: (n, n)."""
        has_cases = np.array([self._rows[i] is not None for i in others])
        covariance = np.zeros((len(others), len(others)))
        if not has_cases.any():
            return covariance
        among = others[has_cases]
        gram = self._gram[np.ix_(among, among)]
        gram = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
        n_patients = max(len(row) for i in among if (row := self._rows[i]) is not None)
        covariance[np.ix_(has_cases, has_cases)] = _steadied(gram, n_patients)
        covariance[~has_cases, ~has_cases] = np.median(np.diag(gram))
        return covariance

    def _unit(self, means: np.ndarray, dense: int) -> float:
        """Of amounts: what dense has, if that is not negative, and the median of what pruning adds."""
        return max(-float(means[dense]), 0.0) + float(
            np.median(np.abs(np.delete(means, dense) - means[dense]))
        )

    def _spread(self, means: np.ndarray, dense: float, unit: float) -> float:
        """Standard deviation of readings between repeats; 0 if none was repeated.

        Of amounts, where it is relative to what amounts are there.
        """
        squares, freedom = 0.0, 0
        for values, mean in zip(self._values, means, strict=True):
            size = unit if self._yardstick.chance is not None else unit + max(dense - mean, 0.0)
            squares += float(np.square(np.array(values) - mean).sum()) / size**2
            freedom += len(values) - 1
        return float(np.sqrt(squares / max(freedom, 1)))

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
