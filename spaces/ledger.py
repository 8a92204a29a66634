"""What a forward pass computes and keeps alive, written down in channel ids while it is traced."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from spaces.channels import Dims, Ids

Size: TypeAlias = int | Ids
"""A size that no gene changes, or the ids of the channels that make it up."""


@dataclass(eq=False)
class Storage:
    """Memory of an activation: bytes per element, shape, and the steps in which it lives."""

    bytes_each: int
    sizes: Sequence[Size]
    born: int
    last_used: int


@dataclass(eq=False)
class Ledger:
    """FLOPs and activations of one pass; turned into polynomials once the groups are known.

    An activation is born with the operator that makes it and dies after the last operator that reads it;
    views and in-place results live in the storage they share. Parameters and buffers are not activations.
    """

    flops: list[tuple[int, Sequence[Size]]] = field(default_factory=list)
    _by_address: dict[int, Storage | None] = field(default_factory=dict)
    _alive: list[StorageWeakRef] = field(default_factory=list)  # keeps addresses from being used again
    _step: int = 0

    def own(self, tensors: Iterable[Tensor]) -> None:
        """These are the network's, and no activations."""
        for tensor in tensors:
            self._by_address[self._address(tensor)] = None

    def step(self, inputs: Iterable[Tensor], outputs: Iterable[tuple[Tensor, Dims]]) -> None:
        """An operator ran."""
        self._step += 1
        for tensor in inputs:
            self._use(tensor, tuple(tensor.shape))
        for tensor, dims in outputs:
            self._use(tensor, sizes(tensor, dims))

    @property
    def storages(self) -> list[Storage]:
        """Every activation, in the order of birth."""
        return [storage for storage in self._by_address.values() if storage is not None]

    def steps(self) -> list[list[Storage]]:
        """What is alive in each step."""
        alive: list[list[Storage]] = [[] for _ in range(self._step)]
        for storage in self.storages:
            for step in range(storage.born, storage.last_used + 1):
                alive[step - 1].append(storage)
        return alive

    def _use(self, tensor: Tensor, size: Sequence[Size]) -> None:
        address = self._address(tensor)
        storage = self._by_address.setdefault(
            address, Storage(tensor.element_size(), size, self._step, self._step)
        )
        if storage is not None:
            storage.last_used = self._step

    def _address(self, tensor: Tensor) -> int:
        reference = StorageWeakRef(tensor.untyped_storage())
        if reference.cdata not in self._by_address:
            self._alive.append(reference)
        return reference.cdata


def sizes(tensor: Tensor, dims: Dims) -> list[Size]:
    """The tensor's shape with ids in place of what is tracked."""
    return [n if ids is None else ids for n, ids in zip(tensor.shape, dims, strict=True)]
