"""Supervision heads that are switched off: they must still fit when training switches them on again."""

from torch import nn

from spaces.grouping import module_of

Switch = tuple[nn.Module, str]
"""A module, and its attribute that turns the heads on."""

NAMES = ("deep_supervision", "do_ds")  # in MONAI's and nnU-Net's networks


def switch_on(model: nn.Module) -> list[Switch]:
    """Turn the heads of the network on, in place; which switches were off."""
    off = [(module, name) for module in model.modules() for name in NAMES if vars(module).get(name) is False]
    for module, name in off:
        setattr(module, name, True)
    return off


def switch_off(switches: list[Switch]) -> None:
    """Turn them off again."""
    for module, name in switches:
        setattr(module, name, False)


def widths_read(model: nn.Module, unused: list[str]) -> dict[int, str]:
    """How many channels the convolutions and linear layers that never run would read, and a path of such.

    Norms and activations are left out: alone they take nothing from the rest of the network.
    """
    found: dict[int, str] = {}
    for path in {module_of(name): None for name in unused}:
        module = model.get_submodule(path)
        width = getattr(module, "in_channels", None) or getattr(module, "in_features", None)
        if isinstance(module.__dict__["_parameters"].get("weight"), nn.Parameter) and isinstance(width, int):
            found.setdefault(width, path)
    return found
