"""Finalising: the full fine-tune of one network, with checkpoints, and what it leaves behind.

It is what the rung `full` does to a candidate, to the last bit where nothing in [finalise] says otherwise;
only that it can be killed at any moment and goes on from its last checkpoint, and that its weights are kept.
Dense gets the same steps. Who runs it, this process or Ray Tune's workers, changes nothing.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.stats import qmc
from torch import nn

from evaluators.checkpoints import read_state, write_state
from evaluators.dense import as_arrays
from evaluators.evaluation import NetworkEvaluator
from evaluators.files import replacing
from evaluators.guard import describe_error
from evaluators.identity import fingerprint_of, seed_of
from evaluators.pools.threads import pinned_threads
from evaluators.settings import FinaliseSettings, ProxySettings
from evaluators.stepwise import Progress
from evaluators.teacher import Teacher
from evaluators.training import Tuning
from evaluators.workload import Workload
from spaces.messages import Genome

RUNG = "full"
"""As what the user's own evaluators and tasks see it."""

_CHECKPOINT = "checkpoint.safetensors"
_RESULT = "result.safetensors"
_SEARCHED = {"learning_rate": 5.0, "weight_decay": 10.0}  # by what factor up and down


@dataclass(frozen=True)
class Run:
    """One full fine-tune.

    Attributes:
        name: Of the run, a folder's: no two networks or settings share one.
        network: The name of the network; several runs have the same where settings are searched.
        genome: What the network keeps.
        settings: How it is tuned, the epochs included.
    """

    name: str
    network: str
    genome: Genome
    settings: ProxySettings


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a run left.

    Attributes:
        weights: The network's state dict.
        per_case: On the validation cases, as in `Outcome`.
        values: Likewise.
        history: One row a check: "epoch", "metric" and "loss" on val; where settings are searched.
        seconds: That it took, restarts included.
    """

    weights: Mapping[str, np.ndarray]
    per_case: Mapping[str, np.ndarray]
    values: Mapping[str, float]
    history: tuple[Mapping[str, float], ...]
    seconds: float


def final_settings(proxy: ProxySettings, finalise: FinaliseSettings) -> ProxySettings:
    """How networks are finalised: as the rung `full`, but for what [finalise] sets."""
    names = ("start", "learning_rate", "weight_decay", "distill")
    given = {name: value for name in names if (value := getattr(finalise, name)) is not None}
    epochs = finalise.epochs or proxy.full_epochs
    return proxy.model_copy(update={**given, "epochs": epochs, "rung": RUNG})


def searched_settings(settings: ProxySettings, n: int, seed: int = 0) -> list[ProxySettings]:
    """The settings as they are, and n - 1 around them, the same for every network.

    Learning rate (up to 5 times more or less) and weight decay (10 times) by their logarithm, distillation
    from 0 to 0.9; spread evenly (Latin hypercube).
    """
    around = [settings]
    for row in qmc.LatinHypercube(3, rng=np.random.default_rng([seed, n])).random(n - 1):
        changed: dict[str, float] = {"distill": round(0.9 * float(row[2]), 2)}
        for (name, factor), place in zip(_SEARCHED.items(), row, strict=False):
            middle = getattr(settings, name) or 1e-4
            changed[name] = float(f"{middle * factor ** (2 * float(place) - 1):.3g}")
        around.append(settings.model_copy(update=changed))
    return around


class FineTune:
    """One run, epoch by epoch, with a checkpoint after each.

    Args:
        evaluator: Networks to slice, images, task.
        run: What to do.
        folder: Of the run's files; made if it is not there. What lies there is gone on from.
        watched: Whether val is looked at after every epoch, for those who choose between runs.
    """

    def __init__(self, evaluator: NetworkEvaluator, run: Run, folder: Path, *, watched: bool = False) -> None:
        self._evaluator, self._folder, self._watched = evaluator, folder, watched
        self._seed = seed_of(evaluator.fingerprint, 0)
        self.history: list[dict[str, float]] = []
        self._seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        bench = evaluator.bench
        start = bench.shared if run.settings.start == "shared" else bench.dense
        self.network = evaluator.sliced(start, run.genome)
        self._tuning: Tuning | None = None
        if evaluator.task.trains:
            teacher = Teacher(bench.dense) if run.settings.distill else None
            self._tuning = Tuning(
                self.network, bench.train, evaluator.task, run.settings, seed=self._seed, teacher=teacher
            )
        self.epochs = max(1, int(np.ceil(run.settings.epochs)))
        self._load()

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        if self._tuning is None:
            return 0
        return self.epochs * self._tuning.step // self._tuning.steps

    @property
    def steps(self) -> tuple[int, int]:
        """Finished steps and all steps."""
        return (0, 1) if self._tuning is None else (self._tuning.step, self._tuning.steps)

    def advance(self, progress: Progress | None = None) -> None:
        """Train the next epoch and store how far it is.

        Raises:
            RunError: The loss or a weight is no longer finite.
        """
        if self._tuning is None:
            return
        started = time.perf_counter()
        until = -(-(self.epoch + 1) * self._tuning.steps // self.epochs)
        self._tuning.run(until, progress)
        if self._watched:
            values, _ = self._evaluator.measured(self.network, RUNG, self._seed)
            metric = values[self._evaluator.task.metric.name]
            self.history.append({"epoch": self.epoch, "metric": metric, "loss": values["loss"]})
        self._seconds += time.perf_counter() - started
        if not self.finished:
            self._store()

    @property
    def finished(self) -> bool:
        """Whether all steps were done."""
        done, steps = self.steps
        return self._tuning is None or done >= steps

    def finish(self) -> Tuned:
        """Measure the tuned network on val and keep it; the checkpoint goes.

        Raises:
            RunError: An output is not finite.
        """
        started = time.perf_counter()
        values, per_case = self._evaluator.measured(self.network, RUNG, self._seed)
        seconds = self._seconds + time.perf_counter() - started
        tuned = Tuned(as_arrays(self.network), per_case, values, tuple(self.history), seconds)
        _keep_result(tuned, self._folder / _RESULT)
        (self._folder / _CHECKPOINT).unlink(missing_ok=True)
        return tuned

    def _store(self) -> None:
        assert self._tuning is not None
        state = {"tuning": self._tuning.state(), "history": self.history, "seconds": self._seconds}
        write_state(self._folder / _CHECKPOINT, state)

    def _load(self) -> None:
        """Go on from the checkpoint, if there is a whole one."""
        state = read_state(self._folder / _CHECKPOINT)
        if self._tuning is not None and state is not None:
            self._tuning.load(state["tuning"])
            self.history, self._seconds = list(state["history"]), float(state["seconds"])


class Watcher(Protocol):
    """Who is told how runs go."""

    def progressed(self, run: Run, done: int, steps: int, note: str = "") -> None:
        """A run has done so many of its steps; how it goes."""
        ...

    def ended(self, run: Run, error: str | None) -> None:
        """A run has left its result in its folder; or none, because of an error or as it was given up."""
        ...


def finalise_here(
    workload: Workload, runs: Sequence[Run], folder: Path, watcher: Watcher, *, threads: int = 1
) -> None:
    """Do the runs one after the other in this process; what lies in the folder is gone on from.

    Args:
        workload: Networks and images.
        runs: What to do.
        folder: Each run has a folder of its own in it.
        watcher: Is told how it goes.
        threads: CPU threads.
    """
    with pinned_threads(threads):
        evaluator = NetworkEvaluator(workload)
        for run in runs:
            try:
                tuning = FineTune(evaluator, run, folder / run.name)
                while not tuning.finished:
                    tuning.advance(partial(watcher.progressed, run))
                tuning.finish()
            except Exception as error:
                watcher.ended(run, describe_error(error))
            else:
                watcher.ended(run, None)


def result_of(folder: Path) -> Tuned | None:
    """What a finished run left in its folder; None where it is not finished."""
    path = folder / _RESULT
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["about"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, KeyError, ValueError):
        return None  # torn: done again
    parts: dict[str, dict[str, np.ndarray]] = {"weights": {}, "per_case": {}}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = array
    return Tuned(
        parts["weights"], parts["per_case"], about["values"], tuple(about["history"]), about["seconds"]
    )


def history_of(folder: Path) -> list[dict[str, float]]:
    """What a run that was given up had reached, epoch by epoch."""
    state = read_state(folder / _CHECKPOINT)
    return [] if state is None else list(state["history"])


def recipe_key(workload: Workload, finalise: FinaliseSettings) -> str:
    """What decides how a network is finalised, the genome apart, as ten letters."""
    settings = final_settings(workload.proxy, finalise).model_dump(mode="json", exclude={"device"})
    search = finalise.runs if finalise.search else 0
    return fingerprint_of([workload.fingerprint, settings, search])[:10]


def load_tuned(network: nn.Module, weights: Mapping[str, np.ndarray]) -> nn.Module:
    """The sliced network with its tuned weights, in eval mode."""
    network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return network.eval()


def _keep_result(tuned: Tuned, path: Path) -> None:
    arrays = {f"weights/{name}": array for name, array in tuned.weights.items()}
    arrays |= {f"per_case/{name}": np.ascontiguousarray(array) for name, array in tuned.per_case.items()}
    about = {"values": dict(tuned.values), "history": list(tuned.history), "seconds": tuned.seconds}
    with replacing(path) as temporary:
        save_file(arrays, temporary, {"about": json.dumps(about)})
