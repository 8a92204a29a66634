"""The channel space: which groups of channels a network has, what may be kept, and what it then costs.

NumPy only: a space knows no modules and no tensors, just their names, so it travels to workers and lives in
the search process, which loads no torch.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np

from spaces.costs import CostModel, Costs, Form, Term
from spaces.errors import InputError
from spaces.latency import LatencyModel
from spaces.messages import Genome

SIZE = "#size"  # ends the name of an axis that has no tensor: a module only states its length
ROUND_TO = 8  # default multiple of channels, for groups of at least ROUND_FROM channels
ROUND_FROM = 32
_COUNTABLE = 20_000  # genomes of a space that are counted one by one, where branches may fall


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channel units of one role, ranked against each other: one gene.

    Attributes:
        name: Path of the module that produces its channels; stable, readable, unique in the space.
        units: Number of units in the dense network.
        channels: Channels of the producer that the units hold together, in the dense network.
        members: Paths of the modules it runs through, in the network's order.
        choices: Legal numbers of kept units, ascending; the last is `units`.
    """

    name: str
    units: int
    channels: int
    members: tuple[str, ...]
    choices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Frozen:
    """Channels of a module that cannot be pruned, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """To which unit each position along one dimension of one tensor belongs.

    Attributes:
        tensor: Name of the parameter or buffer; a module without either, whose attributes state a size, has
            its path and "#size" instead.
        dim: The dimension.
        units: Unit of each position, numbered through all groups in order; -1 is always kept. int32.
    """

    tensor: str
    dim: int
    units: np.ndarray


@dataclass(frozen=True, eq=False)
class ChannelSpace:
    """All networks that pruning can make of one dense network. Immutable and picklable.

    Attributes:
        groups: One per gene.
        frozen: What is not in any group, and why.
        axes: Where the units lie in the network's tensors; surgery and ranking read it.
        costs: Prices genomes.
        falls: Per group, the groups (itself included) of a branch that keep nothing where it keeps nothing;
            empty for those that must keep something. Without entries where no group may fall.
        dropped: Paths of modules that are the identity in every pruned network, on request.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...] = ()
    axes: tuple[Axis, ...] = field(default=(), repr=False)
    costs: CostModel = field(default=CostModel.compile(0, (), (), ()), repr=False)
    falls: tuple[tuple[int, ...], ...] = ()
    dropped: tuple[str, ...] = ()

    @classmethod
    def chain(
        cls, widths: Sequence[int], *, inputs: int = 1, outputs: int = 2, pixels: int = 64, round_to: int = 1
    ) -> "ChannelSpace":
        """The space of a plain chain of 3x3 convolutions of these widths, without any network: for tests.

        Convolution i takes the channels of i - 1; the last one's are mapped to `outputs` by a 1x1
        convolution. Every feature map has `pixels` positions; values are float32; there are no biases.
        """
        groups = tuple(
            ChannelGroup(f"conv{i}", width, width, (f"conv{i}", f"conv{i + 1}"), choices(width, 1, round_to))
            for i, width in enumerate(widths)
        )
        sizes = [Form(inputs), *(Form(0, ((i, 1),)) for i in range(len(widths))), Form(outputs)]
        taps = [9] * len(widths) + [1]
        layers = list(zip(pairwise(sizes), taps, strict=True))
        model = CostModel.compile(
            len(groups),
            flops=[Term.product(2 * tap * pixels, pair) for pair, tap in layers],
            params=[Term.product(tap, pair) for pair, tap in layers],
            activation_steps=[[Term.product(4 * pixels, [s]) for s in pair] for pair, _ in layers],
        )
        return cls(groups, costs=model)

    @cached_property
    def dense(self) -> Genome:
        """Everything kept."""
        return tuple(group.units for group in self.groups)

    @cached_property
    def minimal(self) -> Genome:
        """The least that may be kept, in every group."""
        return tuple(group.choices[0] for group in self.groups)

    @cached_property
    def size(self) -> int:
        """Number of genomes; no more than a bound from above where branches may fall in a large space."""
        product = math.prod(len(group.choices) for group in self.groups)
        if not any(self.falls) or product > _COUNTABLE:
            return product
        genomes = np.array(list(itertools.product(*(group.choices for group in self.groups))))
        return len(np.unique(self.settled(genomes), axis=0))

    @cached_property
    def offsets(self) -> np.ndarray:
        """First unit of each group in the numbering through all groups, and the total: (n_groups + 1,)."""
        return np.concatenate([[0], np.cumsum([group.units for group in self.groups])]).astype(np.int64)

    @cached_property
    def vectors(self) -> tuple[tuple[np.ndarray, ...], tuple[int, ...]]:
        """The distinct vectors of units on the axes, and which of them each axis has."""
        number: dict[bytes, int] = {}
        place = tuple(number.setdefault(axis.units.tobytes(), len(number)) for axis in self.axes)
        first = {i: axis.units for axis, i in reversed(list(zip(self.axes, place, strict=True)))}
        return tuple(first[i] for i in range(len(number))), place

    def sample(self, rng: np.random.Generator) -> Genome:
        """A random genome: each gene uniform over its choices, independently; then branches fall."""
        return self._settle([group.choices[rng.integers(len(group.choices))] for group in self.groups])

    def uniform(self, ratio: float) -> Genome:
        """The genome that keeps about `ratio` of the units in every group.

        Raises:
            InputError: The ratio is not within 0 and 1.
        """
        if not 0 <= ratio <= 1:
            raise InputError(f"the kept ratio must lie within 0 and 1, not {ratio}")
        return self._settle([_nearest(group.choices, ratio * group.units) for group in self.groups])

    def clip(self, genome: Sequence[float]) -> Genome:
        """The nearest legal genome, gene by gene; of two equally near choices the larger.

        Raises:
            InputError: The genome has another length than the space.
        """
        self._check_length(genome)
        return self._settle(
            [_nearest(g.choices, value) for g, value in zip(self.groups, genome, strict=True)]
        )

    def check(self, genome: Sequence[int]) -> Genome:
        """The genome as a tuple of plain integers, in which branches have fallen (see `settled`).

        Raises:
            InputError: Another length than the space, or a value that is no legal choice of its group.
        """
        self._check_length(genome)
        for group, value in zip(self.groups, genome, strict=True):
            if value not in group.choices:
                raise InputError(_complaint(group, value))
        return self._settle(genome)

    def settled(self, counts: np.ndarray) -> np.ndarray:
        """Genomes (n, n_groups) in which nothing is kept of a branch of which some group keeps nothing.

        What several genomes would stand for is one network, and has one genome: this one.
        """
        falling = [gene for gene, falls in enumerate(self.falls) if falls]
        if not falling:
            return counts
        settled = counts.copy()
        for gene in falling:
            settled[np.ix_(counts[:, gene] == 0, self.falls[gene])] = 0
        return settled

    def cost(self, genomes: Sequence[int] | Sequence[Sequence[int]] | np.ndarray) -> Costs:
        """Exact costs of one genome or of n genomes (n, n_groups); any kept counts from 0 to dense.

        Legal choices are not asked for, so that relaxations can be priced too; FLOPs of an
        illegal genome are the formula's value.

        Raises:
            InputError: Another length than the space, a negative value, or one above dense.
        """
        counts = np.asarray(genomes, dtype=float)
        if counts.size == 0 and self.groups:
            counts = counts.reshape(0, len(self.groups))
        counts = np.atleast_2d(counts)
        if counts.ndim != 2 or counts.shape[1] != len(self.groups):
            raise InputError(f"genomes have {len(self.groups)} genes here, not {counts.shape[-1]}")
        wrong = ~((counts >= 0) & (counts <= np.array(self.dense, dtype=float)))
        if wrong.any():
            row, gene = np.argwhere(wrong)[0]
            raise InputError(_complaint(self.groups[gene], counts[row, gene]))
        return Costs(self.costs, self.expand(counts))

    def timed(self, latency: LatencyModel) -> Self:
        """The same space, its genomes priced in milliseconds as well; the fingerprint stays."""
        return replace(self, costs=replace(self.costs, latency=latency))

    @property
    def fine(self) -> "ChannelSpace":
        """The space with one gene for every group: this one, unless groups are tied."""
        return self

    def expand(self, counts: np.ndarray) -> np.ndarray:
        """Genomes as genomes of `fine`: (n, n_genes) -> (n, n_groups)."""
        return self.settled(counts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides what a genome means: groups, choices, where units lie, and costs."""
        digest = hashlib.sha256()
        for part in self._identity():
            digest.update(f"{len(part)}:".encode())
            digest.update(part)
        return digest.hexdigest()

    def _identity(self) -> Iterator[bytes]:
        for group in self.groups:
            yield repr((group.name, group.units, group.channels, group.members, group.choices)).encode()
        for axis in self.axes:
            yield f"{axis.tensor}[{axis.dim}]".encode()
            yield axis.units.astype("<i4").tobytes()
        for polynomial in (self.costs.flops, self.costs.params):
            yield polynomial.quadratic.astype("<f8").tobytes()
            for coefficient, rows in polynomial.higher:
                yield np.append(rows.ravel(), coefficient).astype("<f8").tobytes()
        peak = self.costs.activation_bytes
        for array in (peak.forms, peak.products, peak.steps):
            yield array.astype("<f8").tobytes()
        if any(self.falls):
            yield repr(self.falls).encode()
        if self.dropped:
            yield repr(self.dropped).encode()

    def _settle(self, genome: Sequence[int]) -> Genome:
        if any(self.falls):
            genome = self.settled(np.array([genome]))[0].tolist()
        return tuple(int(value) for value in genome)

    def _check_length(self, genome: Sequence[float]) -> None:
        if len(genome) != len(self.groups):
            raise InputError(f"a genome has {len(self.groups)} genes here, not {len(genome)}")


def choices(units: int, channels_per_unit: int, round_to: int | None = None) -> tuple[int, ...]:
    """Legal kept counts of a group: those whose channels are multiples of `round_to`, and all of it.

    Args:
        units: Units in the dense network.
        channels_per_unit: Channels of the producer that one unit holds.
        round_to: The multiple; by default 8 for groups of at least 32 channels and 1 for smaller ones.
    """
    if round_to is None:
        round_to = ROUND_TO if units * channels_per_unit >= ROUND_FROM else 1
    step = round_to // math.gcd(round_to, channels_per_unit)
    return (*range(step, units, step), units)


def _nearest(legal: tuple[int, ...], value: float) -> int:
    return min(reversed(legal), key=lambda choice: abs(choice - value))


def _complaint(group: ChannelGroup, value: float) -> str:
    shown = ", ".join(map(str, group.choices[:3])) + (", ..." if len(group.choices) > 4 else "")
    legal = f"{shown}, {group.units}" if len(group.choices) > 3 else ", ".join(map(str, group.choices))
    return f"group {group.name!r} cannot keep {value:g} of {group.units} units; choose one of {legal}"
