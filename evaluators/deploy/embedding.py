"""Features of a saved network over a source of images, as a Parquet table without patients' data."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor, nn

from evaluators.data.normalisation import Normalisation
from evaluators.data.patients import anonymous
from evaluators.data.sources import load_splits
from evaluators.data.splits import Splits, Subset
from evaluators.deploy.description import NetworkDescription
from evaluators.deploy.files import write_bytes
from evaluators.deploy.saving import load_network, read_description
from evaluators.named import short
from evaluators.settings import DataSettings
from evaluators.stepwise import Progress
from evaluators.tasks.heads import main_output
from evaluators.tasks.judged import run_in_batches
from spaces.errors import ConfigError, DataError, NetworkError, did_you_mean

Split: TypeAlias = Literal["train", "val", "test"]

USUAL: tuple[Split, ...] = ("train", "val")


def embed(
    folder: str | Path,
    data: DataSettings,
    out: str | Path,
    *,
    splits: Sequence[Split] = USUAL,
    layer: str | None = None,
    factory: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a network's features of images, one row a case.

    The columns: "split", "case" (index in the split), "patient" (salted hash, the same for one patient on
    this installation; null where unknown) and "feature_0", ... float32. No label, name or path.

    Args:
        folder: A saved network.
        data: The images; they are prepared and normalised as the network was trained.
        out: The Parquet file.
        splits: Which of the source's.
        layer: Path of the module whose output is averaged over its pixels; by default the output of an
            embedding network, and what the last linear layer of others is given.
        factory: As for `load`.
        progress: Told of every batch, in cases.

    Raises:
        InputError: The network, the images, the layer or the file cannot be used.
    """
    about = read_description(folder)
    network = load_network(folder, factory=factory)
    images = load_splits(_as_trained(data, about))
    if (channels := about.input_shape[0]) != images.channels:
        raise DataError(f"{images.name} has {images.channels} channels; the network takes {channels}")
    subsets = {split: _subset(images, split) for split in splits}
    done, total = 0, sum(map(len, subsets.values()))

    def seen(cases: int) -> None:
        nonlocal done
        done += cases
        if progress:
            progress(done, total)

    parts = [
        _rows(network, subset, split, images.name, about, layer, seen) for split, subset in subsets.items()
    ]
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    write_bytes(Path(out), _parquet(table))
    return Path(out)


def _as_trained(data: DataSettings, about: NetworkDescription) -> DataSettings:
    """The settings with the network's own preparation."""
    mode = (about.normalisation or {}).get("mode", data.normalise)
    return DataSettings.model_validate(data.model_dump() | {"normalise": mode} | about.preparation)


def _subset(images: Splits, split: Split) -> Subset:
    if split == "test" and not images.n_test:
        raise DataError(f"{images.name} has no test images")
    return images.open_test() if split == "test" else getattr(images, split)


def _rows(
    network: nn.Module,
    subset: Subset,
    split: str,
    source: str,
    about: NetworkDescription,
    layer: str | None,
    seen: Callable[[int], None],
) -> dict[str, np.ndarray]:
    given = dict(about.normalisation or Normalisation.of(subset, "none").describe())
    data = Normalisation(**given).apply(subset)
    with _watched(network, about, layer) as found:
        parts = []
        try:
            for outputs, _ in run_in_batches(network, data):
                parts.append(_pooled(found.pop() if found else main_output(outputs)).numpy())
                seen(len(parts[-1]))
        except RuntimeError as error:
            shape = " x ".join(map(str, subset.images.shape[1:]))
            raise NetworkError(f"the network does not take images of {shape}: {short(error)}") from error
    features = np.concatenate(parts)
    patients: Any = np.full(len(subset), None, dtype=object)
    if subset.groups is not None:
        names = anonymous([f"{source}/{group}" for group in subset.groups])
        patients = np.array([f"{name:016x}" for name in names], dtype=object)
    return {
        "split": np.full(len(subset), split, dtype=object),
        "case": np.arange(len(subset), dtype=np.int64),
        "patient": patients,
        **{f"feature_{i}": features[:, i] for i in range(features.shape[1])},
    }


@contextmanager
def _watched(network: nn.Module, about: NetworkDescription, layer: str | None) -> Iterator[list[Tensor]]:
    """A list that the features of a batch are put into; empty after a batch: they are the output."""
    found: list[Tensor] = []
    if layer is None and about.task == "embedding":
        yield found
        return
    modules = dict(network.named_modules())
    if layer is None:
        linear = [module for module in modules.values() if isinstance(module, nn.Linear)]
        if not linear:
            raise ConfigError(
                "the network has no linear layer whose input its features would be; name a layer with "
                f"--layer, as {next(reversed(modules))}"
            )
        handle = linear[-1].register_forward_pre_hook(lambda _, given: found.append(given[0]))
    elif layer not in modules or not layer:
        raise ConfigError(f"--layer {layer!r}: no such module; {did_you_mean(layer, filter(None, modules))}")
    else:
        handle = modules[layer].register_forward_hook(lambda _, __, given: found.append(main_output(given)))
    try:
        yield found
    finally:
        handle.remove()


def _pooled(features: Tensor) -> Tensor:
    """(batch, width, ...) -> (batch, width) float32: averaged over pixels."""
    features = features.float()
    return features.flatten(2).mean(2) if features.ndim > 2 else features.reshape(len(features), -1)


def _parquet(table: dict[str, np.ndarray]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    kinds = {"split": pyarrow.string(), "patient": pyarrow.string()}
    columns = {name: pyarrow.array(values, type=kinds.get(name)) for name, values in table.items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return bytes(sink.getvalue().to_pybytes())
