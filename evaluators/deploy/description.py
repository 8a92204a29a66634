"""What is known about a network besides its weights: how it is rebuilt, what it expects, what it reached."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from evaluators.data.splits import Splits
from evaluators.protocols import Task
from evaluators.settings import DataSettings, NetworkSettings, Settings


class NetworkDescription(Settings):
    """What `save` needs to be told about a network, and what `read_description` tells about a saved one.

    Only the first three are needed; the others travel along into exports and model cards.

    Attributes:
        factory: module:callable that makes the dense network.
        arguments: Its keyword arguments; JSON types.
        input_shape: Of one image, (channels, *spatial).
        task: "classification", "multilabel", "segmentation", "regression", "embedding" or "custom".
        metric: What was maximised.
        classes: Names of the classes by index, or of the regions.
        regions: For overlapping regions of masks: name -> the mask values in it.
        units: Regression: what the network's 0 means in the targets' units, and its 1 above that.
        normalisation: `Normalisation.describe()`: what is done to intensities first.
        preparation: What is done to images before that: "size", "spacing", "patch".
        data: Name of the images' source; no path.
        licence: Of the images, where known.
        genome: Kept units per channel group; empty: not known.
        costs: "flops" per image or patch, "params", "activation_bytes".
        dense_costs: The same of the dense network.
        values: Figures measured on the validation cases, by name; None where not defined.
        campaign: Id of the campaign that found it.
        point: Number of its trial there; None: not of a campaign.
    """

    factory: str = Field(pattern=r"^[\w.]+:\w+$")
    arguments: dict[str, Any] = Field(default_factory=dict)
    input_shape: tuple[int, ...] = Field(min_length=2)
    task: str | None = None
    metric: str | None = None
    classes: tuple[str, ...] = ()
    regions: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    units: tuple[float, float] | None = None
    normalisation: dict[str, Any] | None = None
    preparation: dict[str, Any] = Field(default_factory=dict)
    data: str | None = None
    licence: str | None = None
    genome: tuple[int, ...] = ()
    costs: dict[str, float] = Field(default_factory=dict)
    dense_costs: dict[str, float] = Field(default_factory=dict)
    values: dict[str, float | None] = Field(default_factory=dict)
    campaign: str | None = None
    point: int | None = None

    @field_validator("values", mode="before")
    @classmethod
    def _none_for_nan(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Measures of classes that no case has are not defined."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }

    @field_validator("input_shape")
    @classmethod
    def _is_an_image(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if min(shape) < 1:
            raise ValueError("it is (channels, *spatial), all 1 or more")
        return shape


def describe_network(
    network: NetworkSettings,
    data: DataSettings,
    splits: Splits,
    task: Task,
    *,
    genome: Sequence[int] = (),
    costs: Mapping[str, float] | None = None,
    dense_costs: Mapping[str, float] | None = None,
    values: Mapping[str, float] | None = None,
    campaign: str | None = None,
    point: int | None = None,
) -> NetworkDescription:
    """The description of a campaign's network; see `NetworkDescription` for the arguments.

    Args:
        network: The campaign's settings of the network.
        data: Its settings of the images.
        splits: Its images.
        task: What the network is for.
        genome: Kept units per channel group.
        costs: Of the network.
        dense_costs: Of the dense network.
        values: Measured on the validation cases.
        campaign: Its id.
        point: Number of the trial.
    """
    units = getattr(task, "units", None)
    preparation = data.model_dump(mode="json", include={"size", "spacing", "patch"}, exclude_none=True)
    return NetworkDescription(
        factory=network.factory,
        arguments=network.arguments,
        input_shape=(splits.channels, *splits.spatial),
        task=task.kind,
        metric=task.metric.name,
        classes=task.classes,
        regions=dict(getattr(task, "regions", {})),
        units=units,
        normalisation=splits.normalisation.describe(),
        preparation=preparation,
        data=splits.name,
        licence=splits.licence,
        genome=tuple(int(kept) for kept in genome),
        costs=dict(costs or {}),
        dense_costs=dict(dense_costs or {}),
        values=dict(values or {}),
        campaign=campaign,
        point=point,
    )
