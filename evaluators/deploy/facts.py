"""What travels with an exported network: what it expects, what it says, what it was measured to do."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from evaluators.deploy.description import NetworkDescription
from evaluators.deploy.files import read_bytes
from evaluators.deploy.saving import read_description
from spaces.errors import NetworkError
from spaces.finals import FinalNetwork

FINAL, LATENCY = "final.json", "latency.json"

_FINAL: TypeAdapter[FinalNetwork] = TypeAdapter(FinalNetwork)


@dataclass(frozen=True, eq=False)
class Facts:
    """Everything known about a saved network.

    Attributes:
        description: How it is made, what it expects.
        final: Its full fine-tune and what the test split says; None: it was not finalised.
        latency: Measurements of it, one row a runtime, batch size and machine.
    """

    description: NetworkDescription
    final: FinalNetwork | None = None
    latency: tuple[dict[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """Which network, for people."""
        campaign, point = self.description.campaign, self.description.point
        if campaign is None:
            return self.description.factory.rpartition(":")[2]
        return f"{campaign}, {'dense' if self.dense or point is None else f'point {point}'}"

    @property
    def dense(self) -> bool:
        """Whether nothing of it is known to be pruned."""
        costs = self.description.costs
        if self.final is not None:
            return self.final.dense
        return bool(costs) and costs == self.description.dense_costs

    @property
    def activation(self) -> str:
        """What turns the network's output into its answer: "softmax", "sigmoid", "affine" or "none"."""
        task = self.description.task
        if task in ("multilabel", "segmentation") and (task == "multilabel" or self.description.regions):
            return "sigmoid"
        if task in ("classification", "segmentation"):
            return "softmax"
        return "affine" if task == "regression" else "none"

    @property
    def data_format(self) -> dict[str, Any]:
        """Preprocessing and meaning of the answer, as JSON."""
        about = self.description
        return {
            "input": {
                "name": "image",
                "shape": ["batch", *about.input_shape],
                "dtype": "float32",
                "preparation": about.preparation,
                "normalisation": about.normalisation,
            },
            "output": {
                "name": "output",
                "activation": self.activation,
                "classes": list(about.classes),
                "regions": {name: list(values) for name, values in about.regions.items()},
                "units": about.units,
                "note": "one channel for two classes: the sigmoid is the second one's probability",
            },
        }

    def as_json(self) -> dict[str, Any]:
        """All of it; no path, no patient."""
        about = self.description
        return {
            "network": self.title,
            "factory": about.factory,
            "task": about.task,
            "metric": about.metric,
            "data": about.data,
            "licence": about.licence,
            **self.data_format,
            "costs": about.costs,
            "dense_costs": about.dense_costs,
            "validation": about.values,
            "finalised": None if self.final is None else _FINAL.dump_python(self.final, mode="json"),
            "latency": list(self.latency),
        }


def read_facts(folder: Path) -> Facts:
    """What the files beside a saved network say about it.

    Raises:
        NetworkError: There is no saved network, or a file is torn.
    """
    description = read_description(folder)
    final = None
    if (folder / FINAL).is_file():
        try:
            final = _FINAL.validate_json(read_bytes(folder / FINAL))
        except ValidationError:
            raise NetworkError(f"{folder.name}/{FINAL} is torn; finalise the network again") from None
    return Facts(description, final, _latency(folder, description))


def _latency(folder: Path, description: NetworkDescription) -> tuple[dict[str, Any], ...]:
    """Measured by `paretoprune latency`, in the campaign's folder."""
    path = folder.parent / LATENCY
    if description.campaign is None or not path.is_file():
        return ()
    try:
        rows = json.loads(read_bytes(path))["measured"]
        return tuple(row for row in rows if tuple(row["genome"]) == description.genome)
    except (ValueError, KeyError, TypeError):
        raise NetworkError(f"{LATENCY} is torn; delete it and measure again") from None
