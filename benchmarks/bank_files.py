"""The committed files of banks: written, read as past campaigns, and judged for what is at stake in them."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.pairs import FREE, PAIRS
from search.controllers.base import Yardstick
from search.controllers.structured.evidence import Ledger
from search.genes import octaves
from search.prior.corpus import AGREEMENT, METRIC, Origin, PastCampaign, space_of
from search.prior.evaluation import assess, fit_prior
from search.prior.model import LayerPrior
from spaces.agreement import agreement
from spaces.messages import Record
from spaces.space import ChannelSpace

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).with_name("banks")
DENSE_TIMES = 3
_CASES = 200
_COLUMNS = (
    "number",
    "replicate",
    "genome",
    "octaves",
    "val",
    "se",
    "loss",
    "disagreement",
    "disagreement_se",
)
_TEST = ("test", "test_loss", "test_disagreement", "scout")


def header() -> list[str]:
    """Names of the columns; `se` are of the paired differences to dense, `scout` is what scouts see."""
    return [*_COLUMNS, *_TEST]


def row_of(record: Record, test: dict[str, float], space: ChannelSpace, metric: str) -> list[str]:
    """One line of a bank; standard errors are filled in by `pair_up`."""
    genome = record.trial.genome
    return [
        str(record.trial.number),
        str(record.trial.replicate),
        " ".join(map(str, genome)),
        f"{octaves(space, np.array([genome]))[0]:.4f}",
        f"{record.value(metric):.5f}",
        "",
        f"{record.value('loss'):.5f}",
        f"{record.value('disagreement'):.5f}",
        "",
        *(f"{test[name]:.5f}" for name in _TEST),
    ]


def pair_up(rows: list[list[str]], records: Sequence[Record]) -> dict[str, float]:
    """Write standard errors of paired differences to dense; mean correlation of these errors."""
    correlations = {}
    for key, column, name in (
        ("metric", "se", "noise_correlation"),
        ("disagreement", "disagreement_se", "disagreement_correlation"),
    ):
        cases = {r.trial.number: r.outcome.per_case[key].astype(float) for r in records}
        differences = []
        for row in rows[1:]:
            difference = cases[int(row[0])] - cases[0]
            error = difference.std(ddof=1) / np.sqrt(len(difference))
            row[_COLUMNS.index(column)] = f"{error:.5f}"
            if int(row[0]) >= DENSE_TIMES and error > 0:
                differences.append(difference)
        n = len(differences)
        total = float(np.corrcoef(differences).sum()) if n > 1 else 0.0
        correlations[name] = round((total - n) / (n * (n - 1)), 3) if n > 1 else 0.0
    return correlations


@dataclass(frozen=True, eq=False)
class BankFile:
    """A committed bank.

    Attributes:
        pair: Its name.
        about: As the store described its campaign.
        rows: Its lines.
    """

    pair: str
    about: dict[str, Any]
    rows: list[dict[str, str]]

    @cached_property
    def genomes(self) -> list[tuple[int, ...]]:
        """Of every line."""
        return [tuple(map(int, row["genome"].split())) for row in self.rows]

    @cached_property
    def is_dense(self) -> np.ndarray:
        """Which lines are of dense: (n,)."""
        dense = tuple(self.about["dense"]["genome"])
        return np.array([genome == dense for genome in self.genomes])

    def column(self, name: str) -> np.ndarray:
        """One column as numbers: (n,)."""
        return np.array([float(row[name]) for row in self.rows])

    def past(self, value: str = AGREEMENT) -> PastCampaign:
        """The bank as a past campaign, as the controllers take it: damage of the agreement, or of the metric.

        Cases are made up so that differences to dense have the recorded errors and correlation.
        """
        found, errors, correlation = self._figures(value)
        space, rng = space_of(self.about["groups"]), np.random.default_rng(0)
        ledger = Ledger(Yardstick(self.about["chance"] if value == METRIC else None))
        common = rng.standard_normal(_CASES)
        for genome, figure, error in zip(self.genomes, found, errors, strict=True):
            own = rng.standard_normal(_CASES)
            luck = correlation**0.5 * common + (1 - correlation) ** 0.5 * own
            ledger.add(genome, float(figure), figure + error * _CASES**0.5 * luck)
        evidence = ledger.evidence(space.dense)
        assert evidence is not None
        at = dict(zip(self.genomes, self.column("octaves"), strict=True))
        networks = [tuple(genome) for genome in evidence.genomes.tolist()]
        ladder = {tuple(genome) for genome in self.about["ladder"]}
        prints, name = self.about["fingerprints"], f"bank-{self.pair}"
        return PastCampaign(
            Origin(
                name,
                self.pair,
                self.about["source"],
                prints["data"],
                prints["network"],
                len(networks),
                value,
            ),
            self.about["groups"],
            space,
            evidence,
            np.array([at[network] for network in networks]),
            np.array([network in ladder for network in networks]),
            self.about["rung"],
        )

    def _figures(self, value: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Larger is better; standard errors of the differences to dense, and how alike networks err."""
        if value == METRIC:
            found = self.column("val"), self.column("se"), self.about["noise_correlation"]
        else:
            column = "disagreement_correlation"
            found = -self.column("disagreement"), self.column("disagreement_se"), self.about[column]
        return found[0], found[1], float(np.clip(found[2], 0, 1))


def read_bank(pair: str) -> BankFile:
    """A committed bank."""
    about = json.loads((FOLDER / f"{pair}.json").read_text())
    return BankFile(pair, about, list(csv.DictReader((FOLDER / f"{pair}.csv").read_text().splitlines())))


def recorded() -> list[str]:
    """Names of the committed banks."""
    tables = {pair: FOLDER / f"{pair}.csv" for pair in PAIRS}
    return [pair for pair, path in tables.items() if path.exists() and "disagreement" in path.read_text()]


def builtin_prior() -> LayerPrior:
    """The prior that comes with the program: of the banks on freely licensed data."""
    return fit_prior([read_bank(pair).past() for pair in recorded() if pair.split("-")[0] in FREE])


def flatness(pairs: Sequence[str]) -> "pd.DataFrame":
    """What is at stake in each bank: spread of test figures at equal FLOPs, beside that of repeats.

    And how scouts order networks as their disagreement does, by Kendall's tau: overall, within half an
    octave, and what FLOPs alone do.
    """
    import pandas as pd

    frame = []
    for pair in [pair for pair in pairs if pair in recorded()]:
        bank = read_bank(pair)
        test, levels = bank.column("test"), bank.column("octaves")
        once = ~bank.is_dense & (bank.column("replicate") == 0)
        row: dict[str, Any] = {"bank": pair, "rung": bank.about["rung"], "networks": int(once.sum())}
        row |= {"chance": bank.about["chance"], "dense": float(test[bank.is_dense].mean())}
        for name in ("test", "test_disagreement"):
            values = bank.column(name)
            bins = np.floor(2 * levels).astype(int)
            inside = [values[once & (bins == k)] for k in np.unique(bins[once])]
            inside = [group for group in inside if len(group) >= 4]
            spread = np.sqrt(np.mean([group.var(ddof=1) for group in inside]))
            groups = [values[[g == genome for g in bank.genomes]] for genome in set(bank.genomes)]
            noise = np.sqrt(np.mean([group.var(ddof=1) for group in groups if len(group) > 1]))
            row |= {name: spread, f"{name}_repeats": noise}
        row["worst"] = float(np.quantile(test[once], 0.05))
        seen, lost, at = (bank.column(name)[once] for name in ("scout", "disagreement", "octaves"))
        row["scouts"] = agreement(-seen, -lost).tau
        row["scouts_within"] = agreement(-seen, -lost, at, within=0.5).tau
        row["octaves"] = agreement(at, -lost).tau
        frame.append(row)
    return pd.DataFrame(frame)


def gains() -> list[dict[str, Any]]:
    """What lessons foresee of banks on other data beyond the flat prior, in nats a network.

    Lessons from damage of the metric and of the agreement, each asked for both; one row for each bank.
    """
    banks = [read_bank(pair) for pair in recorded()]
    past = {value: [bank.past(value) for bank in banks] for value in (METRIC, AGREEMENT)}
    rows = []
    for taught, campaigns in past.items():
        prior = fit_prior(campaigns)
        for asked, targets in past.items():
            for bank, found in zip(banks, assess(prior, targets), strict=True):
                if found.get("flat") is None:  # its ladder is too short to foresee anything from
                    continue
                row = {"bank": bank.pair, "lessons": taught, "foreseen": asked, "coverage": found["coverage"]}
                row |= {name: round(found[name] - found["flat"], 4) for name in ("meta", "scan")}
                rows.append(row | {"flat": round(found["flat"], 4)})
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """Mean gains over the banks of a data set, then over data sets, with standard errors over these."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    frame["data"] = frame["bank"].str.split("-").str[0]
    by_data = frame.groupby(["lessons", "foreseen", "data"])[["meta", "scan", "coverage"]].mean()
    found = by_data.groupby(["lessons", "foreseen"]).agg(["mean", "sem"])
    found.columns = [f"{name} {kind}" for name, kind in found.columns]
    return found.reset_index()
