"""The rung `finetune`: prune, train for a few steps on a subset, measure on the validation cases."""

import time
from typing import TYPE_CHECKING

import torch

from evaluators.guard import Found, guarded
from evaluators.identity import seed_of
from evaluators.networks import build_network, load_weights
from evaluators.tasks import make_task
from evaluators.training import Normalisation, check_network, measure, resolve_device, tune
from spaces.errors import ConfigError
from spaces.messages import Outcome, Trial
from spaces.surgery import prune

if TYPE_CHECKING:
    from evaluators.workload import Workload


class FinetuneEvaluator:
    """Holds the dense network and the images as tensors; every trial starts from both, unchanged.

    Raises:
        InputError: The network or the images of the workload cannot be used.
    """

    def __init__(self, workload: "Workload") -> None:
        self.fingerprint = workload.fingerprint
        self._settings = workload.proxy
        self._space, self._ranking = workload.space, workload.ranking
        self._task = make_task(workload.task, workload.splits)
        self._device = resolve_device(workload.proxy.device)
        splits, limit = workload.splits, workload.proxy.train_limit
        normalisation = Normalisation.of(splits.train)
        subset = splits.train.limit(limit) if limit else splits.train
        self._train = normalisation.apply(subset, self._device)
        self._val = normalisation.apply(splits.val, self._device)
        self._dense = _dense_network(workload).to(self._device)
        check_network(self._dense, self._val, self._task)

    def evaluate(self, trial: Trial) -> Outcome:
        """Evaluate one candidate; a failure is an outcome."""
        return guarded(trial, self._evaluate)

    def _evaluate(self, trial: Trial) -> Found:
        if trial.rung != self._settings.rung:
            raise ConfigError(f"this evaluates the rung {self._settings.rung!r}, not {trial.rung!r}")
        seed = seed_of(self.fingerprint, trial.replicate)
        clock = [time.perf_counter()]
        network = prune(self._dense, self._space, trial.genome, self._ranking)
        clock.append(time.perf_counter())
        tune(network, self._train, self._task, self._settings, seed=seed)
        clock.append(time.perf_counter())
        values, per_case = measure(network, self._val, self._task)
        clock.append(time.perf_counter())
        phases = ("prune_s", "tune_s", "measure_s")
        return values, per_case, {name: clock[i + 1] - clock[i] for i, name in enumerate(phases)}


def _dense_network(workload: "Workload") -> torch.nn.Module:
    """The network of the workload, its weights copied out of arrays that may be shared and read-only."""
    network, _ = build_network(workload.network.model_copy(update={"weights": None, "weights_key": None}))
    weights = {name: torch.tensor(array) for name, array in workload.weights.items()}
    load_weights(network, weights, "the dense weights")
    return network.eval()
