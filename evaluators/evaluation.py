"""Evaluates candidates of a workload at any rung: slice, adapt, measure on the validation cases."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from evaluators.data.tensors import PackedImages, Tensors, as_tensor
from evaluators.data.volumes import Volumes
from evaluators.disagreement import LOOKS, Disagreement
from evaluators.guard import Found, guarded
from evaluators.identity import seed_of
from evaluators.precision import resolve_device
from evaluators.rungs.bench import Bench
from evaluators.rungs.prices import handful
from evaluators.rungs.table import Rung, find_rung
from evaluators.tasks.factory import make_task
from evaluators.tasks.heads import main_output
from evaluators.tasks.judged import run_in_batches
from evaluators.tasks.segmentation import Segmentation
from evaluators.training import check_network, measure
from evaluators.whole import measure_whole, slide
from spaces.messages import Genome, Outcome, Trial
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
        self.task = make_task(workload.task, workload.splits)
        device = resolve_device(workload.proxy.device)
        splits, limit = workload.splits, workload.proxy.train_limit
        self._whole, self._window, self._device = workload.whole, splits.spatial, device
        normalisation = self._normalisation = splits.normalisation
        train = normalisation.apply(splits.train, device)
        self._val = normalisation.apply(splits.val, device)
        self.bench = Bench(
            dense=workload.dense_network().to(device),
            jointly=workload.shared_network().to(device) if workload.shared is not None else None,
            task=self.task,
            settings=workload.proxy,
            train=train,
            subset=normalisation.apply(splits.train.limit(limit), device) if limit else train,
            handful=normalisation.apply(splits.train.limit(handful(self.task.kind)), device),
        )
        check_network(self.bench.dense, self._val, self.task)
        self._looks = normalisation.apply(splits.train.limit(LOOKS), device)
        self._disagreements: dict[str, Disagreement] = {}

    def evaluate(self, trial: Trial) -> Outcome:
        """Evaluate one candidate; a failure is an outcome."""
        return guarded(trial, self._evaluate)

    def sliced(self, network: nn.Module, genome: Genome) -> nn.Module:
        """What this genome keeps of one of the bench's networks, as a network of its own."""
        return prune(network, self._space, genome, self._ranking)

    def measured(
        self, network: nn.Module, rung: str, seed: int, cases: Tensors | Volumes | None = None
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Values and per-case arrays of a network, on the rung's validation cases or those given."""
        if cases is None:
            cases = self._whole if self._whole is not None and find_rung(rung).whole else self._val
        if isinstance(cases, Volumes):
            assert isinstance(self.task, Segmentation)
            return measure_whole(network, cases, self.task, self._normalisation, self._window, self._device)
        return measure(network, cases, self.task, self.bench.subset, rung=rung, seed=seed)

    def logits(
        self, network: nn.Module, cases: Tensors | Volumes
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A segmentation's main outputs (n, channels, *spatial) with their masks, batch by batch."""
        if isinstance(cases, Tensors):
            for outputs, targets in run_in_batches(network, cases):
                yield main_output(outputs, cases.images.ndim), targets
            return
        with torch.inference_mode():
            for image, mask in cases:
                packed = PackedImages(as_tensor(image[None]).to(self._device), self._normalisation)
                yield slide(network, packed[:], self._window), as_tensor(mask[None]).to(self._device)

    def _disagreement(self, rung: Rung) -> Disagreement:
        """With dense as it was given, or with the rung's own full width."""
        name, looks = rung.name if rung.own else "", self.bench.handful if rung.brief else self._looks
        if name not in self._disagreements:
            reference = self.bench.dense
            if rung.own:
                reference = self.sliced(rung.start(self.bench), self._space.dense)
                rung.adapt(reference, self.bench, seed_of(self.fingerprint, 0))
            self._disagreements[name] = Disagreement(reference, self.task, looks)
        return self._disagreements[name]

    def _evaluate(self, trial: Trial) -> Found:
        rung = find_rung(trial.rung)
        seed = seed_of(self.fingerprint, trial.replicate)
        clock = [time.perf_counter()]
        network = self.sliced(rung.start(self.bench), trial.genome)
        clock.append(time.perf_counter())
        rung.adapt(network, self.bench, seed)
        clock.append(time.perf_counter())
        values, per_case = ({}, {}) if rung.brief else self.measured(network, trial.rung, seed)
        if self.task.trains:
            per_case["disagreement"] = self._disagreement(rung).of(network)
            values["disagreement"] = float(per_case["disagreement"].mean(dtype=np.float64))
        clock.append(time.perf_counter())
        phases = ("prune_s", "tune_s", "measure_s")
        return values, per_case, {name: clock[i + 1] - clock[i] for i, name in enumerate(phases)}
