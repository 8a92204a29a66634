"""What is known about a network besides its weights: how it is rebuilt, what it expects, what it reached."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from evaluators.data.splits import Splits
from evaluators.protocols import Task
from evaluators.settings import DataSettings, NetworkSettings, Settings
from spaces.errors import NetworkError
from spaces.granularity import TiedSpace
from spaces.space import ChannelSpace


class NetworkDescription(Settings):
    """What `save` needs to be told about a network, and what `read_description` tells about a saved one.

    Factory, arguments and input shape are needed; the others travel along into exports and model cards.

    Attributes:
        factory: module:callable that makes the dense network.
        arguments: Its keyword arguments; JSON types.
        constructor_arguments: Over `arguments`: with them the network's own class builds the pruned network;
            None where it cannot.
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
    constructor_arguments: dict[str, Any] | None = None
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
    space: ChannelSpace,
    genome: Sequence[int],
    *,
    values: Mapping[str, float] | None = None,
    campaign: str | None = None,
    point: int | None = None,
) -> NetworkDescription:
    """The description of a campaign's network.

    Args:
        network: The campaign's settings of the network.
        data: Its settings of the images.
        splits: Its images.
        task: What the network is for.
        space: What could be pruned.
        genome: What the network keeps.
        values: Measured on the validation cases.
        campaign: Its id.
        point: Number of the trial.
    """
    return NetworkDescription(
        factory=network.factory,
        arguments=network.arguments,
        constructor_arguments=_constructor_arguments(space, genome),
        input_shape=(splits.channels, *splits.spatial),
        task=task.kind,
        metric=task.metric.name,
        classes=task.classes,
        regions=getattr(task, "regions", {}),
        units=getattr(task, "units", None),
        normalisation=splits.normalisation.describe(),
        preparation=data.model_dump(mode="json", include={"size", "spacing", "patch"}, exclude_none=True),
        data=splits.name,
        licence=splits.licence,
        genome=tuple(int(kept) for kept in genome),
        costs=space.cost(genome).row(0),
        dense_costs=space.cost(space.dense).row(0),
        values=dict(values or {}),
        campaign=campaign,
        point=point,
    )


def _constructor_arguments(space: ChannelSpace, genome: Sequence[int]) -> dict[str, Any] | None:
    if not isinstance(space, TiedSpace):
        return None
    try:
        return space.constructor_arguments(genome)
    except NetworkError:  # of another family, or not this genome
        return None
