"""A MONAI bundle as the network to prune: what its configuration says, read as data and never run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spaces.errors import NetworkError

_NAMES = ("inference", "train", "evaluate")
_KEYS = ("network_def", "network", "net")
_LIBRARIES = ("monai.networks.nets", "dynamic_network_architectures.architectures")


def settings_of(bundle: str) -> dict[str, Any]:
    """What `[network]` says of a MONAI bundle: factory, arguments, weights.

    References to plain values (`"@classes"`) are followed; expressions (`"$..."`) are code, and refused.

    Raises:
        NetworkError: No bundle, no weights, or a network that only running its configuration would tell.
    """
    folder = Path(bundle).expanduser()
    config = _config(folder)
    definition = next((config[key] for key in _KEYS if _is_definition(config.get(key))), None)
    if definition is None:
        raise NetworkError(
            f"bundle {folder.name}: its configuration has no network_def with a _target_; write "
            "network.factory and network.arguments yourself"
        )
    resolved = {
        key: _plain(value, config, folder) for key, value in definition.items() if not key.startswith("_")
    }
    return {
        "factory": _factory(str(definition["_target_"]), folder),
        "arguments": resolved,
        "weights": str(_weights(folder)),
    }


def _config(folder: Path) -> Mapping[str, Any]:
    if not (folder / "configs").is_dir():
        raise NetworkError(f"network.bundle = {str(folder)!r}: there is no folder configs in it")
    for name in _NAMES:
        for suffix in (".json", ".yaml", ".yml"):
            path = folder / "configs" / (name + suffix)
            if path.is_file():
                found = _parsed(path)
                if isinstance(found, Mapping):
                    return found
                raise NetworkError(f"bundle {folder.name}: configs/{path.name} is damaged")
    raise NetworkError(f"bundle {folder.name}: no configs/{' or '.join(_NAMES)}.json or .yaml")


def _parsed(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _is_definition(value: object) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _plain(value: Any, config: Mapping[str, Any], folder: Path, depth: int = 0) -> Any:
    """The value, its references followed."""
    if isinstance(value, str) and value.startswith("@") and depth < 10:
        found: Any = config
        for part in value[1:].replace("#", "::").split("::"):
            if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, Mapping) and part in found:
                found = found[part]
            else:
                raise NetworkError(f"bundle {folder.name}: {value!r} refers to nothing")
        return _plain(found, config, folder, depth + 1)
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        raise NetworkError(
            f"bundle {folder.name}: {value!r} in its network_def is code, which is not run; write "
            "network.factory, network.arguments and network.weights yourself"
        )
    if _is_definition(value):
        raise NetworkError(
            f"bundle {folder.name}: its network_def holds another object ({value['_target_']}); write a "
            "factory of your own"
        )
    if isinstance(value, list):
        return [_plain(item, config, folder, depth) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item, config, folder, depth) for key, item in value.items()}
    return value


def _factory(target: str, folder: Path) -> str:
    """module:callable; MONAI lets bundles leave its modules out."""
    module, _, name = target.rpartition(".")
    if not module:
        from monai.networks import nets

        if hasattr(nets, name):
            return f"monai.networks.nets:{name}"
    elif any(f"{module}.".startswith(f"{library}.") for library in _LIBRARIES):
        return f"{module}:{name}"
    raise NetworkError(
        f"bundle {folder.name}: its network is {target!r}, no network of MONAI's or nnU-Net's; if you trust "
        "that code, write network.factory, network.arguments and network.weights yourself"
    )


def _weights(folder: Path) -> Path:
    for name in ("model.pt", "model.safetensors", "model.pth"):
        if (folder / "models" / name).is_file():
            return folder / "models" / name
    programs = [path.name for path in (folder / "models").glob("*.ts")]
    what = f"only a TorchScript program ({programs[0]})" if programs else "no weights"
    raise NetworkError(f"bundle {folder.name}: models/ holds {what}; models/model.pt is needed")
