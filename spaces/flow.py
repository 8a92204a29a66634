"""Which groups may keep nothing, and what falls with them: read off how values flow through a network.

A branch whose channels are all gone gives a constant. The network may do without it where another way leads
from its input to each of its outputs: past a residual branch, a squeeze, the lower levels of a U-Net. Groups
of the same branch then fall together, for they would only work on the constant, or for nobody.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from spaces.channels import Dims, Ids

Scenarios: TypeAlias = int
"""A set of suppositions about what is gone, as bits: all of them are worked out in one sweep."""

Composition: TypeAlias = Callable[[Ids], tuple[frozenset[int], bool]]
"""The groups that the channels along a dimension are of, and whether each of the channels is of one."""


_WHOLE = -1  # a tensor as such, in place of one of its groups


@dataclass(frozen=True, slots=True)
class Use:
    """A tensor that an operator reads or writes."""

    memory: int
    dims: Dims


@dataclass(eq=False)
class Pass:
    """One run of the network: (read, written, whether the operator takes what has no channels) in order."""

    given: set[int] = field(default_factory=set)
    steps: list[tuple[list[Use], list[Use], bool]] = field(default_factory=list)
    results: list[Use] = field(default_factory=list)


class Flow:
    """Written down while the network is traced: what each operator reads and writes."""

    def __init__(self) -> None:
        self.passes: list[Pass] = []
        self._held: dict[int, StorageWeakRef] = {}  # keeps addresses from being used again

    def begin(self, given: Iterable[Tensor]) -> None:
        """A pass starts, on these tensors."""
        self.passes.append(Pass({self._memory(tensor) for tensor in given}))

    def step(
        self, read: Iterable[tuple[Tensor, Dims]], written: Iterable[tuple[Tensor, Dims]], takes_nothing: bool
    ) -> None:
        """An operator ran."""
        self.passes[-1].steps.append((self._uses(read), self._uses(written), takes_nothing))

    def end(self, results: Iterable[tuple[Tensor, Dims]]) -> None:
        """A pass is over, with these results."""
        self.passes[-1].results = self._uses(results)

    def _uses(self, tensors: Iterable[tuple[Tensor, Dims]]) -> list[Use]:
        return [Use(self._memory(tensor), dims) for tensor, dims in tensors]

    def _memory(self, tensor: Tensor) -> int:
        reference = StorageWeakRef(tensor.untyped_storage())
        self._held.setdefault(reference.cdata, reference)
        return int(reference.cdata)


def falls_together(
    flow: Flow, n_groups: int, composition: Composition, whole: Iterable[int]
) -> tuple[tuple[int, ...], ...]:
    """For every group that may keep nothing, the groups that then keep nothing, itself included; else ().

    All of them may be gone at once. Where only one of two branches can be missed, it is the one on which
    less depends.

    Args:
        flow: A finished trace.
        n_groups: Number of groups.
        composition: Which groups lie along a dimension.
        whole: Groups of which something must stay.
    """
    question = _Question(flow.passes, composition)
    alone, alive = question.answer([1 << group for group in range(n_groups)], n_groups)
    falls = [{other for other in range(n_groups) if alone[other] >> group & 1} for group in range(n_groups)]
    stays = set(whole)
    able = [group for group in range(n_groups) if alive >> group & 1 and not falls[group] & stays]
    gone: set[int] = set()
    for chosen in able, *([group] for group in sorted(able, key=lambda group: len(falls[group]))):
        together = gone.union(*(falls[group] for group in chosen))
        if len(together) > len(gone) and question.answer([int(g in together) for g in range(n_groups)], 1)[1]:
            gone = together
    return tuple(tuple(sorted(falls[group])) if group in gone else () for group in range(n_groups))


@dataclass(eq=False)
class _Question:
    """What would happen if certain groups kept nothing."""

    passes: Sequence[Pass]
    composition: Composition
    _known: dict[int, tuple[frozenset[int], bool]] = field(default_factory=dict)  # by the array's id

    def answer(self, gone: Sequence[Scenarios], count: int) -> tuple[list[Scenarios], Scenarios]:
        """In which scenarios each group is gone, or useless, in the end; and in which the network lives.

        Args:
            gone: The `count` scenarios in which each group is gone to begin with.
            count: Number of scenarios. One more is added, in which nothing is gone.
        """
        real = (1 << count) - 1
        gone = list(gone)
        while True:
            works: list[Scenarios] = [0] * len(gone)
            alive = real
            for one in self.passes:
                alive &= self._sweep(one, gone, works, 1 << count)
            useless = [real & ~held if held >> count else 0 for held in works]
            after = [a | b for a, b in zip(gone, useless, strict=True)]
            if after == gone:
                return gone, alive
            gone = after

    def _sweep(
        self, one: Pass, gone: Sequence[Scenarios], works: list[Scenarios], nothing_gone: Scenarios
    ) -> Scenarios:
        """Forwards, what depends on the input; backwards, what reaches a result; a group works where both.

        What joins several groups depends on the input by each of them apart.
        """
        everywhere = 2 * nothing_gone - 1
        alive = everywhere
        live: dict[tuple[int, int], Scenarios] = {(memory, _WHOLE): everywhere for memory in one.given}
        written_live = []
        for read, written, takes_nothing in one.steps:
            flowing: dict[int, Scenarios] = {_WHOLE: 0}
            for use in read:
                empty = self._empty(use, gone)
                if empty and not takes_nothing:
                    alive &= ~empty
                for part in (_WHOLE, *self._groups(use)):
                    if (use.memory, part) in live:
                        flowing[part] = flowing.get(part, 0) | (live[use.memory, part] & ~empty)
            carried = []
            for use in written:
                left = ~self._empty(use, gone)
                carried.append(
                    {part: flowing.get(part, flowing[_WHOLE]) & left for part in (_WHOLE, *self._groups(use))}
                )
                for part, flows in carried[-1].items():
                    live[use.memory, part] = live.get((use.memory, part), 0) | flows
            written_live.append(carried)
        for use in one.results:
            reached = live.get((use.memory, _WHOLE), 0) & ~self._empty(use, gone)
            if reached & nothing_gone:
                alive &= reached
        needed: dict[int, Scenarios] = {use.memory: everywhere for use in one.results}
        for (read, written, _), carried in zip(reversed(one.steps), reversed(written_live), strict=True):
            wanted = 0
            for use, parts in zip(written, carried, strict=True):
                asked = needed.get(use.memory, 0) & ~self._empty(use, gone)
                wanted |= asked
                for group in self._groups(use):
                    works[group] |= parts[group] & asked
            for use in read:
                needed[use.memory] = needed.get(use.memory, 0) | (wanted & ~self._empty(use, gone))
        return alive

    def _empty(self, use: Use, gone: Sequence[Scenarios]) -> Scenarios:
        """The scenarios in which some dimension of the tensor has nothing left."""
        empty = 0
        for groups, all_of_them in self._along(use):
            if groups and all_of_them:
                left = -1
                for group in groups:
                    left &= gone[group]
                empty |= left
        return empty

    def _groups(self, use: Use) -> frozenset[int]:
        return frozenset().union(*(groups for groups, _ in self._along(use)))

    def _along(self, use: Use) -> Iterator[tuple[frozenset[int], bool]]:
        for ids in use.dims:
            if ids is not None:
                if id(ids) not in self._known:
                    self._known[id(ids)] = self.composition(ids)
                yield self._known[id(ids)]
