"""Committed banks as problems that answer any genome at once, and the priors that may be asked about them."""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bank_files import BankFile, read_bank
from benchmarks.generalisation import deployed
from benchmarks.pairs import DATA, FAMILY, config_of
from evaluators.rungs.prices import prices, scout_price
from search.genes import octaves
from search.prior.corpus import PastCampaign
from search.prior.evaluation import fit_prior
from search.prior.features import GROUP_CURVES
from search.prior.file import load_prior, save_prior
from search.prior.model import LayerPrior
from search.scouting import n_scouts
from spaces.fronts import MARGIN, OCTAVES, hypervolume, non_dominated
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.space import ChannelSpace

ANSWERS = ("disagreement", "test_disagreement", "test")
SHAPES = {
    "breast": (1, 28, 28),
    "pneumonia": (1, 28, 28),
    "nuclei": (3, 64, 64),
    "vessels": (3, 64, 64),
    "adrenal": (1, 14, 14, 14),
    "hippocampus": (1, 24, 32, 24),
}
SEGMENTATION = ("nuclei", "vessels", "hippocampus")
_FOLDS = 5
_CASES = 200


@dataclass(frozen=True, eq=False)
class Task:
    """A bank as a problem.

    What a regression (a Gaussian process on octaves of the kept counts, no part of the damage model) cannot
    say of networks that it did not see comes back as a fixed deviate of each genome, of the size and with the
    correlation between the three answers that cross-validation finds: tasks are as rough as the banks are.

    Attributes:
        pair: Which bank.
        about: As the store described its campaign.
        space: Traced anew.
        past: The bank as a past campaign.
        first: Dense and the ladder, with which every search starts.
        answer: Of genomes (n, n_groups): disagreement on training images, disagreement and metric on test:
            (n, 3).
        fit: Share of the variance that the regression foresees in cross-validation, of each answer.
        luck: Standard error of a disagreement over images, relative to it, and how alike networks err.
        scouts: How many scouts a campaign sends, and what each costs, in evaluations.
        real: What a campaign's record of a trial is, where there are real networks.
        look: What a scout sees of a trial's genome, likewise.
    """

    pair: str
    about: dict[str, Any]
    space: ChannelSpace
    past: PastCampaign
    first: list[Genome]
    answer: Callable[[np.ndarray], np.ndarray]
    fit: tuple[float, float, float]
    luck: tuple[float, float]
    scouts: tuple[int, float]
    real: Callable[[Trial], Record] | None = None
    look: Callable[[Trial], Record] | None = None

    def record(self, trial: Trial) -> Record:
        """What a campaign's record of the trial would be; of a regression, with made-up cases."""
        if self.real is not None:
            return self.real(trial)
        amount = float(self.answer(np.array([trial.genome]))[0, 0])
        cases = {"disagreement": self.cases(trial.genome, amount)}
        outcome = Outcome(trial.number, "complete", {"disagreement": amount}, cases)
        return Record(trial, outcome, self.space.cost(trial.genome).row(0))

    def cases(self, genome: Genome, amount: float) -> np.ndarray:
        """Made-up cases of this mean, with the recorded errors and correlation: (200,)."""
        common = np.random.default_rng(0).standard_normal(_CASES)
        own = np.random.default_rng(list(genome)).standard_normal(_CASES)
        error, alike = self.luck
        drawn = alike**0.5 * common + (1 - alike) ** 0.5 * own
        return np.asarray(amount * (1 + error * _CASES**0.5 * (drawn - drawn.mean())))

    def volumes(self, genomes: Sequence[Genome]) -> np.ndarray:
        """After each trial, what the front that disagreement on training images chose is worth: (n, 2).

        On test images: hypervolume of disagreement, over that of the ladder's worst network, and of the
        metric above dense's - 0.10, each network standing for the budgets from its own FLOPs to the next
        one's; both along log2 FLOPs down to 1/64.
        """
        answers = self.answer(np.array(genomes))
        levels = np.maximum(octaves(self.space, np.array(genomes)), -OCTAVES)
        told = np.column_stack([levels, answers[:, 0]])
        worst = self.answer(np.array(self.first))[:, 1].max()
        corner = max(answers[genomes.index(self.space.dense), 2] - MARGIN, self.about["chance"])
        found = []
        for k in range(1, len(genomes) + 1):
            front = np.flatnonzero(non_dominated(told[:k]))
            agreed = np.column_stack([levels[front], answers[front, 1] / worst])
            found.append(
                (
                    hypervolume(agreed, [0.0, 1.0]),
                    deployed(np.exp2(levels[front]), answers[front, 2], corner),
                )
            )
        return np.array(found)


@cache
def read(pair: str) -> Task:
    """A committed bank as a task."""
    bank = read_bank(pair)
    space = _space(pair)
    if [group.name for group in space.groups] != [group["name"] for group in bank.about["groups"]]:
        raise SystemExit(f"{pair}: the network's groups are no longer those of the bank; record it anew")
    answer, fit = _regressions(bank, space)
    first = [space.dense, *(tuple(genome) for genome in bank.about["ladder"])]
    amounts, errors = bank.column("disagreement"), bank.column("disagreement_se")
    error = float(np.median((errors / np.maximum(amounts, 1e-9))[~bank.is_dense]))
    luck = error, float(np.clip(bank.about["disagreement_correlation"], 0, 1))
    config = config_of(pair)
    search = config.search.model_copy(update={"controller": "structured"})
    sizes = [round(2 ** bank.about["task"][name]) for name in ("log_train", "log_val")]
    price = scout_price(config.task.kind) / prices(config.proxy, *sizes)[config.proxy.rung]
    scouts = n_scouts(config.model_copy(update={"search": search}), *sizes), price
    return Task(pair, bank.about, space, bank.past(), first, answer, fit, luck, scouts)


def _space(pair: str) -> ChannelSpace:
    import torch

    from evaluators.networks import build_network
    from spaces.tracing import trace

    network, _ = build_network(config_of(pair).network, seed=0)
    return trace(network, torch.zeros(1, *SHAPES[DATA[pair]]))


def _regressions(
    bank: BankFile, space: ChannelSpace
) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[float, float, float]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import KFold, cross_val_predict

    genomes = list(dict.fromkeys(bank.genomes))
    place = {genome: i for i, genome in enumerate(genomes)}
    where = np.array([place[genome] for genome in bank.genomes])
    counts = np.bincount(where)
    raw = np.column_stack([np.bincount(where, bank.column(name)) / counts for name in ANSWERS])
    dense = place[space.dense]
    units = raw[dense] + np.median(raw, axis=0) * 0.1

    def scaled(values: np.ndarray) -> np.ndarray:
        return np.column_stack(
            [np.log(values[:, 0] + units[0]), np.log(values[:, 1] + units[1]), values[:, 2]]
        )

    def kept(rows: np.ndarray) -> np.ndarray:
        return np.log2(np.maximum(rows, 0.25) / np.array(space.dense))

    x, y = kept(np.array(genomes, dtype=float)), scaled(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of length scales of groups that do not matter
        models = [_process(x.shape[1]).fit(x, column) for column in y.T]
    folds = KFold(_FOLDS, shuffle=True, random_state=0)
    foreseen = np.column_stack(
        [
            cross_val_predict(_fixed(model), x, column, cv=folds)
            for model, column in zip(models, y.T, strict=True)
        ]
    )
    gaps = y - foreseen
    others = np.arange(len(genomes)) != dense
    rough = np.linalg.cholesky(np.cov(gaps[others].T) + 1e-12 * np.eye(3))
    fit = tuple(1 - np.square(gaps[others]).mean(axis=0) / y[others].var(axis=0))

    def answer(rows: np.ndarray) -> np.ndarray:
        smooth = np.column_stack([model.predict(kept(rows)) for model in models])
        own = np.array([_deviates(bank.pair, row) for row in rows.tolist()]) @ rough.T
        found = smooth + own
        found[:, :2] = np.maximum(np.exp(found[:, :2]) - units[:2], 1e-4)
        found[(rows == np.array(space.dense)).all(axis=1)] = raw[dense]
        return np.asarray(found)

    return answer, (float(fit[0]), float(fit[1]), float(fit[2]))


def _deviates(pair: str, genome: list[int]) -> np.ndarray:
    """Standard normal, the same for a genome whenever it is asked about: (3,)."""
    digest = hashlib.sha256(f"{pair} {genome}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(3)


def _process(n_groups: int) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    smooth = ConstantKernel(1.0) * RBF(np.full(n_groups, 2.0), (0.3, 30.0))
    kernel = smooth + ConstantKernel(0.1) * DotProduct(1.0) + WhiteKernel(1e-2, (1e-6, 1.0))
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)


def _fixed(model: Any) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor

    return GaussianProcessRegressor(model.kernel_, optimizer=None, normalize_y=True)


def live(pair: str, artifacts: Path) -> Task:
    """The same with real evaluations, as those of the bank, each done once."""
    import torch

    from benchmarks.banks import Bench
    from search.monitor import Monitor

    torch.set_num_threads(1)
    artifacts.mkdir(parents=True, exist_ok=True)
    bench = Bench(pair, artifacts, Monitor())
    path = artifacts / f"{pair}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    known = {tuple(genome): (answers, np.array(cases)) for genome, answers, cases in map(json.loads, lines)}

    def one(genome: Genome) -> tuple[list[float], np.ndarray]:
        if genome not in known:
            record, test = bench.record(Trial(0, genome, bench.rung))
            cases = np.round(record.outcome.per_case["disagreement"].astype(float), 5)
            answers = [record.value("disagreement"), *(test[name] for name in ANSWERS[1:])]
            known[genome] = answers, cases
            with path.open("a") as file:
                file.write(json.dumps([genome, answers, cases.tolist()]) + "\n")
        return known[genome]

    def real(trial: Trial) -> Record:
        (amount, *_), cases = one(trial.genome)
        outcome = Outcome(trial.number, "complete", {"disagreement": amount}, {"disagreement": cases})
        return Record(trial, outcome, bench.problem.space.cost(trial.genome).row(0))

    return replace(
        read(pair),
        answer=lambda rows: np.array([one(tuple(row))[0] for row in rows.tolist()]),
        real=real,
        look=bench.scout,
    )


def sources(pair: str, rule: str, pairs: Sequence[str]) -> list[str]:
    """Which banks a prior for a task may learn from.

    - "LODO": on other data; "LOAO": also of other families; "family": of other families, on any data;
    - "wrong": on other data, and of the other kind, masks for classes and classes for masks.
    """
    kind = DATA[pair] in SEGMENTATION
    keep = {
        "LODO": lambda other: DATA[other] != DATA[pair],
        "family": lambda other: FAMILY[other] != FAMILY[pair],
        "LOAO": lambda other: DATA[other] != DATA[pair] and FAMILY[other] != FAMILY[pair],
        "wrong": lambda other: (DATA[other] in SEGMENTATION) != kind,
    }[rule]
    return [other for other in pairs if keep(other)]


def prior_of(pairs: Sequence[str], cache: Path, *, bare: bool = False) -> LayerPrior:
    """The prior of some banks, fitted once.

    Args:
        pairs: Which banks.
        cache: Folder of fitted priors.
        bare: Whether importance curves, Fisher's information and ranks are hidden from it.
    """
    key = hashlib.sha256(json.dumps([sorted(pairs), bare]).encode()).hexdigest()[:16]
    path = cache / f"prior-{key}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        past = [read_bank(pair).past() for pair in sorted(pairs)]
        past = [replace(one, groups=stripped(one.groups)) for one in past] if bare else past
        save_prior(fit_prior(past), path)
    return load_prior(path)


def stripped(groups: Sequence[Any]) -> list[dict[str, Any]]:
    """Groups without what their importance curves say."""
    hidden = {*GROUP_CURVES, "fisher_log_share", "effective_rank"}
    return [
        {**group, "descriptors": {k: v for k, v in group["descriptors"].items() if k not in hidden}}
        for group in groups
    ]
