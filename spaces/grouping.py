"""From traced ids to channel groups, the axes on which their units lie, and the polynomials of costs."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array

from spaces.channels import Ids, Partition
from spaces.costs import CostModel, Form, Term
from spaces.flow import falls_together
from spaces.ledger import Ledger, Size
from spaces.space import SIZE, Axis, ChannelGroup, ChannelSpace, Frozen
from spaces.tracer import Tracer

Chooser = Callable[[int, int], tuple[int, ...]]
"""(units, channels a unit holds) -> legal kept counts."""


NEVER = np.iinfo(np.int64).max  # when ids were produced that no operator produces


@dataclass(frozen=True, eq=False)
class Owners:
    """Which parameter or buffer an id belongs to, and which ids were produced when."""

    axes: Sequence[tuple[str, int]]
    starts: np.ndarray
    produced_at: np.ndarray  # (n_ids,) position in the order of production; NEVER where not

    @classmethod
    def of(cls, tracer: Tracer) -> "Owners":
        """Read off the trace; fresh ids are consecutive."""
        produced_at = np.full(tracer.graph.size, NEVER)
        for when, ids in reversed(list(enumerate(tracer.produced))):
            produced_at[ids[ids >= 0]] = when
        starts = np.array([ids[0] for ids in tracer.axes.values()], dtype=np.int64)
        return cls(list(tracer.axes), starts, produced_at)

    def axis(self, ids: Ids) -> np.ndarray:
        """Number of the axis that each id lies on."""
        return np.searchsorted(self.starts, ids, side="right") - 1

    def module(self, axis: int) -> str:
        """Path of the module that owns the axis' tensor."""
        return module_of(self.axes[axis][0])

    def label(self, axis: int) -> str:
        """The same for readers: the tensor's own name where it belongs to the network itself."""
        return self.module(axis) or self.axes[axis][0]


@dataclass(frozen=True, eq=False)
class Role:
    """Components that are coupled in the same way: one future group."""

    components: np.ndarray  # in the order of the producer's channels
    members: np.ndarray  # numbers of the axes it lies on
    producer: int  # number of the axis that names it
    first: int  # first position on that axis
    stop: int  # one past the last
    channels: int  # positions on that axis
    born: int  # when it was first produced

    def is_in(self, sets: set[frozenset[int]]) -> bool:
        """Whether one of the sets is of its components."""
        return frozenset(self.components.tolist()) in sets


def module_of(tensor: str) -> str:
    """Path of the module that owns a parameter or buffer of this name."""
    return tensor.rpartition(".")[0]


def build_space(
    tracer: Tracer, partition: Partition, ledger: Ledger, chooser: Chooser, whole: Sequence[Ids] = ()
) -> ChannelSpace:
    """The space of a finished trace; groups that hold one of the ids in `whole` must keep something."""
    owners = Owners.of(tracer)
    found = list(_roles(_Vectors(tracer, ledger), partition, owners))
    lone = [int(role.components[0]) for role in found if len(role.components) == 1]
    partition = partition.with_frozen(dict.fromkeys(lone, "is a single unit, which is always kept"))
    sums = _sums(tracer, partition)
    pairs = [role for role in found if len(role.components) == 2 and role.is_in(sums)]
    for role in pairs:
        both = dict.fromkeys(role.components.tolist(), "is summed over by torch.einsum, which needs two")
        partition = partition.with_frozen(both)
    roles = sorted(
        (role for role in found if len(role.components) > 1 and role not in pairs),
        key=lambda role: (role.born, role.producer, role.first),
    )
    names = _names(roles, owners)
    groups = tuple(_group(role, name, owners, chooser) for role, name in zip(roles, names, strict=True))
    groups = tuple(
        replace(group, choices=tuple(n for n in group.choices if n > 1)) if role.is_in(sums) else group
        for group, role in zip(groups, roles, strict=True)
    )
    unit = np.full(len(partition.frozen) + 1, -1, dtype=np.int32)  # the last: positions without id
    unit[np.concatenate([np.empty(0, np.int64), *(role.components for role in roles)])] = np.arange(
        sum(group.units for group in groups), dtype=np.int32
    )

    def units_of(ids: Ids) -> np.ndarray:
        return unit[np.where(ids >= 0, partition.label[ids], len(partition.frozen))]

    costs = _cost_model(tracer, ledger, groups, units_of)
    falls = _falls(tracer, groups, units_of, whole)
    groups = tuple(
        replace(group, choices=(0, *group.choices)) if falling else group
        for group, falling in zip(groups, falls or [()] * len(groups), strict=True)
    )
    frozen, axes = tuple(_frozen(tracer, partition, owners)), tuple(_axes(tracer, units_of))
    return ChannelSpace(groups, frozen, axes, costs, falls)


def _sums(tracer: Tracer, partition: Partition) -> set[frozenset[int]]:
    """Components over which alone `torch.einsum` sums: of these, two stay.

    Over a single one it does not sum but multiply, and then costs nothing in the eyes of FlopCounterMode.
    """
    labels = [partition.label[ids] for ids in tracer.summed if (ids >= 0).all()]
    return {frozenset(own.tolist()) for own in labels if len(np.unique(own)) == len(own)}


def _falls(
    tracer: Tracer,
    groups: Sequence[ChannelGroup],
    units_of: Callable[[Ids], np.ndarray],
    whole: Sequence[Ids],
) -> tuple[tuple[int, ...], ...]:
    if tracer.flow is None:
        return ()
    group_of = np.append(_group_of(groups), -1)  # the last: what is in no group

    def composition(ids: Ids) -> tuple[frozenset[int], bool]:
        found = set(np.unique(group_of[units_of(ids)]).tolist())
        return frozenset(found - {-1}), -1 not in found

    kept = (group for ids in whole for group in composition(ids)[0])
    falls = falls_together(tracer.flow, len(groups), composition, kept)
    return falls if any(falls) else ()


def _group_of(groups: Sequence[ChannelGroup]) -> np.ndarray:
    """The group of each unit."""
    return np.repeat(np.arange(len(groups)), [group.units for group in groups])


class _Vectors:
    """All vectors of ids on which a unit's share must be the same for every unit of a group."""

    def __init__(self, tracer: Tracer, ledger: Ledger) -> None:
        costed = {
            size.tobytes(): size
            for sizes in _all_sizes(ledger)
            for size in sizes
            if not isinstance(size, int)
        }
        self.own = list(tracer.axes.values())
        self.all = [*self.own, *costed.values()]

    def incidence(self, label: np.ndarray) -> coo_array:
        """How many positions of each vector each component holds, (n_components, n_vectors)."""
        ids = np.concatenate([np.empty(0, np.int64), *self.all])
        column = np.repeat(np.arange(len(self.all)), [len(vector) for vector in self.all])
        row = label[ids[ids >= 0]]
        shape = (int(label.max(initial=-1)) + 1, len(self.all))
        counts = coo_array((np.ones(len(row), np.int64), (row, column[ids >= 0])), shape=shape).tocsr()
        counts.sum_duplicates()
        return counts


def _roles(vectors: _Vectors, partition: Partition, owners: Owners) -> Iterator[Role]:
    counts = vectors.incidence(partition.label)
    same: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    for component in np.flatnonzero(~partition.frozen).tolist():
        span = slice(counts.indptr[component], counts.indptr[component + 1])
        same[counts.indices[span].tobytes(), counts.data[span].tobytes()].append(component)
    ids_by_component = np.argsort(partition.label, kind="stable")
    bounds = np.searchsorted(partition.label[ids_by_component], np.arange(len(partition.frozen) + 1))
    for components in same.values():
        ids = [ids_by_component[bounds[c] : bounds[c + 1]] for c in components]
        yield _role(np.array(components), ids, owners)


def _role(components: np.ndarray, ids: list[Ids], owners: Owners) -> Role:
    together = np.concatenate(ids)
    namer = together[np.argmin(owners.produced_at[together])]
    producer = int(owners.axis(namer[None])[0])
    axes = owners.axis(together)
    on_producer = axes == producer
    component = np.repeat(np.arange(len(ids)), [len(own) for own in ids])[on_producer]
    positions = together[on_producer] - int(owners.starts[producer])
    first = np.full(len(ids), NEVER)
    np.minimum.at(first, component, positions)
    return Role(
        components[np.argsort(first, kind="stable")],
        np.unique(axes),
        producer,
        int(positions.min()),
        int(positions.max()) + 1,
        len(positions),
        int(owners.produced_at[namer]),
    )


def _names(roles: Sequence[Role], owners: Owners) -> list[str]:
    """The producer's path, with the range of channels or a number where several groups share it."""
    paths = [owners.label(role.producer) for role in roles]
    shared = Counter(paths)
    ranged = [
        f"{path}[{role.first}:{role.stop}]" if shared[path] > 1 else path
        for path, role in zip(paths, roles, strict=True)
    ]
    seen: Counter[str] = Counter()
    names = []
    for name in ranged:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _group(role: Role, name: str, owners: Owners, chooser: Chooser) -> ChannelGroup:
    units = len(role.components)
    members = tuple(dict.fromkeys(owners.label(axis) for axis in role.members))
    return ChannelGroup(name, units, role.channels, members, chooser(units, max(1, role.channels // units)))


def _axes(tracer: Tracer, units_of: Callable[[Ids], np.ndarray]) -> Iterator[Axis]:
    stated = {(f"{path}{SIZE}", 0): ids for path, ids in tracer.stated.items()}
    for (tensor, dim), ids in (tracer.axes | stated).items():
        units = units_of(ids)
        if (units >= 0).any():
            yield Axis(tensor, dim, units)


def _frozen(tracer: Tracer, partition: Partition, owners: Owners) -> Iterator[Frozen]:
    """Producing modules whose channels stay, each reason once, in the order of production."""
    ids = np.flatnonzero((owners.produced_at < NEVER) & partition.frozen[partition.label])
    ids = ids[np.argsort(owners.produced_at[ids], kind="stable")]
    where = np.column_stack([owners.axis(ids), partition.label[ids]])
    seen = set()
    for axis, component in dict.fromkeys(map(tuple, where.tolist())):
        found = Frozen(owners.label(axis), partition.reason[component] or "")
        if found.reason and found not in seen:
            seen.add(found)
            yield found
    for name in dict.fromkeys(module_of(tensor) for tensor in tracer.unused()):
        yield Frozen(name, "has parameters that the forward pass never uses")


def _all_sizes(ledger: Ledger) -> Iterator[Sequence[Size]]:
    yield from (sizes for _, sizes in ledger.flops)
    yield from (storage.sizes for storage in ledger.storages)


def _cost_model(
    tracer: Tracer,
    ledger: Ledger,
    groups: Sequence[ChannelGroup],
    units_of: Callable[[Ids], np.ndarray],
) -> CostModel:
    group_of = _group_of(groups)
    forms: dict[bytes, Form] = {}

    def form(size: Size) -> Form | int:
        if isinstance(size, int):
            return size
        key = size.tobytes()
        if key not in forms:
            forms[key] = _form(units_of(size), group_of, groups)
        return forms[key]

    def term(coefficient: int, sizes: Iterable[Size]) -> Term:
        return Term.product(coefficient, map(form, sizes))

    storages = {id(s): term(s.bytes_each, s.sizes) for s in ledger.storages}
    return CostModel.compile(
        len(groups),
        flops=[term(coefficient, sizes) for coefficient, sizes in ledger.flops],
        params=[term(1, sizes) for sizes in tracer.parameter_sizes()],
        activation_steps=[[storages[id(s)] for s in alive] for alive in ledger.steps()],
    )


def _form(units: np.ndarray, group_of: np.ndarray, groups: Sequence[ChannelGroup]) -> Form:
    inside = units[units >= 0]
    positions: Mapping[int, int] = Counter(group_of[inside].tolist())
    multiples = tuple((g, count // groups[g].units) for g, count in sorted(positions.items()))
    return Form(len(units) - len(inside), multiples)
