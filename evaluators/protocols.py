"""What the parts of an evaluation promise each other.

A spec (`Workload`, `AnalyticWorkload`) is plain data that a pool carries to its workers; built there, it is
an evaluator, which turns trials into outcomes.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from spaces.messages import Outcome, Trial
from spaces.objectives import Objective

if TYPE_CHECKING:
    import torch

    from evaluators.data.tensors import PackedImages


class Evaluator(Protocol):
    """Turns trials into outcomes, one at a time."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides an outcome, the trial apart."""
        ...

    def evaluate(self, trial: Trial) -> Outcome:
        """Evaluate one trial; the same trial gives the same outcome to the last bit, times apart.

        Never raises for a bad candidate: the outcome's status is then "failed" or "lost".
        """
        ...


class EvaluatorSpec(Protocol):
    """Everything one evaluation needs, picklable: what a pool sends to its workers."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the evaluator that this builds."""
        ...

    def build(self) -> Evaluator:
        """The evaluator, in this process."""
        ...


class Pool(Protocol):
    """Evaluates trials, in this process or elsewhere. Every submitted trial comes back exactly once."""

    @property
    def workers(self) -> int:
        """How many trials are evaluated at the same time."""
        ...

    @property
    def pending(self) -> int:
        """Trials submitted that have not come back yet."""
        ...

    def submit(self, trial: Trial) -> None:
        """Take a trial on; returns at once."""
        ...

    def completed(self, timeout: float | None = None) -> list[Outcome]:
        """The outcomes that have arrived, in the order of arrival.

        Waits for the first of them up to `timeout` seconds (None: as long as it takes); empty when the time
        is over or nothing is pending.

        Raises:
            ParetoPruneError: No worker can be prepared for these evaluations.
        """
        ...

    def close(self) -> None:
        """Stop; what is pending is given up. Closing twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Images(Protocol):
    """Images (n, channels, *spatial) that are normalised when indexed, and their targets, on one device."""

    @property
    def images(self) -> "torch.Tensor | PackedImages":
        """What goes into the network: index it, or `split` it into batches."""
        ...

    @property
    def targets(self) -> "torch.Tensor":
        """What should come out."""
        ...

    def __len__(self) -> int: ...


class Task(Protocol):
    """What a network is for: how it is trained and how it is judged.

    Attributes:
        kind: "classification", "multilabel", "segmentation", "regression", "embedding" or "custom".
        signature: What decides the training loss, besides the data.
        trains: Whether there is a loss to train by and outputs to compare; the user's own evaluator has none.
        metric: What is maximised.
        chance: The metric of a network that has learnt nothing, on the validation cases.
        classes: Names of the classes by index, or of the regions.
        flip_axes: Spatial axes along which a mirrored image is as good as the image.
    """

    kind: str
    signature: str
    trains: bool
    metric: Objective
    chance: float
    classes: tuple[str, ...]
    flip_axes: tuple[int, ...]

    def check_outputs(self, outputs: Any, targets: "torch.Tensor") -> None:
        """Refuse outputs whose shape cannot mean these classes (NetworkError)."""
        ...

    def loss(self, outputs: Any, targets: "torch.Tensor") -> "torch.Tensor":
        """The training loss of a batch, over all supervision heads, a scalar."""
        ...

    def imitation(self, outputs: Any, told: "torch.Tensor") -> "torch.Tensor":
        """How far outputs are from another network's `main_output`, a scalar."""
        ...

    def disagreement(self, outputs: Any, told: "torch.Tensor") -> "torch.Tensor":
        """Per case, how far outputs are from another network's `main_output`: (n,), 0 where they agree."""
        ...

    def strata(self, targets: "torch.Tensor") -> "torch.Tensor":
        """What class-balanced sampling balances: a number per case (n,)."""
        ...

    def examine(
        self, network: Any, data: Images, train: Images | None = None, *, rung: str = "", seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Per case, how a network in eval mode does on `data`; arrays as in `Outcome.per_case`.

        Args:
            network: On the device of the images.
            data: Whose cases.
            train: What a probe is fitted on; only embeddings need it.
            rung: For the user's own evaluator.
            seed: Likewise.

        Raises:
            RunError: An output is not finite.
        """
        ...

    def values(self, per_case: Mapping[str, np.ndarray], targets: np.ndarray) -> dict[str, float]:
        """The metric, the mean "loss", further metrics, and "measure/class" for every class, by name."""
        ...
