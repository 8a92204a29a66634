"""A folder that holds a network: weights without pickle, and a description that rebuilds it.

::

    FOLDER/network.safetensors    parameters and buffers by name, shared ones once
    FOLDER/network.json           what made the network, what surgery changed, what the network is for

Loading imports the network's factory and calls it, nothing else; whoever made the folder cannot name any code
but that of the libraries in `LIBRARIES`, unless the caller names the very same factory.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from evaluators.deploy.description import NetworkDescription
from evaluators.deploy.files import read_bytes, write_bytes
from evaluators.identity import fingerprint_of
from evaluators.named import find_callable, short
from evaluators.networks import build_network
from evaluators.settings import NetworkSettings
from spaces.changes import Changes, changes_between, rebuild
from spaces.clone import clone_with, named_tensors
from spaces.errors import NetworkError
from spaces.tracer import find_tensors

FORMAT = 1
"""Raise it with every change after which this version's files mean something else."""

WEIGHTS, DESCRIPTION = "network.safetensors", "network.json"

LIBRARIES = ("monai.networks.nets", "dynamic_network_architectures.architectures", "evaluators.nnunet")
"""Whose factories a folder may name without the caller's word: they build networks, and do nothing else."""

TOLERANCE = 1e-3
"""How far a rebuilt network's answers may be from those when it was saved, in units of the largest."""

_NOTED = 32


def save_network(folder: str | Path, network: nn.Module, description: NetworkDescription) -> Path:
    """Write a network into a folder, from where `load_network` rebuilds it.

    It is rebuilt at once, and must give what the network gives, so that what is saved can be loaded. The
    network is not changed.

    Args:
        folder: Made if it is not there; files of an earlier save are replaced.
        network: Pruned by surgery (or dense), and perhaps trained since.
        description: What is known about it; its factory must make the dense network.

    Raises:
        NetworkError: The factory does not make this network.
        InputError: The folder cannot be written.
    """
    folder = Path(folder)
    host = clone_with(network, lambda _, tensor: tensor.detach().cpu().clone()).eval()
    made = _made(description)
    changes = changes_between(made, host)
    weights = _weights(made, host)
    twin = rebuild(made, changes, weights)
    noted = _answers(host, description)
    if not _alike(noted, _answers(twin, description)):
        raise NetworkError(
            f"network.factory = {description.factory!r}: rebuilt from it, the network answers otherwise; "
            "what it computes depends on more than its parameters, buffers and plain attributes"
        )
    content = save_safetensors({name: tensor.contiguous() for name, tensor in weights.items()})
    record = {
        "format": FORMAT,
        "network": description.model_dump(mode="json"),
        "changes": {
            "attributes": {path: dict(values) for path, values in changes.attributes.items()},
            "standins": dict(changes.standins),
            "dropped": list(changes.dropped),
        },
        "answers": noted,
        "versions": _versions(description.factory),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }
    text = json.dumps(record | {"sha256": fingerprint_of(record)}, indent=1)
    write_bytes(folder / WEIGHTS, content)
    write_bytes(folder / DESCRIPTION, text.encode())
    return folder


def load_network(folder: str | Path, *, factory: str | None = None, check: bool = True) -> nn.Module:
    """Rebuild a saved network, in eval mode on the CPU. No pickle is read.

    Args:
        folder: What `save_network` wrote.
        factory: Needed where the network's factory is code of your own: its name, as in the campaign file.
            That module is then imported and called.
        check: Run it once, and compare with its answers when it was saved: another version of its library
            may compute something else.

    Raises:
        NetworkError: The folder is not there, torn, changed by hand, of an unknown version, or its network
            can no longer be made.
    """
    record = _read(Path(folder))
    description = _description(record, Path(folder))
    where = f"{Path(folder).name}/{DESCRIPTION}"
    _may_import(description.factory, factory, where)
    content = read_bytes(Path(folder) / WEIGHTS)
    if hashlib.sha256(content).hexdigest() != record["weights_sha256"]:
        raise NetworkError(
            f"{WEIGHTS} is torn, or not the one that {where} describes; save or copy both again"
        )
    try:
        weights = load_safetensors(content)
        changes = Changes(
            record["changes"]["attributes"],
            record["changes"]["standins"],
            tuple(record["changes"]["dropped"]),
        )
        network = rebuild(_made(description), changes, weights)
    except (SafetensorError, KeyError, TypeError, AttributeError, NetworkError) as error:
        versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        why = str(error) if isinstance(error, NetworkError) else short(error)
        raise NetworkError(f"{where}: {why} (saved with {versions})") from None
    if check and not _alike(record["answers"], _answers(network, description)):
        now = _versions(description.factory)
        then = record["versions"].items()
        changed = [f"{name} {old}, now {now.get(name)}" for name, old in then if now.get(name) != old]
        raise NetworkError(
            f"{where}: the rebuilt network answers otherwise than when it was saved"
            + (f" with {'; '.join(changed)}" if changed else "")
            + "; install what it was saved with, or load it with check=False"
        )
    return network


def read_description(folder: str | Path) -> NetworkDescription:
    """What is known about a saved network; nothing is imported and no weights are read.

    Raises:
        NetworkError: As `load_network`.
    """
    return _description(_read(Path(folder)), Path(folder))


def _made(description: NetworkDescription) -> nn.Module:
    settings = NetworkSettings(factory=description.factory, arguments=description.arguments)
    return build_network(settings)[0].eval()


def _may_import(named: str, given: str | None, where: str) -> None:
    """Whether the folder's factory may be imported and called."""
    if given is not None:
        if given != named:
            raise NetworkError(f"{where}: its network is made by {named!r}, not by factory = {given!r}")
        return
    known = _is_of_libraries(named.partition(":")[0])
    if known:  # names that such a module has imported from elsewhere are not its own
        known = _is_of_libraries(find_callable(named, where, NetworkError).__module__)
    if not known:
        raise NetworkError(
            f"{where}: its network is made by {named!r}, which is no network of MONAI's or nnU-Net's; if you "
            f"trust that code, load it with factory={named!r}"
        )


def _is_of_libraries(module: str) -> bool:
    return any(f"{module}.".startswith(f"{library}.") for library in LIBRARIES)


def _weights(made: nn.Module, network: nn.Module) -> dict[str, Tensor]:
    """The state, every tensor once, and those buffers outside it that the factory makes otherwise."""
    state = network.state_dict(keep_vars=True).keys()
    fresh = dict(named_tensors(made))
    return {
        name: tensor.detach()
        for name, tensor in named_tensors(network)
        if name in state or name not in fresh or not torch.equal(tensor, fresh[name])
    }


def _answers(network: nn.Module, description: NetworkDescription) -> list[list[float]]:
    """Some numbers of every tensor that the network returns for a fixed image."""
    n = torch.Size(description.input_shape).numel()
    image = torch.sin(torch.arange(n, dtype=torch.float64) * 0.7).reshape(1, *description.input_shape)
    kinds = (tensor.dtype for tensor in network.parameters() if tensor.is_floating_point())
    image = image.to(next(kinds, torch.float32))
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(0)
            return [_some(tensor) for tensor in _floats(network(image))]
    except Exception as error:
        shape = " x ".join(map(str, description.input_shape))
        raise NetworkError(f"the network does not take an image of {shape}: {short(error)}") from error


def _floats(outputs: Any) -> Iterator[Tensor]:
    yield from (tensor for tensor in find_tensors(outputs) if tensor.is_floating_point())


def _some(tensor: Tensor) -> list[float]:
    flat = tensor.double().flatten()
    picked = torch.linspace(0, max(len(flat) - 1, 0), min(_NOTED, len(flat))).long()
    return [float(value) for value in flat[picked]]


def _alike(noted: list[list[float]], found: list[list[float]]) -> bool:
    if [len(one) for one in noted] != [len(one) for one in found]:
        return False
    for one, other in zip(noted, found, strict=True):
        largest = max((abs(value) for value in one), default=0.0)
        if any(abs(a - b) > TOLERANCE * largest + 1e-6 for a, b in zip(one, other, strict=True)):
            return False
    return True


def _versions(factory: str) -> dict[str, str]:
    top = factory.partition(".")[0].partition(":")[0]
    names = {"torch": ["torch"]} | {top: importlib.metadata.packages_distributions().get(top, [])}
    return {name: importlib.metadata.version(found[0]) for name, found in names.items() if found}


def _read(folder: Path) -> dict[str, Any]:
    where = f"{folder.name}/{DESCRIPTION}"
    if not (folder / DESCRIPTION).is_file():
        raise NetworkError(f"{str(folder)!r} holds no saved network: there is no {DESCRIPTION}")
    try:
        record = json.loads(read_bytes(folder / DESCRIPTION))
    except ValueError as error:
        raise NetworkError(f"{where} is torn: {short(error)}") from None
    if not isinstance(record, dict) or "format" not in record:
        raise NetworkError(f"{where} describes no network")
    if record["format"] != FORMAT:
        raise NetworkError(
            f"{where} has format {record['format']!r}; this version reads {FORMAT}: update paretoprune"
        )
    if record.get("sha256") != fingerprint_of({key: record[key] for key in record if key != "sha256"}):
        raise NetworkError(f"{where} was changed since it was saved, or is torn; save or copy it again")
    return record


def _description(record: dict[str, Any], folder: Path) -> NetworkDescription:
    try:
        return NetworkDescription.model_validate(record["network"])
    except (KeyError, ValidationError) as error:
        raise NetworkError(f"{folder.name}/{DESCRIPTION} describes no network: {short(error)}") from None
