"""Banks of real evaluations: what controllers and priors are tuned on, and what the prior learns from.

    python -m benchmarks.banks [--pairs breast-resnet ...] [--trials 200] [--minutes 8] [--store URL]
    python -m benchmarks.banks --flatness
    python -m benchmarks.banks --gains
    python -m benchmarks.banks --prior search/prior/builtin.safetensors

For every pair of data set and network (benchmarks/pairs.py): dense three times, the ladder, every group alone
at a half, a quarter and an eighth, random networks with widely different shares by group, the front of what
scouts saw (`search/scouting.py`), networks that NSGA-II breeds by FLOPs and disagreement with dense (where
searches end up), and repeats of the front. All are tuned little or not at all, so that something is lost by
pruning, and measured on val and on test in one pass: metric, loss and disagreement, on test too; and each is
looked at as a scout is. A bank is a campaign in the store (without test: that is what a prior may learn
from), and here, committed, `banks/PAIR.csv` with all figures and `banks/PAIR.json` with what the store
holds about the campaign. Stopping and starting again goes on where it stopped; a run ends itself after
`--minutes`.

`--flatness` says what is at stake in each bank: how far the test figures of networks of about equal FLOPs
(half an octave) are spread, beside repeats of one network, and how scouts order networks. `--gains` says what
lessons from banks on other data sets foresee beyond the flat prior; both are kept in banks.json. `--prior`
fits the prior that comes with the program, from the committed banks on freely licensed data.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.bank_files import (
    DENSE_TIMES,
    FOLDER,
    builtin_prior,
    flatness,
    gains,
    header,
    pair_up,
    row_of,
    summary,
)
from benchmarks.pairs import DATA, FAMILY, PAIRS, config_of
from benchmarks.provenance import made
from evaluators.disagreement import Disagreement
from evaluators.evaluation import NetworkEvaluator
from evaluators.identity import seed_of
from evaluators.metrics import find_metric
from evaluators.rungs.table import find_rung
from search import scouting
from search.controllers.registry import make_controller
from search.controllers.sampling import StratifiedSampler
from search.controllers.structured.scouts import Scouts
from search.describe import describe_problem
from search.genes import Genes
from search.monitor import Monitor, TerminalMonitor
from search.prepare import prepare
from search.prior.file import save_prior
from search.prior.proposals import first_networks, scouted
from search.problem import Problem
from search.start import common_below, common_first
from search.store.archive import Store
from search.store.engine import artifact_dir
from search.store.entries import CampaignEntry
from spaces.fronts import non_dominated
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.objectives import DISAGREEMENT, FLOPS, losses
from spaces.space import ChannelSpace

__all__ = ["DATA", "FAMILY", "FOLDER", "config_of"]

RESULTS = Path(__file__).with_suffix(".json")
STORE = f"sqlite:///{Path(tempfile.gettempdir()) / 'banks' / 'banks.db'}"
MOST_TEST = 200
ALONE = (0.5, 0.25, 0.125)
SENT = 128
RANDOM, SCOUTED, REPEATS = 60, 24, 24
WRITTEN_EVERY = 10
SPREAD = 1.5
"""Largest standard deviation of the groups' shares in one network, in natural logarithms."""


class Bench:
    """Evaluates networks of one pair on val and on test at once."""

    def __init__(self, pair: str, artifacts: Path, monitor: Monitor, seed: int = 0) -> None:
        self.problem: Problem = prepare(config_of(pair, seed), artifacts, monitor)
        self.rung = self.problem.config.proxy.rung
        splits, task = self.problem.splits, self.problem.task
        test = splits.open_test().limit(MOST_TEST)
        self._metric = find_metric(task.metric.name, self.problem.config.task.kind)
        self._val, self._test = replace(splits.val, groups=None), replace(test, groups=None)
        both = replace(splits, val=self._val.joined(self._test))
        evaluator = replace(self.problem.workload, splits=both).build()
        assert isinstance(evaluator, NetworkEvaluator)
        self.evaluator = evaluator
        looks = (splits.train.limit(512), self._test)
        self._told = [
            Disagreement(evaluator.bench.dense, evaluator.task, splits.normalisation.apply(images))
            for images in looks
        ]

    def on_test(self, network: torch.nn.Module, seed: int) -> float:
        """The metric of any network on test."""
        _, per_case = self.evaluator.measured(network, self.rung, seed)
        return float(self._metric.value(per_case["score"][len(self._val) :], self._test.targets))

    def record(self, trial: Trial) -> tuple[Record, dict[str, float]]:
        """What a campaign's record of the trial would be, and metric, loss and disagreement on test."""
        evaluator, rung = self.evaluator, find_rung(trial.rung)
        network = evaluator.sliced(rung.start(evaluator.bench), trial.genome)
        seed = seed_of(evaluator.fingerprint, trial.replicate)
        rung.adapt(network, evaluator.bench, seed)
        _, per_case = evaluator.measured(network, trial.rung, seed)
        train, unseen = (told.of(network) for told in self._told)
        n, score, loss = len(self._val), per_case["score"], per_case["loss"]
        shares = self._metric.shares(score[:n], self._val.targets).astype(np.float32)
        cases = {"metric": shares, "loss": loss[:n], "disagreement": train}
        name = self.problem.task.metric.name
        values = {name if key == "metric" else key: float(of.mean()) for key, of in cases.items()}
        test = {
            "test": float(self._metric.value(score[n:], self._test.targets)),
            "test_loss": float(loss[n:].mean()),
            "test_disagreement": float(unseen.mean()),
            "scout": self.scout(trial).value("disagreement"),
        }
        outcome = Outcome(trial.number, "complete", values, cases)
        return Record(trial, outcome, self.problem.space.cost(trial.genome).row(0)), test

    def scout(self, trial: Trial) -> Record:
        """What a scout sees of the trial's genome."""
        trial = Trial(trial.number, trial.genome, scouting.RUNG)
        return Record(trial, self.evaluator.evaluate(trial), self.problem.space.cost(trial.genome).row(0))


class Design:
    """The trials of a bank, in their order; the later ones depend on what the earlier found."""

    def __init__(self, space: ChannelSpace, rung: str, n: int, scouts: Scouts) -> None:
        self._n, self._rung, self._records = n, rung, list[Record]()
        genes, sampler, rng = Genes(space), StratifiedSampler(space, SPREAD), np.random.default_rng(0)
        kept = np.repeat(np.array([space.dense], dtype=float), len(genes.free) * len(ALONE), axis=0)
        for i, gene in enumerate(genes.free):
            for j, share in enumerate(ALONE):
                kept[i * len(ALONE) + j, gene] *= share
        alone = [tuple(genome) for genome in genes.nearest(kept).tolist()]
        fixed = dict.fromkeys([*common_first(space)[1:], *common_below(space), *alone])
        while len(fixed) < min(len(alone) + RANDOM, n):
            fixed.setdefault(sampler.draw(rng))
        fixed |= dict.fromkeys(scouted(space, scouts, SCOUTED, list(fixed)))
        fixed.pop(space.dense, None)
        self._fixed = [*[(space.dense, k) for k in range(DENSE_TIMES)], *[(genome, 0) for genome in fixed]]
        self._breeder = make_controller("nsga2", space, (FLOPS, DISAGREEMENT), 0, ())

    def ask(self, number: int) -> Trial:
        """The trial of that number, when all before it were told."""
        if number < len(self._fixed):
            genome, replicate = self._fixed[number]
        elif number < self._n - REPEATS:
            genome, replicate = self._breeder.ask(1)[0], 0
        else:
            front, k = self._front(), number - max(self._n - REPEATS, len(self._fixed))
            genome, replicate = front[k % len(front)], 1 + k // len(front)
        return Trial(number, genome, self._rung, replicate)

    def tell(self, record: Record) -> None:
        """What became of it."""
        self._records.append(record)
        self._breeder.tell(record)

    def _front(self) -> list[Genome]:
        """The networks that nothing cheaper beat at first sight, dense apart."""
        once = [r for r in self._records if r.trial.replicate == 0][1:]
        best = non_dominated(losses(once, (FLOPS, DISAGREEMENT)))
        return [once[i].trial.genome for i in np.flatnonzero(best)]


def fill(pair: str, url: str, n: int, until: float) -> bool:
    """Go on with a bank; whether it is full."""
    bench = Bench(pair, artifact_dir(url), TerminalMonitor(lines_every_s=60))
    problem, space = bench.problem, bench.problem.space
    table, described = FOLDER / f"{pair}.csv", FOLDER / f"{pair}.json"
    with Store(url) as store:
        known = [row for row in store.campaigns() if row.name == problem.config.name]
        if known:
            campaign_id, rows = known[0].id, list(csv.reader(table.read_text().splitlines()))
        else:
            about = describe_problem(problem, [*common_first(space)[1:], *common_below(space)], "banks")
            entry = CampaignEntry(
                name=problem.config.name,
                config=problem.config.model_dump(mode="json"),
                fingerprint=problem.spec.fingerprint,
                fingerprints=problem.spec.fingerprints,
                description=about,
            )
            campaign_id, rows = store.create(entry), [header()]
            FOLDER.mkdir(exist_ok=True)
            described.write_text(json.dumps(compact(about, problem)) + "\n")
        stored = {record.trial.number: record for record in store.records(campaign_id)}
        rows = [row for row in rows if row[0] == "number" or int(row[0]) in stored]
        sent = scouting_records(bench, store, campaign_id)
        scouts = scouting.scouts_of(space, sent)
        assert scouts is not None
        done, design = {int(row[0]) for row in rows[1:]}, Design(space, bench.rung, n, scouts)
        for number in range(n):
            trial = design.ask(number)
            if number not in done:
                if time.monotonic() > until:
                    break
                stored[number], test = bench.record(trial)
                store.append(campaign_id, stored[number])
                rows.append(row_of(stored[number], test, space, problem.task.metric.name))
                if number % WRITTEN_EVERY == 0:
                    write(table, rows)
            design.tell(stored[number])
        full = len(rows) > n
        store.set_status(campaign_id, "complete" if full else "interrupted")
    correlations = pair_up(rows, list(stored.values()))
    described.write_text(json.dumps(json.loads(described.read_text()) | correlations) + "\n")
    write(table, rows)
    return full


def scouting_records(bench: Bench, store: Store, campaign_id: str) -> list[Record]:
    """What scouts see, from the store as far as it is there."""
    space, groups = bench.problem.space, store.campaign(campaign_id).description["groups"]
    known = {record.trial.number: record for record in store.records(campaign_id, stage=scouting.STAGE)}

    def evaluate(trials: Sequence[Trial]) -> list[Record]:
        for trial in trials:
            if trial.number not in known:
                known[trial.number] = bench.scout(trial)
                store.append(campaign_id, known[trial.number], stage=scouting.STAGE)
        return [known[trial.number] for trial in trials]

    first = common_first(space)
    first += first_networks(space, scouting.own_beliefs(groups), first)
    return scouting.send(space, first, SENT, 0, evaluate)


def write(table: Path, rows: list[list[str]]) -> None:
    with table.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def compact(about: dict[str, Any], problem: Problem) -> dict[str, Any]:
    """What a prior needs of a description, in few digits."""
    kept = {key: about[key] for key in ("groups", "task", "dense", "ladder", "metric", "chance")}
    kept |= {"source": about["data"]["source"], "fingerprints": dict(problem.spec.fingerprints)}
    kept |= {"rung": problem.config.proxy.rung}
    return json.loads(json.dumps(kept), parse_float=lambda text: float(f"{float(text):.4g}"))


def keep(name: str, rows: list[dict[str, Any]]) -> None:
    """Write results into banks.json, beside what else is there."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 4))
    known |= {name: rows, **made()}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--store", default=STORE)
    parser.add_argument("--flatness", action="store_true", help="what is at stake in the committed banks")
    parser.add_argument("--gains", action="store_true", help="what lessons from other data sets foresee")
    parser.add_argument("--prior", type=Path, help="fit the prior that comes with the program")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.prior:
        prior = save_prior(builtin_prior(), options.prior)
        print(f"{options.prior}: {len(prior.lessons)} banks, sha256 {prior.sha256}")
    elif options.flatness or options.gains:
        frame = flatness(list(PAIRS))
        rows = gains() if options.gains else frame.to_dict("records")
        frame = summary(rows) if options.gains else frame
        print(frame.to_string(index=False, float_format="{:.3f}".format))
        keep("gains" if options.gains else "flatness", rows)
    else:
        until = time.monotonic() + 60 * options.minutes
        Path(options.store.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        for pair in options.pairs:
            if time.monotonic() < until:
                began = time.monotonic()
                full = fill(pair, options.store, options.trials, until)
                print(pair, "full" if full else "goes on", f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
