"""Layers that are switched off: they must still fit when someone switches them on again.

Supervision heads, or the spread of a variational branch: where a flag that is off keeps parameters from ever
being read, the network is traced and proved with the flag on, too. So it is known what feeds them.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from torch import nn

from spaces.grouping import module_of
from spaces.metas import Shapes

Switch: TypeAlias = tuple[str, str]
"""Path of a module, and its attribute that is False."""

SUPERVISION = ("deep_supervision", "do_ds")
"""Flags of MONAI's and nnU-Net's networks that return what is computed in any case, maybe."""


def find_switches(model: nn.Module, run: Callable[[], object]) -> list[Switch]:
    """The flags that, once turned on, make more parameters be read, or supervise; they are left off.

    Args:
        model: The network; a copy that may be run.
        run: Runs it in eval and in train mode.
    """
    found: list[Switch] = []
    read = _read(model, run)
    for switch in [*supervision_off(model), *_candidates(model, read)]:
        turn(model, [switch], on=True)
        try:
            now = _read(model, run)
        except Exception:  # what the flag asks for was never built, most likely
            now = None
        if now is not None and (now - read or switch[1] in SUPERVISION):
            read |= now
            found.append(switch)
        else:
            turn(model, [switch], on=False)
    turn(model, found, on=False)
    return found


def supervision_off(model: nn.Module) -> list[Switch]:
    """The flags of supervision heads that are off."""
    return [
        (path, name)
        for path, module in model.named_modules()
        for name in SUPERVISION
        if vars(module).get(name) is False
    ]


def turn(model: nn.Module, switches: Iterable[Switch], *, on: bool) -> None:
    """Set the flags, in place."""
    for path, name in switches:
        setattr(model.get_submodule(path), name, on)


def _candidates(model: nn.Module, read: set[str]) -> Iterator[Switch]:
    """Flags of the modules around parameters that are not read, innermost first."""
    seen = set()
    for parameter in [name for name, _ in model.named_parameters() if name not in read]:
        path = module_of(parameter)
        while path:
            path = path.rpartition(".")[0]
            if path not in seen:
                seen.add(path)
                flags = vars(model.get_submodule(path))
                yield from [
                    (path, name)
                    for name in flags
                    if flags[name] is False and name not in ("training", *SUPERVISION)
                ]


def _read(model: nn.Module, run: Callable[[], object]) -> set[str]:
    with Shapes() as shapes:
        run()
    return {name for name, parameter in model.named_parameters() if id(parameter) in shapes.read}


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
