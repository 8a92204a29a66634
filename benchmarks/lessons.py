"""Why lessons add so little to the gradients' scan: what of damage is alike in all banks, and what helps.

    python -m benchmarks.lessons

Of each bank (benchmarks/banks.py, by agreement): how far its groups' slopes are spread, how they go with
their share in Fisher's information (correlation, power), the damage of pruning all groups alike, and what the
ladder tells: how its mean damage goes with spread and power over banks. Then forecasts of everything
else in a bank from its ladder, and from its ladder and twelve of its networks, by the damage model with

- flat: all groups alike; scan: slopes by Fisher's share to several powers;
- lessons: log-linear slopes from the banks on other data, at two strengths;
- own slopes: those that the whole bank has. No lesson can be better: the ceiling of all that foresee slopes;
- shape: the scan, and the curve that all groups share as the other data have it, or half way there;
- tight: scales of the damage model held nearer to where they start.

Gains are over the scan, nats a network, means over data sets with standard errors; `rmse` is of readings.
Results: lessons.json.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bank_files import read_bank, recorded
from benchmarks.pairs import DATA
from benchmarks.provenance import made
from search.controllers.structured import model as damage
from search.controllers.structured.belief import PIECES, Belief, flat
from search.controllers.structured.model import DamageModel, Setting
from search.controllers.structured.terms import Terms
from search.prior.corpus import PastCampaign
from search.prior.features import fisher_shares
from search.prior.lessons import Lesson, lesson_of
from search.prior.loglinear import FISHER_POWER, coefficients, relative

RESULTS = Path(__file__).with_suffix(".json")
OCTAVES = (0.25, 0.75, 1.5, 3.0)
MORE = 12
_DOUBT = 0.3
_TIGHT = 0.5
_Z = 1.645


class Shaped(Terms):
    """Terms whose curve has another shape: each piece times a factor."""

    shape = np.ones(PIECES)

    def ramps(self, genomes: np.ndarray) -> np.ndarray:
        """See `Terms.ramps`."""
        return super().ramps(genomes) * self.shape


def uniform(past: PastCampaign) -> np.ndarray:
    """Damage of pruning all groups by so many octaves, from the whole bank: (4,)."""
    terms = Terms(past.space)
    model = DamageModel(terms, past.evidence, Setting())
    dense = np.array(past.space.dense, dtype=float)
    return model.predict(terms.features(dense * np.exp2(-np.array(OCTAVES))[:, None]))[0]


def forecast(past: PastCampaign, terms: Terms, told: np.ndarray) -> tuple[float, float, float]:
    """Density, coverage of the 90 % intervals and root mean square error of what was not told."""
    rest = np.setdiff1d(np.arange(len(past.evidence.genomes)), told)
    evidence = past.evidence
    model = DamageModel(terms, evidence.rows(told), Setting())
    mean, sd = model.predict(terms.features(evidence.genomes[rest]))
    noise = np.diag(evidence.noise(model.setting.spread * evidence.spread))[rest]
    variance = np.minimum(sd, 2.0) ** 2 + noise + 1e-6
    gaps = np.square(evidence.readings[rest] - mean)
    density = -0.5 * (gaps / variance + np.log(2 * np.pi * variance))
    held = gaps <= _Z**2 * variance
    return float(density.mean()), float(held.mean()), float(np.sqrt(gaps.mean()))


def variants(past: PastCampaign, own: Lesson, others: list[Lesson], shape: np.ndarray) -> dict[str, Terms]:
    """The damage model's priors to compare, by name."""
    shares, n = fisher_shares(past.groups), len(past.space.groups)
    assert shares is not None
    seen = np.concatenate([lesson.features for lesson in others]).std(axis=0)
    scale = np.where(seen > 1e-9, seen, np.inf)

    def of(slopes: np.ndarray, doubt: float = _DOUBT) -> Belief:
        return Belief("x", np.repeat(slopes[:, None], PIECES, axis=1), np.full(n, doubt))

    def shaped(belief: Belief, power: float) -> Terms:
        terms = Shaped(past.space, belief)
        terms.shape = shape**power
        return terms

    scan = of(relative(FISHER_POWER * shares))
    true = np.clip(own.slopes / own.slopes.mean(), 0.1, 6.0)
    found = {"flat": Terms(past.space, flat(n)), "scan": Terms(past.space, scan)}
    found |= {f"scan, power {p}": Terms(past.space, of(relative(p * shares))) for p in (0.2, 0.3, 0.5)}
    for strength in (0.1, 0.2):
        slopes = relative(own.features @ coefficients(others, scale, strength))
        found[f"lessons, strength {strength}"] = Terms(past.space, of(slopes))
    found["own slopes"] = Terms(past.space, of(true / true.mean()))
    found |= {"scan, shape": shaped(scan, 1.0), "scan, half of the shape": shaped(scan, 0.5)}
    return found | {"scan, tight": found["scan"], "flat, tight": found["flat"]}


def main() -> None:
    banks = {pair: read_bank(pair).past() for pair in recorded()}
    lessons = {pair: lesson_of(past) for pair, past in banks.items()}
    curves = {pair: uniform(past) for pair, past in banks.items()}
    rows, scores = [], dict[tuple[str, str], dict[str, list[Any]]]()
    for pair, past in banks.items():
        shares = fisher_shares(past.groups)
        assert shares is not None
        logs = np.log(np.clip(lessons[pair].slopes / lessons[pair].slopes.mean(), 0.05, None))
        row = {"bank": pair, "spread": logs.std(), "fisher": np.corrcoef(shares, logs)[0, 1]}
        row |= {"power": np.polyfit(shares, logs, 1)[0], "ladder": past.evidence.readings[past.first].mean()}
        rows.append(row | {"uniform": curves[pair].tolist()})
        apart = [other for other in banks if DATA[other] != DATA[pair]]
        steps = {other: np.diff(curves[other], prepend=0.0) for other in apart}
        expected = np.diff(uniform_flat(past), prepend=0.0)
        by_data = [
            np.mean([steps[other] for other in apart if DATA[other] == name], axis=0)
            for name in sorted({DATA[other] for other in apart})
        ]
        shape = np.clip(np.mean(by_data, axis=0) / expected, 0.1, 20.0)
        first, rest = np.flatnonzero(past.first), np.flatnonzero(~past.first)
        more = np.concatenate([first, np.random.default_rng(0).permutation(rest)[:MORE]])
        for told, known in (("ladder", first), (f"ladder and {MORE}", more)):
            if len(known) < 3:
                continue
            for name, terms in variants(past, lessons[pair], [lessons[o] for o in apart], shape).items():
                usual = damage._LOOSENESS
                damage._LOOSENESS = _TIGHT if "tight" in name else usual
                found = forecast(past, terms, known)
                damage._LOOSENESS = usual
                scores.setdefault((told, name), {}).setdefault(DATA[pair], []).append(found)
    ladder = [row["ladder"] for row in rows]
    tells = {key: np.corrcoef(ladder, [row[key] for row in rows])[0, 1] for key in ("spread", "power")}
    result = {"banks": rows, "ladder_tells": tells, "forecasts": [summary(scores, *key) for key in scores]}
    about = made()
    rounded = json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 3))
    RESULTS.write_text(json.dumps({**about, **rounded}, indent=1) + "\n")
    for line in [*rounded["banks"], rounded["ladder_tells"], *rounded["forecasts"]]:
        print(*line.values())


def uniform_flat(past: PastCampaign) -> np.ndarray:
    """The same as the flat prior expects it: (4,)."""
    dense = np.array(past.space.dense, dtype=float)
    return Terms(past.space).ramps(dense * np.exp2(-np.array(OCTAVES))[:, None]).sum(axis=(1, 2))


def summary(scores: dict[tuple[str, str], dict[str, list[Any]]], told: str, name: str) -> dict[str, Any]:
    """Gain over the scan, coverage and error, over data sets."""
    mine, scan = (
        {data: np.mean(found, axis=0) for data, found in scores[told, key].items()} for key in (name, "scan")
    )
    gains = np.array([mine[data][0] - scan[data][0] for data in mine])
    means = np.mean(list(mine.values()), axis=0)
    error = float(gains.std(ddof=1) / np.sqrt(len(gains)))
    row = {"told": told, "prior": name, "gain": float(gains.mean()), "error": error}
    return row | {"coverage": float(means[1]), "rmse": float(means[2])}


if __name__ == "__main__":
    main()
