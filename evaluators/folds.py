"""Cross-fitting: a workload a fold of train + val; its dense network never saw what the fold holds out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from evaluators.evaluation import NetworkEvaluator
from evaluators.identity import fingerprint_of
from evaluators.workload import Workload
from spaces.messages import Outcome, Trial


@dataclass(frozen=True, eq=False)
class Folds:
    """What a worker needs to evaluate candidates in every fold; to be used like a `Workload`.

    Attributes:
        workloads: By `Trial.fold`.
    """

    workloads: tuple[Workload, ...]

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """By part, over all folds."""
        parts = [workload.fingerprints for workload in self.workloads]
        return {name: fingerprint_of([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all parts."""
        return fingerprint_of(dict(self.fingerprints))

    def build(self) -> "FoldsEvaluator":
        """The evaluator, in this process."""
        return FoldsEvaluator(self)


class FoldsEvaluator:
    """Evaluates a trial in its fold."""

    def __init__(self, folds: Folds) -> None:
        self.fingerprint = folds.fingerprint
        self._evaluators = [NetworkEvaluator(workload) for workload in folds.workloads]

    def evaluate(self, trial: Trial) -> Outcome:
        """Evaluate one candidate on what its fold holds out; a failure is an outcome."""
        if trial.fold >= len(self._evaluators):
            reason = f"ConfigError: there is no fold {trial.fold} of {len(self._evaluators)}"
            return Outcome(trial.number, "failed", error=reason)
        return self._evaluators[trial.fold].evaluate(trial)
