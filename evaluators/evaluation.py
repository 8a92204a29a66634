"""Evaluates candidates of a workload at any rung: slice, adapt, measure on the validation cases."""

import time
from typing import TYPE_CHECKING

from evaluators.guard import Found, guarded
from evaluators.identity import seed_of
from evaluators.precision import resolve_device
from evaluators.rungs.bench import Bench
from evaluators.rungs.table import find_rung
from evaluators.tasks.factory import make_task
from evaluators.tasks.segmentation import Segmentation
from evaluators.training import check_network, measure
from evaluators.whole import measure_whole
from spaces.messages import Outcome, Trial
from spaces.surgery import prune

if TYPE_CHECKING:
    from evaluators.workload import Workload


class NetworkEvaluator:
    """Holds the networks to slice and the images as tensors; every trial starts from both, unchanged.

    Raises:
        InputError: The network or the images of the workload cannot be used.
    """

    def __init__(self, workload: "Workload") -> None:
        self.fingerprint = workload.fingerprint
        self._space, self._ranking = workload.space, workload.ranking
        self._task = make_task(workload.task, workload.splits)
        device = resolve_device(workload.proxy.device)
        splits, limit = workload.splits, workload.proxy.train_limit
        self._whole, self._window, self._device = workload.whole, splits.spatial, device
        normalisation = self._normalisation = splits.normalisation
        train = normalisation.apply(splits.train, device)
        self._val = normalisation.apply(splits.val, device)
        self._bench = Bench(
            dense=workload.dense_network().to(device),
            jointly=workload.shared_network().to(device) if workload.shared is not None else None,
            task=self._task,
            settings=workload.proxy,
            train=train,
            subset=normalisation.apply(splits.train.limit(limit), device) if limit else train,
        )
        check_network(self._bench.dense, self._val, self._task)

    def evaluate(self, trial: Trial) -> Outcome:
        """Evaluate one candidate; a failure is an outcome."""
        return guarded(trial, self._evaluate)

    def _evaluate(self, trial: Trial) -> Found:
        rung = find_rung(trial.rung)
        seed = seed_of(self.fingerprint, trial.replicate)
        clock = [time.perf_counter()]
        network = prune(rung.start(self._bench), self._space, trial.genome, self._ranking)
        clock.append(time.perf_counter())
        rung.adapt(network, self._bench, seed)
        clock.append(time.perf_counter())
        if rung.whole and self._whole is not None and isinstance(self._task, Segmentation):
            values, per_case = measure_whole(
                network, self._whole, self._task, self._normalisation, self._window, self._device
            )
        else:
            values, per_case = measure(
                network, self._val, self._task, self._bench.subset, rung=trial.rung, seed=seed
            )
        clock.append(time.perf_counter())
        phases = ("prune_s", "tune_s", "measure_s")
        return values, per_case, {name: clock[i + 1] - clock[i] for i, name in enumerate(phases)}
