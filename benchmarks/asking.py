"""Other ways of asking than `structured` has, on the banks: does any find more in as many trials?

    python -m benchmarks.asking [--ways "as it is" ...] [--seeds 0 1 2 3] [--minutes 8] [--kept FOLDER]
    python -m benchmarks.asking --report

Tasks, first trials and lag are those of benchmarks/transfer.py. Each way is the controller with one thing
changed (`WAYS`). Of each search: gain over the ladder by disagreement on test images after 10, 20, 40 and 60
trials, as a share of the best gain that any search here had in that task. asking.json holds the means over
tasks, and differences to asking as it is with their standard error over tasks: for the tasks on which ways
were thought out (DEVELOPED), the others, and all.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.linalg import solve_triangular

from benchmarks import transfer
from benchmarks.bank_files import recorded
from benchmarks.provenance import made
from benchmarks.transfer_report import padded
from benchmarks.transfer_tasks import Task, prior_of, read, sources
from search.controllers.base import Yardstick
from search.controllers.structured import controller as asking
from search.controllers.structured import model as modelling
from search.controllers.structured.belief import Belief
from search.controllers.structured.controller import StructuredController
from search.controllers.structured.improvement import expected_improvement
from search.controllers.structured.mixture import Mixture
from search.prior.model import SCAN
from search.prior.proposals import proposals
from spaces.fronts import OCTAVES, non_dominated
from spaces.messages import Genome
from spaces.objectives import DISAGREEMENT, FLOPS

RESULTS = Path(__file__).with_suffix(".json")
KEPT = Path(tempfile.gettempdir()) / "asking"
DEVELOPED = ("breast-resnet", "adrenal-densenet", "nuclei-unet", "pneumonia-resnet", "vessels-unet")
STOPS = (10, 20, 40, 60)
TRIALS = 60
_GOLDEN = 0.6180339887


class Evenly(StructuredController):
    """Looks at another place of the FLOPs axis with every ask, half an octave wide."""

    def _gains(
        self, genomes: np.ndarray, mixture: Mixture, octaves: np.ndarray, worth: np.ndarray, floor: float
    ) -> np.ndarray:
        place = max(float(octaves.min()), -OCTAVES) * (self._n_asks * _GOLDEN % 1.0)
        near = np.exp(-0.5 * np.square((self._octaves(genomes) - place) / 0.5))
        return super()._gains(genomes, mixture, octaves, worth, floor) * near


class AsMeasured(StructuredController):
    """Improves on the front as it was measured, not as it is believed."""

    def _believed_front(
        self, mean: Callable[[np.ndarray], np.ndarray], known: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        genomes = np.concatenate([np.array([self.space.dense]), known])
        octaves, worth = self._octaves(genomes), self._scale.worth(mean(genomes))
        evidence = self._ledger.evidence(self.space.dense)
        if evidence is not None:
            worth[1 : 1 + len(evidence.readings)] = self._scale.worth(evidence.readings)
        front = non_dominated(np.column_stack([octaves, -worth]))
        return genomes[front], octaves[front], worth[front]


class EvenlyAsMeasured(Evenly, AsMeasured):
    """Both."""


class Doubting(StructuredController):
    """Doubts half as much again."""

    def _gains(
        self, genomes: np.ndarray, mixture: Mixture, octaves: np.ndarray, worth: np.ndarray, floor: float
    ) -> np.ndarray:
        at, gains = self._octaves(genomes), np.zeros(len(genomes))
        for weight, mean, sd in mixture.each(genomes):
            gains += weight * expected_improvement(at, mean, 1.5 * sd, octaves, worth, floor, self._scale)
        return gains


class Drawing(StructuredController):
    """Thompson sampling: improves on the front by one draw of the posterior."""

    def _gains(
        self, genomes: np.ndarray, mixture: Mixture, octaves: np.ndarray, worth: np.ndarray, floor: float
    ) -> np.ndarray:
        (terms,), (model,) = self._experts, mixture.models
        features, scales = terms.features(genomes), model.setting.scales
        cross = terms.covariance(features, model._features, scales)
        seen = solve_triangular(model._root, cross.T, lower=True)
        covariance = terms.covariance(features, features, scales) - seen.T @ seen
        root = np.linalg.cholesky(covariance + 1e-5 * np.eye(len(covariance)))
        rng = np.random.default_rng([self._seed, self._n_asks, 1])
        drawn = model.predict(features)[0] + root @ rng.standard_normal(len(root))
        sure = np.full(len(drawn), 1e-6)
        return expected_improvement(self._octaves(genomes), drawn, sure, octaves, worth, floor, self._scale)


class Designed(StructuredController):
    """Sixteen evenly spread networks first."""

    def _propose(self, rng: np.random.Generator) -> Genome | None:
        if self._n_asks < self._begun + 16:
            return self._fresh(self._sampler.draw(rng), rng)
        return super()._propose(rng)

    def _set_up(self) -> None:
        self._begun = len(self._queue)


@contextmanager
def _changed(module: Any, **values: float) -> Iterator[None]:
    """Constants of a module while a search is on."""
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


WAYS: dict[str, type[StructuredController]] = {
    "as it is": StructuredController,
    "evenly along FLOPs": Evenly,
    "front as measured": AsMeasured,
    "evenly, front as measured": EvenlyAsMeasured,
    "half as much doubt again": Doubting,
    "posterior draws": Drawing,
    "sixteen spread designs first": Designed,
    "four times the inner search": StructuredController,
    "scales held closer": StructuredController,
    "scan": StructuredController,
    "scan, half of the first eight": StructuredController,
    "no lag": StructuredController,
}
_CHANGES: dict[str, tuple[Any, dict[str, float]]] = {
    "four times the inner search": (asking, {"_OFFSPRING": 640, "_PATHS": 96}),
    "scales held closer": (modelling, {"_LOOSENESS": 0.5}),
    "no lag": (transfer, {"LAG": 0}),
}


def search(task: Task, way: str, seed: int, cache: Path) -> list[float]:
    """Held-out volumes after the first trials and each later one."""
    module, values = _CHANGES.get(way, (asking, {}))

    def make(*_: Any) -> StructuredController:
        beliefs: tuple[Belief, ...] = ()
        asked: list[Genome] = []
        if way.startswith("scan"):
            scan = prior_of(sources(task.pair, "LODO", recorded()), cache).expect(task.about["groups"])
            beliefs = (scan.belief(SCAN),)
            asked = proposals(task.space, beliefs[0], 4 if "half" in way else 8, task.first)
        first, objectives = [*task.first, *asked], (FLOPS, DISAGREEMENT)
        return WAYS[way](task.space, objectives, seed, first, yardstick=Yardstick(), beliefs=beliefs)

    with _changed(module, **values), _changed(transfer, _controller=make):
        found = transfer.search(task, way, seed, TRIALS, cache)
    assert found is not None
    curve: list[float] = found["agreement"]
    return curve


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, then tasks, and differences to asking as it is."""
    shares: dict[str, dict[str, np.ndarray]] = {}
    for pair in dict.fromkeys(row["pair"] for row in rows):
        mine = [row for row in rows if row["pair"] == pair]
        start, best = mine[0]["curve"][0], max(max(row["curve"]) for row in mine)
        for way in dict.fromkeys(row["way"] for row in mine):
            curves = [padded(row["curve"])[: TRIALS + 1] for row in mine if row["way"] == way]
            shares.setdefault(way, {})[pair] = (np.mean(curves, axis=0) - start) / (best - start)
    halves: dict[str, Callable[[str], bool]] = {
        "developed": lambda pair: pair in DEVELOPED,
        "others": lambda pair: pair not in DEVELOPED,
        "all": lambda pair: True,
    }
    found: dict[str, Any] = {}
    for way, by_pair in shares.items():
        row: dict[str, Any] = {f"at_{k}": _rounded(np.mean([s[k] for s in by_pair.values()])) for k in STOPS}
        for half, holds in halves.items():
            for name, of in (("at_60", lambda s: s[TRIALS]), ("over_60", lambda s: s[1:].mean())):
                gaps = [of(s) - of(shares["as it is"][p]) for p, s in by_pair.items() if holds(p)]
                error = np.std(gaps, ddof=1) / len(gaps) ** 0.5
                row[f"{half}, {name}"] = [_rounded(np.mean(gaps)), _rounded(error), _rounded(min(gaps))]
        found[way] = row
    return found


def _rounded(value: Any) -> float:
    return round(float(value), 3)


def report(kept: Path) -> str:
    """Write asking.json; returns the table of docs/controllers.md."""
    lines = [line for path in sorted(kept.glob("*.jsonl")) for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    means = summary(rows)
    seeds = len({row["seed"] for row in rows})
    about = {**made(), "seeds": seeds}
    RESULTS.write_text(json.dumps({**about, "ways": means}, indent=1) + "\n")
    table = ["| asking | after 20 | after 60 | apart, thought out on | apart, others | worst |"]
    table.append("|---|---|---|---|---|---|")
    for way, row in means.items():
        cells = [f"{row['at_20']:.2f}", f"{row['at_60']:.2f}"]
        for half in ("developed", "others"):
            mean, error, _ = row[f"{half}, at_60"]
            cells.append(f"{mean:+.3f} ± {error:.3f}" if way != "as it is" else "")
        cells.append(f"{row['all, at_60'][2]:+.2f}" if way != "as it is" else "")
        table.append("| " + " | ".join([way, *cells]) + " |")
    return "\n".join(table).replace("-0.", "−0.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--report", action="store_true", help="write results and table")
    options = parser.parse_args()
    if options.report:
        print(report(options.kept))
        return
    options.kept.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    for pair in recorded():
        path = options.kept / f"{pair}.jsonl"
        known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        done = {(row["way"], row["seed"]) for row in known}
        for way, seed in [(way, seed) for seed in options.seeds for way in options.ways]:
            if (way, seed) in done or time.monotonic() > until:
                continue
            curve = search(read(pair), way, seed, options.kept / "priors")
            with path.open("a") as file:
                file.write(json.dumps({"pair": pair, "way": way, "seed": seed, "curve": curve}) + "\n")
        print(pair, flush=True)


if __name__ == "__main__":
    main()
