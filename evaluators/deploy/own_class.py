"""A pruned network built by its library's own class, with nothing of ours."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from evaluators import nnunet
from evaluators.deploy.description import NetworkDescription
from evaluators.deploy.saving import LIBRARIES
from evaluators.networks import build_network
from evaluators.settings import NetworkSettings
from evaluators.tasks.heads import main_output
from spaces.errors import NetworkError


@dataclass(frozen=True)
class Layer:
    """A class of `torch.nn` among the arguments."""

    name: str

    def __repr__(self) -> str:
        return f"torch.nn.{self.name}"


@dataclass(frozen=True, eq=False)
class OwnClass:
    """How it is built.

    Attributes:
        target: Full name of the class or function.
        arguments: All of them; plain data and layers.
    """

    target: str
    arguments: dict[str, Any]

    @property
    def code(self) -> str:
        """Python that builds it and calls it `network`."""
        module, _, name = self.target.rpartition(".")
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"import torch\nfrom {module} import {name}\nnetwork = {name}({arguments})"

    @property
    def definition(self) -> dict[str, Any]:
        """The same for a bundle's configuration."""
        found = {
            key: f"${value!r}" if isinstance(value, Layer) else value for key, value in self.arguments.items()
        }
        return {"_target_": self.target, **found}


def own_class(description: NetworkDescription, network: nn.Module) -> OwnClass | None:
    """How MONAI or nnU-Net build just this network; None where they cannot. Tried out before it is said."""
    module, _, name = description.factory.partition(":")
    if not any(f"{module}.".startswith(f"{library}.") for library in LIBRARIES):
        return None
    arguments = description.arguments | (description.constructor_arguments or {})
    if description.factory == nnunet.FACTORY:
        arguments |= {"deep_supervision": False}  # one output: the finest
    rank = len(description.input_shape) + 1
    image = torch.randn(2, *description.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        made, _ = build_network(NetworkSettings(factory=description.factory, arguments=arguments))
        made.load_state_dict(network.state_dict())
        with torch.inference_mode():
            expected, found = main_output(network(image), rank), made.eval()(image)
    except (NetworkError, RuntimeError):
        return None
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        return None
    if not torch.allclose(found, expected, atol=1e-5, rtol=1e-5):
        return None
    if description.factory != nnunet.FACTORY:
        return OwnClass(f"{module}.{name}", arguments)
    target = str(arguments.pop(nnunet.CLASS))
    return OwnClass(target, {key: _named(value) for key, value in arguments.items()})


def _named(value: Any) -> Any:
    layer = nnunet.layer_of(value)
    return value if layer is None else Layer(layer.__name__)
