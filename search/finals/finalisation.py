"""A finalisation: dense and chosen networks of one campaign, tuned alike, each kept as it ends."""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.finalising import (
    Run,
    Tuned,
    final_settings,
    finalise_here,
    history_of,
    load_tuned,
    recipe_key,
    result_of,
    searched_settings,
)
from evaluators.identity import fingerprint_of_arrays
from search.config import CampaignConfig
from search.finals.artefacts import WEIGHTS, keep_network, write_results
from search.finals.aside import FOLDER as ASIDE
from search.finals.aside import turn_to
from search.finals.finalised import finalised, keep_finalised
from search.finals.points import Point
from search.monitor import Advance, Monitor
from search.problem import Problem
from search.store.archive import Store
from search.store.entries import CampaignRow
from spaces.errors import ParetoPruneError, RunError
from spaces.finals import FINAL, FinalNetwork
from spaces.messages import Outcome, Record, Trial
from spaces.objectives import LOSS
from spaces.surgery import prune

DENSE = "dense"
SEARCHED = ("learning_rate", "weight_decay", "distill")


@dataclass
class Finalisation:
    """The tuning of one campaign's networks with one set of settings; what `Watcher` promises, too.

    Attributes:
        store: Where results go.
        row: The campaign.
        config: Its settings.
        problem: Data, dense network, space.
        folder: Of the campaign's networks.
        monitor: Shows how it goes.
    """

    store: Store
    row: CampaignRow
    config: CampaignConfig
    problem: Problem
    folder: Path
    monitor: Monitor

    def __post_init__(self) -> None:
        self.key = recipe_key(self.problem.workload, self.config.finalise)
        self._runs: list[Run] = []
        self._ended: dict[str, str | None] = {}
        self._done: dict[str, float] = {}
        self._points: dict[str, Point] = {}
        self._advance: Advance = lambda done, total, note="": None
        self._failures: list[str] = []
        self._kept = 0
        self._best: float | None = None  # of the pruned networks, on val

    @property
    def kept(self) -> list[FinalNetwork]:
        """Networks that were finalised with these settings."""
        return [network for network in finalised(self.store, self.row.id) if network.group == self.key]

    def tune(self, points: Sequence[Point]) -> None:
        """Dense and these networks, but for those that are there already.

        Raises:
            RunError: One or more could not be tuned.
        """
        if replaced := turn_to(self.store, self.row.id, self.folder, self.key):
            names = ", ".join(network.folder for network in replaced)
            self.monitor.say(
                f"other settings than those of {names}: these are put aside, with what the test split "
                f"said of them, in {str(self.folder / ASIDE)!r}; finalise with theirs brings them back"
            )
        dense = Point(self._dense_number(), self.problem.space.dense, 1.0)
        asked = {DENSE: dense} | {f"point-{point.number}": point for point in points}
        there = {n.folder for n in self.kept if (self.folder / n.folder / WEIGHTS).is_file()}
        self._points = {name: point for name, point in asked.items() if name not in there}
        if there & asked.keys():
            self.monitor.say(
                f"finalised before with these settings: {', '.join(sorted(there & asked.keys()))}"
            )
        if not self._points:
            return
        settings = final_settings(self.problem.workload.proxy, self.config.finalise)
        search = self.config.finalise.search and self.problem.task.trains
        tried = searched_settings(settings, self.config.finalise.runs) if search else [settings]
        self._runs = [
            Run(f"{name}-{i}" if search else name, name, point.genome, given)
            for name, point in self._points.items()
            for i, given in enumerate(tried)
        ]
        each = f"{settings.epochs:g} epoch{'s' * (settings.epochs != 1)}"
        self.monitor.say(
            f"finalising {', '.join(self._points)}: {each} each"
            + (f", {len(tried)} runs each at most" if search else "")
        )
        with self.monitor.stage("finalising") as self._advance:
            batches = [[r for r in self._runs if r.network == name] for name in self._points]
            for runs in batches if search else [self._runs]:
                self._execute(runs, rivals=search)
        with contextlib.suppress(OSError):
            self._run_folder.rmdir()
            self._run_folder.parent.rmdir()
        if self._failures:
            raise RunError(f"{'; '.join(self._failures)}. What could be finalised is kept")

    def progressed(self, run: Run, done: int, steps: int, note: str = "") -> None:
        """See `Watcher.progressed`."""
        self._done[run.name] = done / steps * self._work(run)
        self._show(f"{run.name} step {done} of {steps}", note)

    def ended(self, run: Run, error: str | None) -> None:
        """See `Watcher.ended`: with its last run, a network is kept."""
        self._ended[run.name] = error
        self._done[run.name] = self._work(run)
        rivals = [other for other in self._runs if other.network == run.network]
        if all(other.name in self._ended for other in rivals):
            self._finish(run.network, rivals)
        self._show()

    def _show(self, *words: str) -> None:
        """In hundredths of the work, counted by FLOPs."""
        share = sum(self._done.values()) / sum(map(self._work, self._runs))
        kept = f"{self._kept} of {len(self._points)} kept"
        best = "" if self._best is None else f"best pruned {self._best:.3f} on val"
        self._advance(int(100 * share + 1e-9), 100, ", ".join(word for word in (kept, best, *words) if word))

    def _work(self, run: Run) -> float:
        """Of a run, in epochs of dense."""
        return run.settings.epochs * self._points[run.network].flops_ratio

    def _execute(self, runs: Sequence[Run], *, rivals: bool) -> None:
        execution, workload = self.config.execution, self.problem.workload
        if execution.executor == "serial":
            finalise_here(workload, runs, self._run_folder, self, threads=workload.proxy.threads)
            return
        from evaluators.pools.tuner import finalise_on_ray

        finalise_on_ray(
            workload,
            runs,
            self._run_folder,
            self,
            rivals=rivals,
            by_loss=self.config.search.value == "loss",
            workers=execution.workers,
            address=execution.address,
            threads=workload.proxy.threads,
            gpus_per_worker=execution.gpus_per_worker,
        )

    @property
    def _run_folder(self) -> Path:
        return self.folder / "runs" / self.key

    def _finish(self, name: str, rivals: Sequence[Run]) -> None:
        """Keep the best of a network's runs."""
        results = {run: tuned for run in rivals if (tuned := result_of(self._run_folder / run.name))}
        if not results:
            reasons = {error for run in rivals if (error := self._ended[run.name])}
            self._fail(f"{name} could not be tuned: {'; '.join(sorted(reasons))}")
            return
        run, tuned = max(results.items(), key=lambda entry: self._merit(entry[1]))
        tried = tuple(self._tried(other, results.get(other)) for other in rivals) if len(rivals) > 1 else ()
        network = self._described(name, run, tuned, tried)
        try:
            self._keep(network, tuned)
        except ParetoPruneError as error:
            self._fail(f"{name} is tuned, but cannot be kept: {error}")
            return
        self._kept += 1
        if tried:
            chosen = ", ".join(f"{key} {network.recipe[key]:g}" for key in SEARCHED)
            self.monitor.say(f"{name}: best of {len(rivals)} runs on val with {chosen}")
        if not network.dense:
            self._best = max(network.val[network.metric], -np.inf if self._best is None else self._best)
        for other in rivals:
            shutil.rmtree(self._run_folder / other.name, ignore_errors=True)

    def _fail(self, reason: str) -> None:
        self._failures.append(reason)
        self.monitor.say(reason)

    def _merit(self, tuned: Tuned) -> float:
        """What is chosen by on val: the loss if the search ranked by it, else the metric."""
        judge = LOSS if self.config.search.value == "loss" else self.problem.task.metric
        return -float(judge.loss(np.asarray(tuned.values[judge.name])))

    def _tried(self, run: Run, tuned: Tuned | None) -> Mapping[str, Any]:
        history = list(tuned.history) if tuned else history_of(self._run_folder / run.name)
        settings = run.settings.model_dump(include=set(SEARCHED))
        reached = history[-1] if history else {}
        return {**settings, **reached, "finished": tuned is not None, "error": self._ended[run.name]}

    def _described(
        self, name: str, run: Run, tuned: Tuned, tried: tuple[Mapping[str, Any], ...]
    ) -> FinalNetwork:
        space, point = self.problem.space, self._points[name]
        costs, dense = space.cost(point.genome).row(0), space.cost(space.dense).row(0)
        return FinalNetwork(
            point=point.number,
            dense=name == DENSE,
            folder=name,
            genome=point.genome,
            metric=self.problem.task.metric.name,
            costs=costs,
            ratios={cost: value / dense[cost] for cost, value in costs.items()},
            recipe=run.settings.model_dump(mode="json"),
            group=self.key,
            val=dict(tuned.values),
            seconds=tuned.seconds,
            weights=fingerprint_of_arrays(tuned.weights),
            tried=tried,
        )

    def _keep(self, network: FinalNetwork, tuned: Tuned) -> None:
        """The network's files first, then the store: what the store names is there."""
        workload, space = self.problem.workload, self.problem.space
        start = workload.shared_network() if network.recipe["start"] == "shared" else workload.dense_network()
        pruned = load_tuned(prune(start, space, network.genome, workload.ranking), tuned.weights)
        keep_network(self.folder / network.folder, pruned, network, self.problem, self.row.id)
        trial = Trial(network.point, network.genome, FINAL)
        outcome = Outcome(network.point, "complete", tuned.values, tuned.per_case, {"wall_s": tuned.seconds})
        record = Record(trial, outcome, network.costs)
        known = {
            r.trial.number for r in self.store.records(self.row.id, stage=f"val-{self.key}", per_case=False)
        }
        if network.point not in known:
            self.store.append(self.row.id, record, stage=f"val-{self.key}")
        others = [n for n in self.kept if n.folder != network.folder]
        keep_finalised(self.store, self.row.id, [*others, network])
        write_results(self.folder, [network])

    def _dense_number(self) -> int:
        """Of the dense network's first trial."""
        dense = self.problem.space.dense
        records = self.store.records(self.row.id, per_case=False)
        return next(r.trial.number for r in records if r.trial.genome == dense)
