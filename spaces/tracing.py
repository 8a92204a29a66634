"""From a network and an example input to its channel space."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from spaces.channels import Ids
from spaces.clone import Replace, clone_with, drop_modules, named_to_meta, to_cpu, to_meta
from spaces.errors import InputError, NetworkError, RunError
from spaces.flow import Flow
from spaces.granularity import Granularity, check_granularity
from spaces.grouping import Owners, build_space, module_of
from spaces.inputs import Call, Example
from spaces.ledger import Ledger
from spaces.prover import first_line
from spaces.space import ChannelSpace, choices
from spaces.step import Site
from spaces.survey import coarsen
from spaces.switches import find_switches, supervision_off, turn, widths_read
from spaces.tracer import Tracer
from spaces.verification import Guilt, find_guilty
from spaces.wishes import Wishes, to_drop


def trace(
    model: nn.Module,
    example_input: Example,
    *,
    verify: bool = True,
    round_to: int | None = None,
    ignore: Sequence[str] | str = (),
    only: Sequence[str] | str = (),
    drop: Sequence[str] | str = (),
    granularity: Granularity = "group",
    depth: bool = False,
    heads: bool = False,
    seed: int = 0,
) -> ChannelSpace:
    """Find out which channels of a network can go, together with what, and what the rest then costs.

    The network runs without memory (meta tensors; real ones on the CPU where it cannot) in eval mode on the
    first image of the example, and in train mode where it accepts that. Costs are per image of that shape.
    The model given is never changed.

    Args:
        model: The network.
        example_input: One tensor with a batch axis, a tuple of positional arguments or a
            dictionary of keyword arguments.
        verify: Prove the space on randomised weights; what fails is frozen with its reason. Small example
            inputs verify as well as large ones, and faster.
        round_to: Kept channels are multiples of this; default 8 in groups of at least 32 channels, else 1.
        ignore: Paths or patterns of modules whose output channels stay.
        only: Paths or patterns of the only modules whose output channels may go.
        drop: Paths or patterns of modules that every pruned network does without: the identity takes their
            place. For what never runs, as supervision heads that are off and so keep what may feed them.
        granularity: "group", "block" or "stage": what a gene moves (see `coarsen`).
        depth: Whether a branch may keep nothing where another way past it keeps the network alive: its
            layers then give the constant of their biases, and all their work is gone. Off by default: such a
            step is far larger than a few channels, and what it leaves needs fine-tuning before it can be
            judged.
        heads: Whether attention loses whole heads where its code allows, instead of a part of each head.
        seed: Of the weights, inputs and genomes that verification tries.

    Raises:
        NetworkError: It is no module, the network rejects the input, or nothing can be pruned.
        InputError: The example input, `round_to` or `granularity` cannot be used.
    """
    check_granularity(granularity)
    _check(model, round_to)
    dropped = to_drop(model, drop)
    if dropped:
        model = clone_with(model, lambda _, tensor: tensor.detach())
        drop_modules(model, dropped)
    search = _Search(
        model,
        Call.of(example_input),
        Wishes.of(model, ignore, only),
        partial(choices, round_to=round_to),
        depth,
        heads,
        dropped,
    )
    space = search.trace()
    while verify and space.groups:
        guilty = find_guilty(model, example_input, space, seed=seed)
        if not guilty:
            break
        search.learn(space, guilty)
        space = search.trace()
    if not space.groups:
        reasons = "; ".join(dict.fromkeys(f"{frozen.name} {frozen.reason}" for frozen in space.frozen[:5]))
        raise NetworkError(f"nothing to prune in {type(model).__name__}: {reasons or 'it has no channels'}")
    _check_rounding(space, round_to)
    return coarsen(space, model, example_input, granularity)


@dataclass(eq=False)
class _Search:
    """Traces, learning from what verification found: which reshapes to read otherwise, what to freeze."""

    model: nn.Module
    call: Call
    wishes: Wishes
    chooser: Callable[[int, int], tuple[int, ...]]
    depth: bool = False
    heads: bool = False
    dropped: tuple[str, ...] = ()
    decisions: dict[Site, int] = field(default_factory=dict)
    settled: set[Site] = field(default_factory=set)
    bans: list[tuple[Ids, str]] = field(default_factory=list)
    whole: list[Ids] = field(default_factory=list)

    def trace(self) -> ChannelSpace:
        """A space; where a new reading of a reshape froze all that it splits, the next one is taken."""
        space = self._trace_once()
        while stuck := [site for site in self.decisions.keys() - self.settled if self._is_frozen(site)]:
            for site in stuck:
                self._read_otherwise(site)
            space = self._trace_once()
        return space

    def learn(self, space: ChannelSpace, guilty: Sequence[Guilt]) -> None:
        """Read the reshapes that guilty groups go through in the next way; where none is left, freeze.

        A group that fails when it keeps nothing only has to keep something from now on.
        """
        fallen = [guilt for guilt in guilty if guilt.empty]
        if fallen:
            self.whole += [_ids_of(self.tracer, space, guilt.group) for guilt in fallen]
            return
        found = [_ids_of(self.tracer, space, guilt.group) for guilt in guilty]
        components = set(self.partition.label[np.concatenate(found)].tolist())
        own = [site for site in self.tracer.sites if components & self._components(site)]
        if self._read_all_otherwise(own):
            return
        # Perhaps what is wrong is a reading that leaves them out where the code takes its sizes off them.
        fed = [site for site, ids in self.tracer.tied_to.items() if components & self._labels(ids)]
        fed = [site for site in fed if site not in own]
        if self._read_all_otherwise(fed):
            return
        self.settled -= set(fed)
        self.bans += [(ids, guilt.reason) for ids, guilt in zip(found, guilty, strict=True)]

    def _read_all_otherwise(self, sites: Sequence[Site]) -> bool:
        """Take each site's next interpretation; whether any had one left."""
        reread = [self._read_otherwise(site) for site in sites]
        return any(reread)

    def _trace_once(self) -> ChannelSpace:
        try:
            self.tracer, ledger = _run(self.model, self.call, self._new_tracer)
        except NetworkError as error:
            if not self.dropped:
                raise
            raise NetworkError(f"drop: without {', '.join(self.dropped)} {error}") from error
        _freeze_unused(self.tracer)
        for ids, reason in self.bans:
            self.tracer.graph.freeze(ids, reason)
        self.partition = self.wishes.apply(self.tracer.graph.partition(), Owners.of(self.tracer))
        space = build_space(self.tracer, self.partition, ledger, self.chooser, self.whole)
        return replace(space, dropped=self.dropped)

    def _new_tracer(self, model: nn.Module) -> Tracer:
        tracer = Tracer(model, self.decisions)
        tracer.flow = Flow() if self.depth else None
        tracer.heads = self.heads
        return tracer

    def _read_otherwise(self, site: Site) -> bool:
        """Take the next interpretation, or the first again for good; whether there was another."""
        if site in self.settled:
            return False
        self.decisions[site] = (self.decisions.get(site, 0) + 1) % self.tracer.sites[site][1]
        if self.decisions[site] == 0:
            self.settled.add(site)
        return self.decisions[site] > 0

    def _components(self, site: Site) -> set[int]:
        return self._labels(self.tracer.sites[site][0])

    def _labels(self, ids: Ids) -> set[int]:
        return set(self.partition.label[ids[ids >= 0]].tolist())

    def _is_frozen(self, site: Site) -> bool:
        return site in self.tracer.sites and bool(self.partition.frozen[list(self._components(site))].all())


def _ids_of(tracer: Tracer, space: ChannelSpace, group: int) -> Ids:
    first, stop = space.offsets[group], space.offsets[group + 1]
    held = [
        tracer.axes[axis.tensor, axis.dim][(axis.units >= first) & (axis.units < stop)]
        for axis in space.axes
        if (axis.tensor, axis.dim) in tracer.axes
    ]
    return np.concatenate(held)


def _run(model: nn.Module, call: Call, new_tracer: Callable[[nn.Module], Tracer]) -> tuple[Tracer, Ledger]:
    """Both passes on meta tensors, or on the CPU where the network needs values.

    Most that do need only those of tables that it holds in plain attributes: these then keep their values.
    """
    for move in (to_meta, named_to_meta):
        try:
            return _passes(model, call, new_tracer, move)
        except RunError:
            raise
        except Exception:  # whatever a network raises on tensors without values
            continue
    try:
        return _passes(model, call, new_tracer, to_cpu)
    except RunError:
        raise
    except Exception as error:
        raise NetworkError(
            f"the network rejects an example input of shape {call.shapes}: {first_line(error)}"
        ) from error


def _passes(
    model: nn.Module,
    call: Call,
    new_tracer: Callable[[nn.Module], Tracer],
    move: Replace,
) -> tuple[Tracer, Ledger]:
    copied = clone_with(model, move).eval()
    one, two = (call.with_batch(size).map(partial(move, "input")) for size in (1, 2))
    with torch.random.fork_rng(devices=[]):
        tracer, ledger = new_tracer(copied), Ledger()
        _run_to_outputs(tracer, one, ledger)
        try:
            copied.train()
            _run_to_outputs(tracer, two, None)
        except RunError:
            raise
        except Exception:  # a network that trains on more than images; eval mode is what is deployed
            pass
        _run_switched_on(tracer, copied, two)
    return tracer, ledger


def _run_switched_on(tracer: Tracer, model: nn.Module, call: Call) -> None:
    """Once more in both modes with what is switched off turned on, where parameters are read only then."""

    def run() -> None:
        for training in (False, True):
            model.train(training)
            call(model)

    try:
        switches = find_switches(model, run) if tracer.unused() or supervision_off(model) else []
    except Exception:  # a network that trains on more than images
        switches = []
    turn(model, switches, on=True)
    flow, tracer.flow = tracer.flow, None
    for training in (False, True) if switches else ():
        model.train(training)
        _run_to_outputs(tracer, call, None)
    tracer.flow = flow


def _run_to_outputs(tracer: Tracer, call: Call, ledger: Ledger | None) -> None:
    for tensor in tracer.run(call, ledger):
        for ids in tracer.dims(tensor):
            tracer.graph.freeze(ids, "is the network's output")


def _freeze_unused(tracer: Tracer) -> None:
    """Parameters that no pass reached stay whole, as do the rest of their module and what could feed it.

    That is every layer that makes or reads as many channels, for nothing tells which of them it would be.
    """
    unused = tracer.unused()
    halves, wanted = {module_of(name) for name in unused}, widths_read(tracer.model, unused)
    for (name, _), ids in tracer.axes.items():
        if name not in tracer.touched:
            tracer.graph.freeze(ids, None)
        elif len(ids) in wanted:
            tracer.graph.freeze(ids, f"may feed {wanted[len(ids)]}, which never runs")
        elif module_of(name) in halves:
            tracer.graph.freeze(ids, "belongs to a module of which a part never runs")


def _check(model: nn.Module, round_to: int | None) -> None:
    if not isinstance(model, nn.Module):
        raise NetworkError(f"the network must be a torch.nn.Module, not {type(model).__name__}")
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        raise NetworkError("the network has lazy parameters; run it once before tracing it")
    if round_to is not None and (not isinstance(round_to, int) or round_to < 1):
        raise InputError(f"round_to must be a whole number of at least 1, not {round_to!r}")


def _check_rounding(space: ChannelSpace, round_to: int | None) -> None:
    widest = max(space.groups, key=lambda group: group.channels)
    if round_to is not None and space.size == 1:
        raise InputError(
            f"round_to={round_to} leaves nothing to choose: the widest group, {widest.name!r}, has "
            f"{widest.channels} channels; take a smaller multiple"
        )
