"""What lies ready in a worker: networks to slice and images as tensors, none of which a trial changes."""

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from evaluators.protocols import Task
from evaluators.settings import ProxySettings
from evaluators.teacher import Teacher
from evaluators.training import Tensors
from spaces.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Bench:
    """What rungs work with.

    Attributes:
        dense: The dense network, in eval mode.
        jointly: The network of the jointly trained weights; None where they were not trained.
        task: What networks are trained for.
        settings: How.
        train: All training images.
        subset: Those that the cheap rungs see.
        handful: Those that scouts see.
    """

    dense: nn.Module
    jointly: nn.Module | None
    task: Task
    settings: ProxySettings
    train: Tensors
    subset: Tensors
    handful: Tensors

    @property
    def shared(self) -> nn.Module:
        """The network of the jointly trained weights.

        Raises:
            ConfigError: They were not trained.
        """
        if self.jointly is None:
            raise ConfigError(
                "this workload carries no jointly trained weights; set proxy.rung = 'shared' or "
                "proxy.start = 'shared'"
            )
        return self.jointly

    @cached_property
    def teacher(self) -> Teacher | None:
        """The dense network, where candidates are to imitate it."""
        return Teacher(self.dense) if self.settings.distill else None

    @property
    def looked_through(self) -> nn.Module:
        """What scouts are sliced from: weights trained for all widths where there are any."""
        return self.dense if self.jointly is None else self.jointly

    @property
    def start(self) -> nn.Module:
        """What the tuning rungs slice from."""
        return self.shared if self.settings.start == "shared" else self.dense
