"""nnU-Net's networks: from a checkpoint to settings, and from settings to the network.

A checkpoint holds the plans that it was trained with; they name the network's class and its arguments. It is
read in weights-only mode; of code, only classes of `dynamic_network_architectures` and `torch.nn` are named.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from evaluators.networks import read_checkpoint, state_dict_of
from spaces.errors import NetworkError

FACTORY = "evaluators.nnunet:build"
CLASS = "network_class"
LIBRARY = "dynamic_network_architectures.architectures."

_FIRST = ("encoder.stem.convs.0.conv.weight", "encoder.stages.0.0.convs.0.conv.weight")
_HEADS = "decoder.seg_layers."


def build(network_class: str, **arguments: Any) -> nn.Module:
    """A network of nnU-Net's.

    Args:
        network_class: Full name, in `dynamic_network_architectures.architectures`.
        arguments: Of the class; layers by their names, as "torch.nn.Conv3d".

    Raises:
        NetworkError: A class that is none of theirs.
    """
    module, _, name = network_class.rpartition(".")
    if not f"{module}.".startswith(LIBRARY):
        raise NetworkError(f"network_class = {network_class!r}: it must be one of {LIBRARY}*")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise NetworkError(
            f"network_class = {network_class!r}: {error}; pip install dynamic-network-architectures einops"
        ) from None
    network = kind(**{key: layer_of(value) or value for key, value in arguments.items()})
    if not isinstance(network, nn.Module):
        raise NetworkError(f"network_class = {network_class!r} is no network")
    return network


def layer_of(value: object) -> type[nn.Module] | None:
    """The class of `torch.nn` that the text names; None for anything else."""
    if not isinstance(value, str) or not value.startswith("torch.nn."):
        return None
    kind = getattr(nn, value.rpartition(".")[2], None)
    return kind if isinstance(kind, type) and issubclass(kind, nn.Module) else None


def settings_of(checkpoint: str) -> dict[str, Any]:
    """What `[network]` says of an nnU-Net checkpoint: factory, arguments, weights.

    The plans are those inside the checkpoint, else `plans.json` beside it or one folder up.

    Raises:
        NetworkError: No such file, no plans, or plans of a version that names no class.
    """
    path = Path(checkpoint).expanduser()
    found = read_checkpoint(path, "network.nnunet")
    weights = state_dict_of(found, path.name)
    given = found.get("init_args", {}) if isinstance(found, Mapping) else {}
    plans = given.get("plans") or _plans_beside(path)
    configuration = given.get("configuration") or _only(plans, path)
    architecture = _architecture(plans, str(configuration), path)
    arguments = {CLASS: architecture["network_class_name"], **architecture["arch_kwargs"]}
    arguments |= {"input_channels": _inputs(weights, path), "num_classes": _classes(weights, path)}
    return {
        "factory": FACTORY,
        "arguments": {"deep_supervision": True} | arguments,
        "weights": str(path),
        "weights_key": "network_weights" if "network_weights" in found else None,
    }


def architecture_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The block "architecture" of a plans.json, from `build`'s arguments."""
    others = {CLASS, "input_channels", "num_classes", "deep_supervision"}
    kept = {name: value for name, value in arguments.items() if name not in others}
    return {
        "network_class_name": arguments[CLASS],
        "arch_kwargs": kept,
        "_kw_requires_import": [name for name, value in kept.items() if layer_of(value)],
    }


def _plans_beside(path: Path) -> Any:
    for folder in (path.parent, path.parent.parent):
        file = folder / "plans.json"
        if file.is_file():
            try:
                return json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                raise NetworkError(f"{file.name} beside {path.name} is damaged") from None
    raise NetworkError(
        f"{path.name}: holds no plans, and there is no plans.json beside it or one folder up; copy it there"
    )


def _only(plans: Any, path: Path) -> str:
    known = sorted(_table(plans, "configurations", path))
    if len(known) == 1:
        return known[0]
    raise NetworkError(
        f"{path.name}: does not say which configuration it is of ({', '.join(known)}); keep only that one in "
        "plans.json"
    )


def _architecture(plans: Any, configuration: str, path: Path) -> dict[str, Any]:
    configurations = _table(plans, "configurations", path)
    merged: dict[str, Any] = {}
    name: str | None = configuration
    while name is not None:
        own = _table(configurations, name, path)
        merged = {**own, **merged}
        name = own.get("inherits_from")
    found = merged.get("architecture")
    if not isinstance(found, Mapping) or not {"network_class_name", "arch_kwargs"} <= found.keys():
        raise NetworkError(
            f"{path.name}: the plans of {configuration} name no network class (an older nnU-Net); write "
            "network.factory and network.arguments yourself"
        )
    return dict(found)


def _table(value: Any, key: str, path: Path) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(found, Mapping):
        raise NetworkError(f"{path.name}: its plans have no {key!r}")
    return found


def _inputs(weights: Mapping[str, Tensor], path: Path) -> int:
    for name in _FIRST:
        if name in weights:
            return int(weights[name].shape[1])
    raise NetworkError(f"{path.name}: holds no first convolution of an nnU-Net ({' or '.join(_FIRST)})")


def _classes(weights: Mapping[str, Tensor], path: Path) -> int:
    for name, tensor in weights.items():
        if name.startswith(_HEADS) and name.endswith(".weight"):
            return int(tensor.shape[0])
    raise NetworkError(f"{path.name}: holds no {_HEADS}*")
