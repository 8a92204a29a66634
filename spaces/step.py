"""One executed operator, as its rule sees it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from spaces.channels import Dims, Ids
from spaces.ledger import Size

if TYPE_CHECKING:
    from spaces.tracer import Tracer

Rule: TypeAlias = Callable[["Step"], Sequence[Dims]]
"""Dims of an operator's outputs, in order; outputs that it leaves out are untracked."""

Site: TypeAlias = tuple[str, int]
"""A reshape: the module in which it runs, and which one it is there."""


@dataclass(frozen=True, slots=True)
class Step:
    """One executed operator, as its rule sees it."""

    tracer: "Tracer"
    func: torch._ops.OpOverload
    values: Mapping[str, Any]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    def __getitem__(self, argument: str) -> Any:
        return self.values[argument]

    def get(self, argument: str) -> Any:
        """The argument's value; None where this overload has no such argument."""
        return self.values.get(argument)

    @property
    def out(self) -> Tensor:
        """The first output."""
        return self.outputs[0]

    @property
    def where(self) -> str:
        """For reasons: the operator and the module in which it runs."""
        name = self.func.overloadpacket.__name__
        return f"{name} in {self.tracer.path}" if self.tracer.path else name

    def dims(self, tensor: Tensor) -> Dims:
        """The ids along each of its dimensions."""
        return self.tracer.dims(tensor)

    def tie(self, left: Ids | None, right: Ids | None, why: str = "meets channels that are given") -> None:
        """These go together, position by position; what meets untracked channels must stay."""
        if left is None or right is None:
            self.freeze(right if left is None else left, why)
        else:
            self.tracer.graph.tie(left, right, f"{why} ({self.where})")

    def tie_rows(self, rows: Ids) -> Ids:
        """Every row goes together as one; the first id of each row."""
        return self.tracer.graph.tie_rows(rows, f"goes together with channels that are given ({self.where})")

    def freeze(self, ids: Ids | None, why: str) -> None:
        """These must stay."""
        self.tracer.graph.freeze(ids, f"{why} ({self.where})")

    def fix(self, ids: Ids | None) -> None:
        """These stay by nature, as the width of a kernel: no news for anyone."""
        self.tracer.graph.freeze(ids, None)

    def produced(self, ids: Ids | None) -> None:
        """These channels are made here: the first to make a channel names its group."""
        if ids is not None:
            self.tracer.produced.append(ids)

    def flops(self, coefficient: int, factors: Sequence[Size]) -> None:
        """This operator costs the product."""
        if self.tracer.ledger is not None:
            self.tracer.ledger.flops.append((coefficient, factors))

    def states_size(self, ids: Ids | None) -> None:
        """The running module states this number of channels in an attribute, and has no tensor of it."""
        if ids is not None:
            self.tracer.stated.setdefault(self.tracer.path, ids)


def bind(func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The operator's arguments by their names in its schema, and as given under "*" and "**"."""
    names, defaults = _signature(func)
    return {**defaults, **dict(zip(names, args, strict=False)), **kwargs, "*": args, "**": kwargs}


@cache
def _signature(func: torch._ops.OpOverload) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of its arguments, and all of them with their default values."""
    arguments = func._schema.arguments
    return tuple(a.name for a in arguments), {a.name: a.default_value for a in arguments}
