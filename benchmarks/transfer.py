"""What the meta-prior is worth: searches by agreement on ten banks, with priors, without, with wrong ones.

    python -m benchmarks.transfer [--pairs breast-resnet ...] [--arms structured "prior LODO" ...]
        [--seeds 0 1 2] [--trials 60] [--minutes 8] [--processes 2] [--kept FOLDER]
    python -m benchmarks.transfer --report

Each bank (benchmarks/banks.py) is a task that answers any genome at once (benchmarks/transfer_tasks.py): a
regression with the roughness that cross-validation finds. Searches are told FLOPs and disagreement with dense
on training images, the default ranking value; what they chose by it is judged on test images, which take part
in no search. All start from dense and the ladder, on a lag of 8; budgets count after these. Scouts
(`search/scouting.py`) are sent before, and count: a search with them begins as many trials later as they
cost.

Beside the arms of PLAIN, which know no other task, and the priors, true and corrupted: ablations of the
prior on other data; `own slopes`, a prior that knows what the task's whole bank knows of its groups' mean
slopes; and `all answers known`, which knows what the bank answers on training images before it
asks: the most that asking can do.

A run goes on where the last one stopped, and ends itself after `--minutes`; what was searched is kept, a line
each, in `--kept`. With `--live` every evaluation is a real one, done once, as those of the bank were, and
scouts look at real networks; arms that send some need that. `--report` makes transfer.csv (a line for each
search) and transfer.json (benchmarks/transfer_report.py says what the figures mean), with `--live`
transfer_live.csv, transfer_live.json and the picture of docs/prior.md; and prints a table for that page.
"""

import argparse
import json
import math
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.bank_files import recorded
from benchmarks.pairs import DATA
from benchmarks.rivals import KnowingController, RgpeController, ScanController
from benchmarks.transfer_tasks import SEGMENTATION, Task, live, prior_of, read, sources, stripped
from search import scouting
from search.controllers.base import Controller, Yardstick
from search.controllers.registry import make_controller
from search.controllers.structured.belief import FLAT, PIECES, Belief, flat
from search.controllers.structured.controller import StructuredController
from search.controllers.structured.terms import Features, Terms
from search.prior.advice import Advice
from search.prior.features import group_features
from search.prior.lessons import lesson_of
from search.prior.model import SCAN, Expectation, LayerPrior
from search.prior.proposals import first_networks, portfolio, proposals
from spaces.messages import Genome, Trial
from spaces.objectives import DISAGREEMENT, FLOPS

KEPT = Path(tempfile.gettempdir()) / "transfer"
LAG = 8
LONG = {"nsga2": 100}  # trials after the first, where a target names them
KNOWING = "all answers known"
PLAIN = (
    *("random", "ladder", "local", "nsga2", "optuna:tpe", "optuna:gp", "optuna:nsgaii", "structured"),
    *("gradient scan, DP", "measured scan, DP", "structured + scan", "structured + portfolio", "RGPE"),
)
PRIORS = ("prior LODO", "prior LOAO", "prior LODO LOAO")
SCOUTED = {
    "structured + scouts": "structured",
    "scouts alone": "structured",
    "optuna:tpe + scouts": "optuna:tpe",
    "nsga2 + scouts": "nsga2",
    "prior LODO + scouts": "structured",
    "prior LOAO + scouts": "structured",
    "prior LODO LOAO + scouts": "structured",
    "prior shuffled + scouts": "structured",
    "prior inverted + scouts": "structured",
    "prior of the wrong task + scouts": "structured",
}
"""Arms that send scouts, and which controller is told what they saw."""
WRONG = ("prior shuffled", "prior inverted", "prior of the wrong task")
PRIMED = ("optuna:tpe + prior", "nsga2 + prior")
ABLATIONS = (
    *("without interactions", "without importance curves", "without safeguards"),
    *("1 source", "2 sources", "4 sources", "own slopes", KNOWING),
)
ARMS = (*PLAIN, *PRIORS, *WRONG, *PRIMED, *ABLATIONS, *SCOUTED)
_RULES = {"prior LOAO": "family", "prior LODO LOAO": "LOAO", "prior of the wrong task": "wrong"}
_Z = 1.645


class Additive(Terms):
    """Damage that is additive over groups: no couplings, no rest."""

    def features(self, genomes: np.ndarray) -> Features:
        """See `Terms.features`."""
        found = super().features(genomes)
        return replace(found, products=0 * found.products, octaves=0 * found.octaves)


def search(task: Task, arm: str, seed: int, n: int, cache: Path) -> dict[str, Any] | None:
    """One search; None where the arm has nothing to say about the task.

    Returns:
        Held-out volumes after each trial from the last of the first ones on, and of `structured` how often
        what was measured lay in the 90 % interval it gave when asking.
    """
    began = time.process_time()
    advised = _advised(task, arm, seed, cache)
    if advised is None:
        return None
    advice, spent = advised
    controller = _controller(task, arm, seed, cache, advice)
    if controller is None:
        return None
    n -= spent
    genomes: list[Genome] = []
    amounts: list[float] = []
    held: list[bool] = []
    for number in range(n + len(task.first)):
        if (due := number - LAG - 1) >= 0:
            controller.tell(task.record(Trial(due, genomes[due])))
        asked = controller.ask(1)
        if not asked:
            break
        genomes += asked
        amounts.append(float(task.answer(np.array(asked))[0, 0]))
        learns = isinstance(controller, StructuredController) and arm != KNOWING
        if learns and number >= len(task.first):
            foreseen = controller.believed(asked)
            if foreseen is not None:
                held.append(_holds(amounts, foreseen))
    curves = task.volumes(genomes)[len(task.first) - 1 :]
    curves = np.pad(curves, ((spent, 0), (0, 0)), mode="edge")
    found = {"agreement": curves[:, 0].round(4).tolist(), "metric": curves[:, 1].round(4).tolist()}
    coverage = {"coverage": round(float(np.mean(held)), 3)} if held else {}
    return {**found, **coverage, "cpu_s": round(time.process_time() - began, 1)}


def _holds(amounts: list[float], foreseen: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether the last amount lies in its 90 % interval; damage as the controller's `Ledger` has it."""
    told = np.array(amounts[: max(len(amounts) - LAG - 1, 3)])
    unit = told[0] + np.median(np.abs(told[1:] - told[0]))
    damage = np.log(max(1 + (amounts[-1] - told[0]) / unit, 1e-3))
    mean, sd = foreseen
    return bool(abs(damage - mean[0]) <= _Z * np.hypot(sd[0], 0.02))


def _advised(task: Task, arm: str, seed: int, cache: Path) -> tuple[Advice, int] | None:
    """What an arm's scouts saw, if it sends any, and how many trials they cost; None: nothing to look at."""
    if arm not in SCOUTED:
        return Advice(), 0
    if task.look is None:
        return None
    look, space, groups = task.look, task.space, task.about["groups"]
    beliefs = scouting.own_beliefs(groups) if arm != "scouts alone" else (flat(len(groups)),)
    if (name := arm.removesuffix(" + scouts")).startswith("prior"):
        meta, *others = _prior(task, name, seed, cache).expect(groups).experts
        beliefs = (corrupted(meta, name, seed), *others)
    first = [*task.first, *first_networks(space, beliefs, task.first)]
    seen = scouting.send(space, first, task.scouts[0], seed, lambda trials: [look(trial) for trial in trials])
    advice = scouting.with_scouts(Advice(beliefs), space, groups, seen)
    proposed = first_networks(space, advice.beliefs, task.first, advice.scouts)
    return replace(advice, proposals=tuple(proposed)), math.ceil(len(seen) * task.scouts[1])


def _controller(task: Task, arm: str, seed: int, cache: Path, advice: Advice) -> Controller | None:
    objectives = (FLOPS, DISAGREEMENT)
    if arm == "measured scan, DP":
        return ScanController(task.space, objectives, seed, task.first)
    if arm == KNOWING:
        return KnowingController(
            task.space, objectives, seed, task.first, lambda rows: task.answer(rows)[:, 0]
        )
    if arm in SCOUTED:
        return make_controller(
            SCOUTED[arm],
            task.space,
            objectives,
            seed,
            task.first,
            proposals=advice.proposals,
            yardstick=Yardstick(),
            beliefs=advice.beliefs,
            scouts=advice.scouts,
        )
    if arm == "RGPE":
        past = _same_genes(task)
        return RgpeController(task.space, objectives, seed, task.first, past) if past else None
    if arm in PLAIN and "+" not in arm and "scan" not in arm:
        return make_controller(arm, task.space, objectives, seed, task.first, yardstick=Yardstick())
    prior = _prior(task, arm, seed, cache)
    groups = stripped(task.about["groups"]) if arm == "without importance curves" else task.about["groups"]
    expected = prior.expect(groups)
    if arm == "gradient scan, DP":
        return ScanController(task.space, objectives, seed, task.first, expected.belief(SCAN))
    name = arm.split(" + ")[0] if arm in PRIMED else "structured"
    beliefs, proposed = _advice(task, arm, seed, prior, expected)
    controller = make_controller(
        name,
        task.space,
        objectives,
        seed,
        task.first,
        proposals=proposed,
        yardstick=Yardstick(),
        beliefs=beliefs,
    )
    if arm == "without interactions" and isinstance(controller, StructuredController):
        controller._experts = [Additive(task.space, terms.belief) for terms in controller._experts]
    return controller


def _advice(
    task: Task, arm: str, seed: int, prior: LayerPrior, expected: Expectation
) -> tuple[tuple[Belief, ...], list[Genome]]:
    """The experts and the proposals of an arm."""
    space, first = task.space, task.first
    if arm == "structured + portfolio":
        return (), portfolio(space, group_features(task.about["groups"]), prior.lessons, known=first)
    if arm == "structured + scan":
        scan = expected.belief(SCAN)
        return (scan, flat(len(space.groups))), proposals(space, scan, known=first)
    if arm == "own slopes":
        found = lesson_of(task.past).slopes
        slopes = np.clip(found / found.mean(), 0.1, 6.0)
        scan = expected.belief(SCAN)
        own = replace(scan, slopes=np.repeat((slopes / slopes.mean())[:, None], PIECES, axis=1))
        return (own, flat(len(space.groups))), proposals(space, own, known=first)
    meta, *others = expected.experts
    meta = corrupted(meta, arm, seed)
    asked = first_networks(space, (meta, *others), first)
    if arm == "without safeguards":
        return (replace(meta, name=FLAT),), asked
    return (meta, *others), asked


def corrupted(belief: Belief, arm: str, seed: int) -> Belief:
    """Another group's slopes for each, or what is steep taken for flat and the other way round."""
    if arm == "prior shuffled":
        order = np.random.default_rng([seed, 3]).permutation(len(belief.slopes))
        return replace(belief, slopes=belief.slopes[order], doubt=belief.doubt[order])
    if arm == "prior inverted":
        return replace(belief, slopes=(1 / belief.slopes) / (1 / belief.slopes).mean())
    return belief


def _prior(task: Task, arm: str, seed: int, cache: Path) -> LayerPrior:
    pairs = sources(task.pair, _RULES.get(arm, "LODO"), recorded())
    if arm.split()[0].isdigit():
        rng = np.random.default_rng([seed, 4])
        pairs = sorted(rng.permutation(pairs)[: int(arm.split()[0])].tolist())
    return prior_of(pairs, cache, bare=arm == "without importance curves")


def _same_genes(task: Task) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of the banks on other data with as many groups and of the same kind: octaves and disagreement."""
    found = []
    for pair in sources(task.pair, "LODO", recorded()):
        other = read(pair)
        kind = (DATA[pair] in SEGMENTATION) == (DATA[task.pair] in SEGMENTATION)
        if kind and len(other.space.groups) == len(task.space.groups):
            genomes = other.past.evidence.genomes
            kept = np.log2(np.maximum(genomes, 0.25) / np.array(other.space.dense))
            found.append((kept, other.answer(genomes)[:, 0]))
    return found


def fill(
    pair: str, arms: list[str], seeds: list[int], n: int, kept: Path, until: float, is_live: bool = False
) -> int:
    """Go on with the searches of one task; how many were done."""
    task = live(pair, kept / "live") if is_live else read(pair)
    path = kept / f"{'live-' * is_live}{pair}.jsonl"
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["arm"], row["seed"]) for row in known}
    count = 0
    for seed in seeds:
        for arm in arms:
            if (arm, seed) in done or time.time() > until:
                continue
            found = search(task, arm, seed, LONG.get(arm, n), kept / "priors")
            row = {"pair": pair, "live": is_live, "arm": arm, "seed": seed, **(found or {"missing": True})}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", choices=recorded(), default=recorded())
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=60, help="after the first ones")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--live", action="store_true", help="real evaluations, instead of the regressions'")
    parser.add_argument("--report", action="store_true", help="write results, table and picture")
    options = parser.parse_args()
    if options.report:
        from benchmarks.transfer_report import report

        print(report(options.kept, options.live))
        return
    options.kept.mkdir(parents=True, exist_ok=True)
    until = time.time() + 60 * options.minutes
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = {
            pair: pool.submit(
                fill, pair, options.arms, options.seeds, options.trials, options.kept, until, options.live
            )
            for pair in options.pairs
        }
        for pair, job in jobs.items():
            print(pair, job.result(), "searches", flush=True)


if __name__ == "__main__":
    main()
