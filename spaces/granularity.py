"""Fewer genes: several channel groups that one gene moves together, by the same kept fraction.

A tied space is a channel space like any other for whoever proposes, stores and prices genomes. Its genomes
stand for genomes of the space it was made from, which alone knows where the channels lie: there a ranking
belongs, and there costs are computed, exactly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from spaces.constructors import Constructor
from spaces.errors import InputError, NetworkError, did_you_mean
from spaces.messages import Genome
from spaces.space import ChannelGroup, ChannelSpace, Frozen

Granularity: TypeAlias = Literal["group", "block", "stage"]
GRANULARITIES: tuple[Granularity, ...] = ("group", "block", "stage")


def check_granularity(granularity: str) -> None:
    """Refuse what is none.

    Raises:
        InputError: Names those that there are.
    """
    if granularity not in GRANULARITIES:
        raise InputError(f"unknown granularity {granularity!r}; {did_you_mean(granularity, GRANULARITIES)}")


@dataclass(frozen=True, eq=False)
class Tie:
    """The groups of one gene.

    Attributes:
        groups: Their numbers in the untied space.
        counts: Kept units of each at each choice of the gene, (n_choices, n_groups_of_the_gene).
    """

    groups: tuple[int, ...]
    counts: np.ndarray


@dataclass(frozen=True, eq=False)
class TiedSpace(ChannelSpace):
    """A channel space in which genes move several groups at once.

    `groups` are the genes: each counts the units of its widest group, and names all modules of all.

    Attributes:
        untied: The space with one gene for every group.
        ties: One per gene.
        constructor: How the network's own class builds what is pruned; None where it cannot.
    """

    untied: ChannelSpace = field(default_factory=lambda: ChannelSpace(()), repr=False)
    ties: tuple[Tie, ...] = field(default=(), repr=False)
    constructor: Constructor | None = field(default=None, repr=False)

    @property
    def fine(self) -> ChannelSpace:
        """The space with one gene for every group."""
        return self.untied

    @property
    def offsets(self) -> np.ndarray:
        """First unit of each group of the untied space, and the total."""
        return self.untied.offsets

    def expand(self, counts: np.ndarray) -> np.ndarray:
        """Genomes of the untied space: (n, n_genes) -> (n, n_groups); linear between legal choices."""
        expanded = np.tile(np.array(self.untied.dense, dtype=float), (len(counts), 1))
        for gene, (group, tie) in enumerate(zip(self.groups, self.ties, strict=True)):
            at, values = np.array(group.choices, dtype=float), tie.counts.astype(float)
            if at[0] > 0:  # below the least choice, down to nothing
                at, values = np.append(0.0, at), np.vstack([np.zeros(values.shape[1]), values])
            for column, index in enumerate(tie.groups):
                expanded[:, index] = np.interp(counts[:, gene], at, values[:, column])
        return self.untied.settled(expanded)

    def constructor_arguments(self, genome: Sequence[int]) -> dict[str, Any]:
        """Arguments with which the network's own class builds the pruned network.

        Put over the dense network's arguments, they make a network that takes the pruned one's state dict,
        strictly, and computes the same.

        Raises:
            InputError: The genome is not legal here.
            NetworkError: The class is of no known family, or cannot build just this network.
        """
        genome = self.check(genome)
        if self.constructor is None:
            raise NetworkError(
                "the network's class takes no widths that are known here; known with granularity='stage': "
                "PlainConvUNet, ResidualEncoderUNet, DynUNet, UNet, AttentionUnet, BasicUNet, "
                "BasicUNetPlusPlus, SegResNet, SegResNetDS, ResNet"
            )
        return self.constructor.arguments(fine_genome(self, genome))

    def _identity(self) -> Iterator[bytes]:
        yield self.untied.fingerprint.encode()
        for group, tie in zip(self.groups, self.ties, strict=True):
            yield repr((group.name, group.choices, tie.groups)).encode()
            yield tie.counts.astype("<i4").tobytes()
        yield repr(self.constructor).encode()


def fine_genome(space: ChannelSpace, genome: Sequence[int]) -> Genome:
    """A legal genome of any space as kept units of every group of channels."""
    counts = space.expand(np.asarray([genome], dtype=float))[0]
    return tuple(int(count) for count in counts)


def tied(
    space: ChannelSpace,
    keys: Sequence[str | None],
    *,
    named: bool = False,
    constructor: Constructor | None = None,
) -> TiedSpace:
    """The space in which groups of one key share a gene, in the order of their first groups.

    Args:
        space: One gene for every group.
        keys: A key per group; None for one that stays whole, because the constructor takes no width for it.
        named: Whether genes are called by their keys; else after the modules they hold.
        constructor: For `TiedSpace.constructor`; with it, genes take only fractions that all their groups
            have exactly.
    """
    members: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        if key is not None:
            members.setdefault(key, []).append(index)
    genes, ties = [], []
    taken = {group.name for group in space.groups}
    for key, indices in members.items():
        groups = [space.groups[index] for index in indices]
        lead = max(groups, key=lambda group: group.units)
        name = key if named else _name(groups, taken)
        taken.add(name)
        choices, counts = _choices(lead, groups, exact=constructor is not None)
        modules = tuple(dict.fromkeys(module for group in groups for module in group.members))
        genes.append(ChannelGroup(name, lead.units, lead.channels, modules, choices))
        ties.append(Tie(tuple(indices), counts))
    whole = (group.name for group, key in zip(space.groups, keys, strict=True) if key is None)
    reason = "has a width that the network's constructor does not take"
    return TiedSpace(
        tuple(genes),
        (*space.frozen, *(Frozen(name, reason) for name in whole)),
        space.axes,
        space.costs,
        _falls(space, genes, ties),
        untied=space,
        ties=tuple(ties),
        constructor=constructor,
    )


def _falls(
    space: ChannelSpace, genes: Sequence[ChannelGroup], ties: Sequence[Tie]
) -> tuple[tuple[int, ...], ...]:
    """Per gene, the genes of which nothing is left where it keeps nothing."""
    falls = []
    for gene, tie in zip(genes, ties, strict=True):
        genome = np.array([space.dense])
        if gene.choices[0] == 0:
            genome[0, list(tie.groups)] = tie.counts[0]
        gone = space.settled(genome)[0] == 0
        falls.append(
            tuple(
                i
                for i, other in enumerate(ties)
                if gone[list(other.groups)].all() and genes[i].choices[0] == 0
            )
        )
    return tuple(falls) if any(falls) else ()


def _choices(
    lead: ChannelGroup, groups: Sequence[ChannelGroup], *, exact: bool
) -> tuple[tuple[int, ...], np.ndarray]:
    """Legal kept units of the widest group, and what every group then keeps."""
    choices, rows = [], []
    for kept in lead.choices:
        row = [_same_fraction(group, kept, lead.units) for group in groups]
        fits = all(count * lead.units == kept * group.units for count, group in zip(row, groups, strict=True))
        if not exact or (fits and kept):
            choices.append(kept)
            rows.append(row)
    return tuple(choices), np.array(rows, dtype=np.int64).reshape(len(rows), len(groups))


def _same_fraction(group: ChannelGroup, kept: int, of: int) -> int:
    """The choice nearest to the fraction; a group that may go away goes only where the widest does."""
    legal = [choice for choice in group.choices if choice] if kept else group.choices[:1]
    return min(reversed(legal), key=lambda choice: abs(choice * of - kept * group.units))


def _name(groups: Sequence[ChannelGroup], taken: set[str]) -> str:
    """The path that all share, where no other gene has it; else the first group's name and how many more."""
    if len(groups) == 1:
        return groups[0].name
    shared: list[str] = []
    for parts in zip(*(group.name.partition("[")[0].split(".") for group in groups), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    path = ".".join(shared)
    return path if path and path not in taken else f"{groups[0].name} +{len(groups) - 1}"
