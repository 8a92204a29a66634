"""Full fine-tunes on Ray Tune: several at once, repeated where a worker dies, given up early by ASHA.

Tune schedules, retries and stops; checkpoints are the runs' own (`FineTune`), in a folder that all workers
reach. So a run that was begun here can be finished without Ray, and the other way round.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluators.pools.cluster import connect, ray  # first: it says what Ray reads when it is imported

# isort: split
from ray import tune

from evaluators.evaluation import NetworkEvaluator
from evaluators.finalising import FineTune, Run, Watcher, result_of
from evaluators.guard import describe_error
from evaluators.workload import Workload
from spaces.errors import ConfigError

RETRIES = 2
"""How often a run goes on from its checkpoint after its worker died."""
REDUCTION = 3
"""ASHA lets the best third of the runs go on at each of its rungs."""

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output is not silent when told to be
}


def finalise_on_ray(
    workload: Workload,
    runs: Sequence[Run],
    folder: Path,
    watcher: Watcher,
    *,
    rivals: bool = False,
    by_loss: bool = False,
    workers: int = 2,
    address: str | None = None,
    threads: int = 1,
    gpus_per_worker: float = 0.0,
) -> None:
    """Do the runs on Ray's workers; what lies in the folder is gone on from.

    Args:
        workload: Networks and images; shipped once.
        runs: What to do.
        folder: Each run has a folder of its own in it; on all machines the same.
        watcher: Is told how it goes.
        rivals: The runs differ in settings only, and those that fall behind on val are given up (ASHA).
        by_loss: Rivals are compared by the loss instead of the metric.
        workers: Runs at the same time.
        address: Of a running cluster; None: one on this machine.
        threads: CPU threads of a run.
        gpus_per_worker: Share of a GPU that a run has.

    Raises:
        ConfigError: There is no cluster at the address, or no GPU in it.
    """
    disconnect = connect(address, workers * threads, workload.splits.train.images.nbytes)
    try:
        if gpus_per_worker and not ray.cluster_resources().get("GPU"):
            raise ConfigError(
                f"execution.gpus_per_worker = {gpus_per_worker:g}, but Ray sees no GPU there; set it to 0"
            )
        trainable = tune.with_parameters(
            _FinalRun,
            workload=workload,
            runs=list(runs),
            folder=str(folder.resolve()),
            threads=threads,
            watched=rivals,
            path=[os.path.abspath(entry) for entry in sys.path],
        )
        os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # errors are the watcher's to tell
        with tempfile.TemporaryDirectory(prefix="tune-") as scratch:
            tune.Tuner(
                tune.with_resources(trainable, {"cpu": threads, "gpu": gpus_per_worker}),
                param_space={"index": tune.grid_search(list(range(len(runs))))},
                tune_config=tune.TuneConfig(
                    max_concurrent_trials=workers,
                    scheduler=_asha(runs[0], by_loss) if rivals else None,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="finalise",
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[_Callback(runs, watcher)],
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                ),
            ).fit()
    finally:
        disconnect()


def _asha(run: Run, by_loss: bool) -> Any:
    """Asynchronous successive halving, Li et al. 2020."""
    epochs = max(1, int(run.settings.epochs))
    return tune.schedulers.ASHAScheduler(
        time_attr="epoch",
        metric="loss" if by_loss else "metric",
        mode="min" if by_loss else "max",
        max_t=epochs + 1,  # who gets to the end ends by itself
        grace_period=max(1, epochs // REDUCTION**2),
        reduction_factor=REDUCTION,
    )


class _FinalRun(tune.Trainable):
    """A worker of Tune: an epoch a step."""

    _index: int
    _fine: FineTune | None
    _told: int
    _evaluator: NetworkEvaluator | None

    def setup(
        self,
        config: dict[str, Any],
        workload: Workload | None = None,
        runs: Sequence[Run] = (),
        folder: str = "",
        threads: int = 1,
        watched: bool = False,
        path: Sequence[str] = (),
    ) -> None:
        import torch

        sys.path.extend(entry for entry in path if entry not in sys.path)
        torch.set_num_threads(threads)
        self._runs, self._folder, self._watched = runs, Path(folder), watched
        self._workload, self._evaluator = workload, None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next run, in the same process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch; one that an earlier process did is only told again, for ASHA to know of it."""
        run = self._runs[self._index]
        try:
            return self._next(run)
        except Exception as error:  # of the run, not of the machine: no use trying again
            return {"done": True, "error": describe_error(error)}

    def _next(self, run: Run) -> dict[str, Any]:
        folder = self._folder / run.name
        if self._fine is None:
            known = result_of(folder)
            if known is not None:
                return {"done": True, "error": None, **(known.history[-1] if known.history else {})}
            assert self._workload is not None
            if self._evaluator is None:
                self._evaluator = NetworkEvaluator(self._workload)
            self._fine = FineTune(self._evaluator, run, folder, watched=self._watched)
        fine = self._fine
        if self._told >= len(fine.history):
            if not fine.finished:
                fine.advance()
            if fine.finished:
                fine.finish()
        seen = fine.history[self._told] if self._told < len(fine.history) else {}
        self._told += 1
        done = fine.finished and self._told >= len(fine.history)
        return {"done": done, "error": None, "steps_done": fine.steps[0], "steps": fine.steps[1], **seen}

    def _begin(self, config: dict[str, Any]) -> None:
        self._index = int(config["index"])
        self._fine, self._told = None, 0


class _Callback(tune.Callback):
    """Tune's events, told to the watcher."""

    def __init__(self, runs: Sequence[Run], watcher: Watcher) -> None:
        self._runs, self._watcher = runs, watcher
        self._errors: dict[int, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for a resume of its own, which is not ours: the watcher stays here."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        run = self._runs[trial.config["index"]]
        if result.get("error"):
            self._errors[trial.config["index"]] = result["error"]
        elif "steps" in result:
            self._watcher.progressed(run, result["steps_done"], result["steps"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        index = trial.config["index"]
        self._watcher.ended(self._runs[index], self._errors.get(index))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.status == "ERROR":
            self._watcher.ended(self._runs[trial.config["index"]], f"its worker died {RETRIES + 1} times")
