"""Damage and what is measured of it: two scales on which damage adds up over groups."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

LEAST, MOST = -0.7, float(-np.log(0.02))
"""Damage of retentions between which metrics tell networks apart: the margin doubled, and all but lost."""


@dataclass(frozen=True)
class Scale:
    """How a reading, and what a front counts, follow from damage Z.

    - Retention, where chance is known: the reading is (metric - chance) / (dense - chance) = exp(-Z), and
      that is what counts.
    - Amounts, as of disagreement: the reading is Z = log(1 + (amount - dense's) / unit) itself, for what is
      never negative scatters by factors; what counts is the amount, that is -exp(Z) in units.

    Attributes:
        name: "retention" or "amount".
    """

    name: str

    @property
    def _sign(self) -> float:
        return 1.0 if self.name == "retention" else -1.0

    def damage(self, readings: np.ndarray) -> np.ndarray:
        """What the readings say without any noise, held within what they can tell: (n,) -> (n,)."""
        if self.name == "amount":
            return readings.copy()
        return np.clip(-np.log(np.maximum(readings, np.exp(-MOST))), LEAST, MOST)

    def held(self, damage: np.ndarray) -> np.ndarray:
        """Damage within what readings can tell: (n,) -> (n,)."""
        return damage if self.name == "amount" else np.clip(damage, LEAST, MOST)

    def slopes(self, damage: np.ndarray) -> np.ndarray:
        """How much a reading moves with the damage there, as a size: (n,) -> (n,)."""
        return np.ones(len(damage)) if self.name == "amount" else np.exp(-damage)

    def linearised(
        self, readings: np.ndarray, noise: np.ndarray, at: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Damage that a straight line through `at` reads, and its noise: (n,), (n, n)."""
        if self.name == "amount":
            return readings, noise
        slopes = self.slopes(at)
        return at + 1 - readings / slopes, noise / np.outer(slopes, slopes)

    def moments(self, mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the reading, its noise apart, of Gaussian damage: (n,), (n,)."""
        if self.name == "amount":
            return mean, sd**2
        return np.exp(-mean + sd**2 / 2), np.exp(-2 * mean + sd**2) * np.expm1(sd**2)

    def worth(self, damage: np.ndarray) -> np.ndarray:
        """What a front counts, larger is better: (n,) -> (n,)."""
        return self._sign * np.exp(-self._sign * damage)

    def expected_excess(self, mean: np.ndarray, sd: np.ndarray, level: np.ndarray) -> np.ndarray:
        """E[max(worth(Z) - level, 0)] for Z ~ N(mean, sd^2); broadcasts; sd >= 0.

        `worth` is plus or minus a lognormal, so this is the undiscounted call of Black and Scholes,
        `exp(-m + s^2/2) Phi((s^2 - m - ln k)/s) - k Phi((-m - ln k)/s)`, or the put.

        Args:
            mean: Of the damage.
            sd: Of the damage.
            level: A worth; not negative for retention, negative for amounts.
        """
        sd, sign = np.maximum(sd, 1e-9), self._sign
        log_level = np.log(np.maximum(sign * level, 1e-300))
        beyond = (-mean - sign * log_level) / sd
        whole = np.exp(-sign * mean + sd**2 / 2)
        return sign * whole * ndtr(beyond + sign * sd) - level * ndtr(beyond)


RETENTION, AMOUNT = Scale("retention"), Scale("amount")
