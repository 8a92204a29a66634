"""The user's own evaluation: a callable that takes a pruned network and says how it does on every case."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluators.named import find_callable
from evaluators.protocols import Images
from spaces.errors import ConfigError
from spaces.objectives import Objective

DEFAULT_NAME = "score"


class Custom:
    """`[task] evaluator = "module:callable"`, called as `(model, rung, seed)`.

    It may change the model, train it for instance; the rung says how thoroughly. It returns an array (n,)
    with a value for each validation case in their order, larger is better; or a mapping of such arrays by
    name: "metric" (n,), perhaps "loss" (n,) (default: 1 - metric), and further ones, each with n rows. The
    mean of "metric" is what is maximised. Nothing else trains or judges the network.

    Args:
        evaluator: module:callable.
        name: What its values are called.
        chance: What a network that has learnt nothing reaches.
        classes: Of the data, for the record.

    Raises:
        ConfigError: There is no such callable.
    """

    kind = "custom"
    trains = False
    flip_axes: tuple[int, ...] = ()

    def __init__(self, evaluator: str, name: str, chance: float, classes: tuple[str, ...]) -> None:
        self.metric = Objective(name, maximize=True)
        self.signature = f"custom {evaluator}"
        self.chance = chance
        self.classes = classes
        self._where = f"task.evaluator = {evaluator!r}"
        self._call: Callable[..., Any] = find_callable(evaluator, "task.evaluator", ConfigError)

    def check_outputs(self, outputs: Any, targets: torch.Tensor) -> None:
        """Any output is the evaluator's own affair."""

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """There is none.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"{self._where} defines no loss: take a criterion that looks at weights (as 'l1') "
            "and another rung than 'shared' ('finetune' and 'full' leave the training to the evaluator)"
        )

    def imitation(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """There is none; see `loss`."""
        return self.loss(outputs, told)

    def disagreement(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """Nobody but the evaluator knows what outputs mean; see `loss`."""
        return self.loss(outputs, told)

    def strata(self, targets: torch.Tensor) -> torch.Tensor:
        """Nothing is sampled; see `loss`."""
        return self.loss(None, targets)

    def examine(
        self, network: nn.Module, data: Images, train: Images | None = None, *, rung: str = "", seed: int = 0
    ) -> dict[str, np.ndarray]:
        """What the callable returns, checked.

        Raises:
            ConfigError: It is not one finite number per validation case.
        """
        del train
        found = self._call(network, rung, seed)
        arrays = dict(found) if isinstance(found, Mapping) else {"metric": found}
        if "metric" not in arrays:
            names = ", ".join(map(str, arrays)) or "nothing"
            raise ConfigError(f"{self._where} returned {names}; 'metric' is needed, with a value per case")
        checked = {str(name): self._checked(str(name), array, len(data)) for name, array in arrays.items()}
        checked.setdefault("loss", 1 - checked["metric"])
        for name in ("metric", "loss"):
            if checked[name].ndim != 1:
                raise ConfigError(f"{self._where}: {name!r} is {checked[name].shape}; one value per case")
        return checked

    def values(self, per_case: Mapping[str, np.ndarray], targets: np.ndarray) -> dict[str, float]:
        """The means of all arrays of one value per case; "metric" under its own name."""
        del targets
        means = {
            name: float(array.mean(dtype=np.float64)) for name, array in per_case.items() if array.ndim == 1
        }
        return {self.metric.name: means.pop("metric"), **means}

    def _checked(self, name: str, given: Any, n: int) -> np.ndarray:
        if isinstance(given, torch.Tensor):
            given = given.detach().cpu()
        try:
            array = np.asarray(given, dtype=np.float32)
        except (TypeError, ValueError):
            found = type(given).__name__
            raise ConfigError(f"{self._where}: {name!r} is {found}; numbers are needed") from None
        if not array.ndim or len(array) != n:
            raise ConfigError(
                f"{self._where}: {name!r} has shape {array.shape}; {n} validation cases need {n} rows"
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"{self._where}: {name!r} holds values that are NaN or infinite")
        return array
