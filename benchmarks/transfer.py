"""What the meta-prior is worth, offline on the committed banks: trials saved, and the price of a wrong one.

    python -m benchmarks.transfer [--pairs breast-resnet ...] [--seeds 0 1 2] [--trials 60]

Each bank (see benchmarks/banks.py) becomes a task that answers any genome at once: the truth is a smooth
regression of the *test* metric on the genome (a Gaussian process, no part of the damage model); what a
search is told is that truth plus the noise of the bank's validation set, drawn anew for every seed, in part
common to all networks, as dense's luck is. So arms are compared on the same answers, with many seeds, at no
cost; what it cannot show is how real validation noise chases a search (benchmarks/controllers.py does).

Arms, all from the same first trials (dense, then the ladder) and a lag of 8: random, nsga2, local,
structured; structured with the gradients' scan only, with the portfolio of other banks' fronts as proposals
only, with the prior of the banks on *other* data sets (LODO), of other data sets and other families of
networks (LOAO), and with the LODO prior shuffled and inverted. `to_80` and `to_90` count trials after the
first ones until that share of the best hypervolume that any arm found in that task and seed, above the
ladder's, is reached; a search that never does counts as the whole budget plus one. `at_10` is the share after
ten trials. `forecast`: how well the ladder alone foretells the rest of a bank. Results: transfer.json.
"""

import argparse
import csv
import json
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.banks import DATA, FAMILY, FOLDER
from search.controllers.base import Yardstick
from search.controllers.registry import make_controller
from search.controllers.structured.belief import Belief, flat
from search.controllers.structured.evidence import Evidence
from search.describe import versions
from search.prior.advice import first_networks
from search.prior.corpus import Origin, PastCampaign, space_of
from search.prior.evaluation import assess, fit_prior
from search.prior.features import group_features
from search.prior.model import SCAN, LayerPrior
from search.prior.proposals import portfolio, proposals
from spaces.fronts import MARGIN, front_hypervolume
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.objectives import FLOPS, Objective
from spaces.space import ChannelSpace

RESULTS = Path(__file__).with_suffix(".json")
LAG = 8
SHAPES = {
    "breast": (1, 28, 28),
    "pneumonia": (1, 28, 28),
    "colon": (3, 32, 32),
    "nuclei": (3, 64, 64),
    "vessels": (3, 64, 64),
    "adrenal": (1, 14, 14, 14),
    "hippocampus": (1, 24, 32, 24),
}
ARMS = (
    *("random", "nsga2", "local", "structured", "scan", "portfolio"),
    *("prior LODO", "prior LOAO", "prior shuffled", "prior inverted"),
)
AUC = Objective("metric", maximize=True)


@dataclass(frozen=True, eq=False)
class Task:
    """A bank as a problem: every genome has an answer.

    Attributes:
        pair: Which bank.
        about: As the store described its campaign.
        space: Traced anew.
        past: The bank as a past campaign.
        truth: Test retention of any genome, by a Gaussian process over the bank.
        dense: Test metric of dense.
        noise: Of a measured retention: what is common to all networks, and what each has of its own.
    """

    pair: str
    about: dict[str, Any]
    space: ChannelSpace
    past: PastCampaign
    truth: Any
    dense: float
    noise: tuple[float, float]

    def metric(self, genomes: list[Genome]) -> np.ndarray:
        """Test metric by the regression; dense as measured."""
        kept = np.log2(np.array(genomes) / np.array(self.space.dense))
        margin = self.dense - self.about["chance"]
        retention = np.where((kept == 0).all(axis=1), 1.0, self.truth.predict(kept))
        return self.about["chance"] + margin * np.clip(retention, 0.0, 1.05)


def read(pair: str) -> Task:
    """A committed bank as a task."""
    about = json.loads((FOLDER / f"{pair}.json").read_text())
    rows = list(csv.DictReader((FOLDER / f"{pair}.csv").open()))
    space = _space(pair)
    named = [group["name"] for group in about["groups"]]
    if [group.name for group in space.groups] != named:
        raise SystemExit(f"{pair}: the network's groups are no longer those of the bank; record it anew")
    genomes = [tuple(map(int, row["genome"].split())) for row in rows]
    val, test, se = (np.array([float(row[name]) for row in rows]) for name in ("val", "test", "se"))
    is_dense = np.array([genome == space.dense for genome in genomes])
    chance = about["chance"]
    dense_val, dense_test = val[is_dense].mean(), float(test[is_dense].mean())
    others = np.flatnonzero(~is_dense)
    errors = se[others] / (dense_val - chance)
    correlation = about["noise_correlation"]
    sampling = correlation * np.outer(errors, errors)
    sampling[np.diag_indices(len(errors))] = errors**2
    spread = float(np.std(val[is_dense], ddof=1)) / (dense_val - chance)
    evidence = Evidence(
        np.array(genomes)[others],
        (val[others] - chance) / (dense_val - chance),
        sampling,
        np.ones(len(others)),
        spread,
        max(0.0, 1 - MARGIN / (dense_val - chance)),
    )
    ladder = {tuple(genome) for genome in about["ladder"]}
    past = PastCampaign(
        Origin(pair, pair, about["source"], DATA[pair], FAMILY[pair], len(others)),
        about["groups"],
        about["task"],
        space_of(about["groups"]),
        evidence,
        np.array([float(rows[i]["octaves"]) for i in others]),
        np.array([genomes[i] in ladder for i in others]),
        "shared",
    )
    truth = _regression(
        np.log2(np.array(genomes)[others] / np.array(space.dense)),
        (test[others] - chance) / (dense_test - chance),
    )
    typical = float(np.median(errors))
    noise = (typical * correlation**0.5, float(np.hypot(typical * (1 - correlation) ** 0.5, spread)))
    return Task(pair, about, space, past, truth, dense_test, noise)


def _space(pair: str) -> ChannelSpace:
    import torch

    from benchmarks.banks import config_of
    from evaluators.networks import build_network
    from spaces.tracing import trace

    network, _ = build_network(config_of(pair).network, seed=0)
    return trace(network, torch.zeros(1, *SHAPES[DATA[pair]]))


def _regression(kept: np.ndarray, retention: np.ndarray) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    smooth = ConstantKernel(0.01) * RBF(np.full(kept.shape[1], 2.0), (0.3, 30.0))
    kernel = smooth + ConstantKernel(0.01) * DotProduct(1.0) + WhiteKernel(1e-4, (1e-6, 1e-1))
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(kept, retention)


def search(task: Task, arm: str, prior: LayerPrior | None, seed: int, n: int) -> np.ndarray:
    """True hypervolume after each of n trials, the first ones included."""
    space, chance = task.space, task.about["chance"]
    first = [space.dense, *(tuple(genome) for genome in task.about["ladder"])]
    beliefs, proposed = _advice(task, arm, prior, first, seed)
    name = arm if arm in ("random", "nsga2", "local") else "structured"
    controller = make_controller(
        name,
        space,
        (FLOPS, AUC),
        seed,
        first,
        proposals=proposed,
        yardstick=Yardstick(chance),
        beliefs=beliefs,
    )
    rng = np.random.default_rng([seed, 5])
    common, margin = task.noise[0] * rng.standard_normal(), task.dense - chance
    genomes: list[Genome] = []
    truth: list[float] = []
    for number in range(n):
        if (due := number - LAG - 1) >= 0:
            genome = genomes[due]
            own = np.random.default_rng([seed, *genome]).standard_normal()
            error = margin * (common + task.noise[1] * own) * (genome != space.dense)
            outcome = Outcome(due, "complete", {"metric": truth[due] + error})
            controller.tell(Record(Trial(due, genome), outcome, space.cost(genome).row(0)))
        asked = controller.ask(1)
        if not asked:
            break
        genomes += asked
        truth.append(float(task.metric(asked)[0]))
    flops = space.cost(genomes).flops / space.cost(space.dense).flops[0]
    values = np.array(truth)
    return np.array(
        [front_hypervolume(flops[:k], values[:k], task.dense, chance) for k in range(1, len(genomes) + 1)]
    )


def _advice(
    task: Task, arm: str, prior: LayerPrior | None, first: list[Genome], seed: int
) -> tuple[tuple[Belief, ...], list[Genome]]:
    """The experts and the proposals of an arm."""
    if prior is None:
        return (), []
    expected = prior.expect(task.about["groups"], task.about["task"])
    if arm == "portfolio":
        return (), portfolio(task.space, group_features(task.about["groups"]), prior.lessons, known=first)
    if arm == "scan":
        scan = expected.belief(SCAN)
        return (scan, flat(len(task.space.groups))), proposals(task.space, scan, known=first)
    meta, *others = expected.experts
    if arm == "prior shuffled":
        meta = replace(meta, slopes=np.random.default_rng(seed).permutation(meta.slopes))
    if arm == "prior inverted":
        meta = replace(meta, slopes=(1 / meta.slopes) / (1 / meta.slopes).mean())
    return (meta, *others), first_networks(task.space, (meta, *others), first)


def compare(task: Task, tasks: list[Task], seeds: list[int], n: int) -> dict[str, Any]:
    """All arms on one task."""
    apart = [other.past for other in tasks if DATA[other.pair] != DATA[task.pair]]
    foreign = [other for other in apart if FAMILY[other.origin.name] != FAMILY[task.pair]]
    priors = {"LODO": fit_prior(apart), "LOAO": fit_prior(foreign) if foreign else None}
    rows: dict[str, Any] = {arm: {"to_80": [], "to_90": [], "at_10": [], "final": []} for arm in ARMS}
    for seed in seeds:
        curves = {}
        for arm in ARMS:
            plain = arm in ("random", "nsga2", "local", "structured")
            prior = None if plain else priors["LOAO" if "LOAO" in arm else "LODO"]
            if plain or prior is not None:
                curves[arm] = search(task, arm, prior, seed, n)
        begun = 1 + len(task.about["ladder"])
        start, best = curves["random"][begun - 1], max(curve.max() for curve in curves.values())
        for arm, curve in curves.items():
            share = (curve - start) / max(best - start, 1e-9)
            for level, key in ((0.8, "to_80"), (0.9, "to_90")):
                reached = np.flatnonzero(share >= level)
                rows[arm][key].append(int(reached[0]) + 1 - begun if len(reached) else n + 1 - begun)
            rows[arm]["at_10"].append(round(float(share[min(begun + 9, len(share) - 1)]), 3))
            rows[arm]["final"].append(round(float(curve[-1]), 4))
    return {
        "pair": task.pair,
        "model": {
            name: None if p is None else f"{p.choice.kind} {p.choice.strength:g}, doubt {p.choice.doubt:g}"
            for name, p in priors.items()
        },
        "forecast": assess(priors["LODO"], [task.past])[0],
        "arms": {arm: row for arm, row in rows.items() if row["final"]},
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds, then over the banks of a data set, then over data sets."""
    found = {}
    for arm in ARMS:
        row = {}
        for key in ("to_80", "to_90", "at_10", "final"):
            by_data: dict[str, list[float]] = {}
            for run in runs:
                if arm in run["arms"]:
                    by_data.setdefault(DATA[run["pair"]], []).append(float(np.mean(run["arms"][arm][key])))
            if by_data:
                row[key] = round(float(np.mean([np.mean(values) for values in by_data.values()])), 3)
        found[arm] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    full = [pair for pair in DATA if (FOLDER / f"{pair}.csv").exists()]
    full = [pair for pair in full if len((FOLDER / f"{pair}.csv").read_text().splitlines()) > 100]
    parser.add_argument("--pairs", nargs="+", choices=full, default=full)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    tasks = [read(pair) for pair in full]
    runs: list[dict[str, Any]] = []
    for task in tasks:
        if task.pair in options.pairs:
            runs.append(compare(task, tasks, options.seeds, options.trials))
            about = {"date": datetime.now(UTC).date().isoformat(), "versions": versions(), "banks": full}
            about |= {"trials": options.trials, "seeds": options.seeds, "data_sets": summary(runs)}
            options.out.write_text(json.dumps({**about, "runs": runs}, indent=1) + "\n")
            print(json.dumps(runs[-1]["forecast"]), flush=True)
            for arm, row in runs[-1]["arms"].items():
                print(
                    f"  {task.pair:20}{arm:16}",
                    {k: np.round(np.mean(v), 3) for k, v in row.items()},
                    flush=True,
                )


if __name__ == "__main__":
    main()
