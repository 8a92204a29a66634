"""The user's network: built by their own factory, with their own weights. No weights file can run code."""

import copy
import hashlib
import importlib.metadata
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluators.named import find_callable, short
from evaluators.settings import NetworkSettings
from spaces.errors import NetworkError, did_you_mean

STATE_KEYS = ("state_dict", "model_state_dict", "network_weights", "model")
"""Where checkpoints keep their state dict, when `weights_key` does not say."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and training frameworks put before every key."""

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt")
_SHOWN = 3
"""How many keys of a kind an error names."""


@dataclass(frozen=True)
class LoadReport:
    """How weights fit a network.

    Attributes:
        loaded: Number of tensors taken.
        prefix: What was stripped from the keys.
        missing: Keys of the network that the file has not; after a successful load only batch counters.
        unexpected: Keys of the file that were left out; after a successful load only those beside `prefix`.
        mismatched: Keys with another shape, with both shapes; none after a successful load.
    """

    loaded: int
    prefix: str = ""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()


def build_network(settings: NetworkSettings, seed: int = 0) -> tuple[nn.Module, LoadReport | None]:
    """Call the factory with its arguments, and load the weights if there are any.

    The current directory is importable. Parameters that the factory draws come from `seed`; the caller's
    random state stays as it is.

    Raises:
        NetworkError: The factory cannot be imported, fails, or returns no module; the weights do not fit.
    """
    factory = find_callable(settings.factory, "network.factory", NetworkError)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = factory(**copy.deepcopy(settings.arguments))
    except Exception as error:
        raise NetworkError(f"network.factory = {settings.factory!r} failed: {short(error)}") from error
    if not isinstance(network, nn.Module):
        found = type(network).__name__
        raise NetworkError(f"network.factory = {settings.factory!r} returned {found}, not a torch.nn.Module")
    if settings.weights is None:
        return network, None
    weights = read_weights(settings.weights, settings.weights_key)
    return network, load_weights(network, weights, Path(settings.weights).name)


def code_of(network: nn.Module, settings: NetworkSettings, *others: str | None) -> dict[str, str]:
    """What computes the network's outputs besides its weights: by module, a version or a hash of the source.

    Installed packages count by their version, all other files by their content, so that an edited `forward`
    is another network. `others` are further things of the form module:callable that take part.
    """
    names = {type(module).__module__ for module in network.modules()}
    names |= {given.partition(":")[0] for given in (settings.factory, *others) if given}
    installed = importlib.metadata.packages_distributions()
    found: dict[str, str] = {}
    for name in sorted(names):
        file = getattr(sys.modules.get(name), "__file__", None)
        top = name.partition(".")[0]
        if file is not None and "site-packages" not in Path(file).parts:
            found[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        elif top in installed:
            found[top] = importlib.metadata.version(installed[top][0]).partition("+")[0]
    return found


def read_weights(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU, keys as they are.

    Args:
        path: A .safetensors file, or a .pt, .pth or .ckpt file of tensors and plain values: it is read in
            torch's weights-only mode, which runs no code.
        key: Where in the checkpoint, dots for each level; by default the file's own state dict, or one
            under a usual name (`STATE_KEYS`).
    """
    path = Path(path).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        if key is not None:
            raise NetworkError(
                f"network.weights_key = {key!r}: a .safetensors file has no such levels; remove it"
            )
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise NetworkError(
                f"{path.name}: no readable .safetensors file, or torn: {short(error)}"
            ) from None
    checkpoint = read_checkpoint(path, "network.weights")
    found = state_dict_of(checkpoint, path.name) if key is None else _descend(checkpoint, key, path.name)
    if not _is_state_dict(found):
        raise NetworkError(f"{path.name}: {key!r} is no state dict; {_contents(found)}")
    return dict(found)


def read_checkpoint(path: Path, setting: str) -> Any:
    """What a .pt, .pth or .ckpt file of tensors and plain values holds, on the CPU; no code is run.

    Raises:
        NetworkError: No such file, of another kind, torn, or one that holds code. `setting` names it.
    """
    if not path.is_file():
        raise NetworkError(f"{setting} = {str(path)!r}: there is no such file")
    if path.suffix not in TORCH_SUFFIXES:
        known = ", ".join((".safetensors", *TORCH_SUFFIXES))
        raise NetworkError(f"{setting} = {path.name!r}: the name must end in one of {known}")
    return _load_torch(path)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], name: str = "weights") -> LoadReport:
    """Load a state dict into a network of just this architecture, in place.

    Prefixes of wrappers are stripped when that makes keys match; what lies beside such a prefix (a loss with
    weights of its own) is left out. Batch counters of norm layers may be missing.

    Raises:
        NetworkError: Keys are missing or left over, shapes differ, or values are not finite.
    """
    own = network.state_dict()
    prefix, stripped = _strip(weights, own)
    aliases = {_address(own[key]) for key in own.keys() & stripped.keys()}
    missing = [key for key in own if key not in stripped and _address(own[key]) not in aliases]
    inside = [key for key in stripped if key not in own]
    beside = [key for key in weights if prefix and not key.startswith(prefix)]
    mismatched = [
        f"{key} is {_shape(tensor)}, the network has {_shape(own[key])}"
        for key, tensor in stripped.items()
        if key in own and tensor.shape != own[key].shape
    ]
    fatal = [key for key in missing if not key.endswith("num_batches_tracked")]
    if fatal or inside or mismatched:
        raise NetworkError(
            f"{name}: not the weights of this network: {_listing(fatal, 'missing')}; "
            f"{_listing(inside, 'unexpected')}; {_listing(mismatched, 'of another shape')}"
        )
    for key, tensor in stripped.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NetworkError(f"{name}: {key} holds values that are NaN or infinite")
    network.load_state_dict(stripped, strict=False)
    return LoadReport(len(stripped), prefix, tuple(missing), tuple(beside))


def _load_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_numpy_globals()), warnings.catch_warnings():
            # A TorchScript archive: refused right after the warning.
            warnings.filterwarnings("ignore", message="'torch.load' received a zip file")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise NetworkError(f"{path.name}: no readable checkpoint, or torn: {short(error)}") from None
        raise NetworkError(
            f"{path.name}: holds pickled code ({refused[1]}), which is never run; save only "
            "model.state_dict(), with torch.save or as .safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if "TorchScript" in str(error):
            raise NetworkError(f"{path.name}: is a TorchScript program; save only its state_dict()") from None
        raise NetworkError(f"{path.name}: no readable checkpoint, or torn: {short(error)}") from None


def _numpy_globals() -> list[Any]:
    """What NumPy scalars in Lightning's, MONAI's and nnU-Net's checkpoints are made of; data, not code."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    return [np.dtype, *dtypes, scalar, (scalar, "numpy.core.multiarray.scalar")]


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def state_dict_of(checkpoint: object, name: str) -> Any:
    """The state dict in a checkpoint: itself, or under a usual name (`STATE_KEYS`)."""
    if _is_state_dict(checkpoint):
        return checkpoint
    if isinstance(checkpoint, Mapping):
        for key in STATE_KEYS:
            if _is_state_dict(checkpoint.get(key)):
                return checkpoint[key]
    raise NetworkError(
        f"{name}: no state dict found; {_contents(checkpoint)}; name it with network.weights_key"
    )


def _descend(checkpoint: object, key: str, name: str) -> Any:
    found: Any = checkpoint
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            keys = [str(k) for k in found] if isinstance(found, Mapping) else []
            hint = did_you_mean(part, keys) if 0 < len(keys) <= 50 else _contents(found)
            raise NetworkError(f"{name}: has no {key!r} (network.weights_key); {hint}")
        found = found[part]
    return found


def _contents(value: object) -> str:
    if not isinstance(value, Mapping):
        return f"it holds {type(value).__name__}"
    keys = [str(key) for key in value]
    return f"it holds {', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}" if keys else "it is empty"


def _strip(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The prefix, put together from `PREFIXES`, behind which most of the network's keys are found."""
    best, best_found = "", dict(weights)
    candidates = [best]
    for prefix in candidates:  # grows while it is walked: wrappers are nested
        found = {key[len(prefix) :]: tensor for key, tensor in weights.items() if key.startswith(prefix)}
        if len(found.keys() & own.keys()) > len(best_found.keys() & own.keys()):
            best, best_found = prefix, found
        candidates += [prefix + more for more in PREFIXES if any(key.startswith(more) for key in found)]
    return best, best_found


def _address(tensor: Tensor) -> tuple[object, ...]:
    """The same for parameters that are tied, of which a file may hold only one."""
    return (tensor.data_ptr() or id(tensor), tuple(tensor.shape), tensor.stride())


def _listing(items: list[str], what: str) -> str:
    shown = ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
    return f"{len(items)} {what}" + (f" ({shown})" if items else "")


def _shape(tensor: Tensor) -> str:
    return " x ".join(str(n) for n in tensor.shape) or "a number"
