"""Compares pruned networks with the silenced dense one: what a proof of a channel space consists of.

Both run in float64 with all parameters and buffers randomised, because a fresh initialisation hides wrong
slices behind its zeros and ones. Silenced means: zero at every parameter and buffer position that a removed
unit holds, at producers and consumers alike. Where a layer computes statistics over channels, the dense
network's are taken over the kept ones (see `Reference`).

Two things make it quick and no less strict. Which units go together does not depend on the size of an
image: where the network accepts smaller images than the example's, it is compared on the smallest of `SIDES`
that it accepts. And what is equal at random weights is equal at all weights, those with zeros included: once
a pruned network is proved equal to the silenced dense one, it may stand in for it. So the dense network is
silenced once only, to prove one of about a quarter of its width; all other genomes are compared with that.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from spaces.clone import Replace, clone_with, drop_modules, named_to_meta, to_cpu, to_meta
from spaces.errors import NetworkError
from spaces.inputs import Call, Example
from spaces.messages import Genome
from spaces.metas import Shapes
from spaces.reference import Opened, Reference, randomised, silenced
from spaces.space import ChannelGroup, ChannelSpace
from spaces.surgery import cut
from spaces.switches import Switch, find_switches, turn
from spaces.tracer import attention_unfused, find_tensors
from spaces.trials import contrasting

TOLERANCE = 1e-9  # of the largest output, in float64
SIDES = (16, 32, 64, 96, 128, 192, 256)  # of images; what halves five times over or needs eight patches fits


@dataclass(frozen=True, eq=False)
class Base:
    """A network that is known to equal the dense one where only these units are kept; the dense one at first.

    Attributes:
        model: The network.
        space: The dense one's, with the axes of this one, and no choices beyond it: units keep their numbers.
        kept: Units that it has.
    """

    model: nn.Module
    space: ChannelSpace
    kept: np.ndarray

    def thinned(self, model: nn.Module, kept: np.ndarray) -> "Base":
        """What is known once `model`, which keeps only these units, has been compared with this one."""
        held = np.append(kept, True)  # what unit -1 looks up
        axes = tuple(replace(axis, units=axis.units[held[axis.units]]) for axis in self.space.axes)
        counts = np.add.reduceat(kept, self.space.offsets[:-1], dtype=int)
        groups = tuple(
            replace(group, choices=tuple(n for n in group.choices if n <= count))
            for group, count in zip(self.space.groups, counts, strict=True)
        )
        return Base(model, replace(self.space, axes=axes, groups=groups), kept)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a pruned network showed.

    Attributes:
        kept: Its units.
        difference: To the silenced network, relative to the largest output; infinite after an exception.
        reason: What is wrong with it, if anything.
        finite: Whether all that it returned was.
    """

    kept: np.ndarray
    difference: float
    reason: str | None = None
    finite: bool = True


class Prover:
    """Compares pruned networks with the silenced dense one, on one set of random weights and inputs."""

    def __init__(self, model: nn.Module, example_input: Example, space: ChannelSpace, seed: int) -> None:
        self.space = space
        self.rng = np.random.default_rng(seed)
        call = Call.of(example_input)
        call = call.with_batch(min(2, call.batch))
        self.dtype, self.tolerance = torch.float64, TOLERANCE
        try:
            self._prepare(model, call, seed)
        except Exception:  # code with a fixed dtype: compare in the network's own, less sharply
            self.dtype, self.tolerance = torch.float32, 1e-4
            try:
                self._prepare(model, call, seed)
            except Exception as error:
                raise _rejection(call, error) from error
        self.trained = self._train(self.dense, self.call)
        self.base = Base(self.dense, space, np.ones(space.offsets[-1], dtype=bool))

    def _prepare(self, model: nn.Module, call: Call, seed: int) -> None:
        """Random weights and inputs; raises what the network raises on them."""
        generator = torch.Generator().manual_seed(seed)
        self.dense = clone_with(model, lambda n, t: randomised(n, t, generator, self.dtype)).eval()
        drop_modules(self.dense, self.space.dropped)
        self.opened = False
        call = call.map(lambda tensor: _random_input(tensor, generator, self.dtype))
        ways = (to_meta, named_to_meta)
        self.moves = [move for move in ways if not self._fails_on_meta(self.dense, call, move)][:1]
        self.call = self._smallest(call)
        self.opened = self._runs_opened()
        switches = self._switches()  # what is switched off is proved, too, where it was built
        turn(self.dense, switches, on=True)
        if switches and not self._accepts(self.call):
            turn(self.dense, switches, on=False)

    def _switches(self) -> list[Switch]:
        move = self.moves[0] if self.moves else to_cpu
        copied, call = clone_with(self.dense, move), self.call.with_batch(2).map(partial(move, "input"))

        def run() -> None:
            for training in (False, True):
                call(copied.train(training))

        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), attention_unfused():
                return find_switches(copied, run)
        except Exception:  # a network that trains on more than images
            return []

    def _smallest(self, call: Call) -> Call:
        """The call on the smallest images that the network accepts in both modes, or as it is."""
        for side in SIDES:
            smaller = call.with_side(side)
            if smaller.shapes == call.shapes:
                break
            if self._accepts(smaller):
                return smaller
        if not self.moves:
            self._run(self.dense, call)
        return call

    def _accepts(self, call: Call) -> bool:
        """Whether the dense network runs on it in both modes."""
        if self.moves:
            runs = not self._fails_on_meta(self.dense, call, *self.moves)
        else:
            try:
                self._run(self.dense, call)
                runs = True
            except Exception:  # too small, or of another shape than the network is made for
                runs = False
        return runs and not isinstance(self._train(self.dense, call), str)

    def comparisons(self, genomes: int) -> Iterator[Comparison]:
        """Of the base to be, the minimal genome, at least so many others, and some without branches."""
        kept = self._choose([_base_choice(group) for group in self.space.groups])
        found, pruned = self._compare(kept)
        if self.opened and not found.finite:  # numbers that grow without bounds tell nothing
            self.opened = False
            found, pruned = self._compare(kept)
        yield found
        if pruned is not None and found.reason is None:
            self.base = self.base.thinned(pruned, kept)
        space = self.base.space
        for genome in (space.minimal, *contrasting(space, self.rng, genomes), *self._fallen()):
            yield self._compare(self._choose(genome))[0]

    def _fallen(self) -> list[Genome]:
        """Random genomes in which all branches of one depth of nesting keep nothing, for each depth."""
        space = self.base.space
        return [
            space.check(
                [
                    0
                    if len(space.falls[i]) == size
                    else int(self.rng.choice([n for n in group.choices if n]))
                    for i, group in enumerate(space.groups)
                ]
            )
            for size in sorted({len(falling) for falling in space.falls if falling})
        ]

    def _choose(self, genome: Sequence[int]) -> np.ndarray:
        """The mask of as many units, drawn from the base's."""
        mask = np.zeros_like(self.base.kept)
        for group, count in enumerate(genome):
            held = np.flatnonzero(self.base.kept[self.span(group)])
            mask[self.space.offsets[group] + self.rng.permutation(held)[:count]] = True
        return mask

    def span(self, group: int) -> slice:
        """The units of a group."""
        return slice(self.space.offsets[group], self.space.offsets[group + 1])

    def only(self, kept: np.ndarray, groups: range) -> np.ndarray:
        """The mask in which these groups keep what they keep there, and the others what is known to work."""
        mask = self.base.kept.copy()
        for group in groups:
            mask[self.span(group)] = kept[self.span(group)]
        return mask

    def compare(self, kept: np.ndarray) -> str | None:
        """What is wrong with the network that keeps these of the base's units."""
        return self._compare(kept)[0].reason

    def fails(self, kept: np.ndarray) -> str | None:
        """What goes wrong without looking at values; cheap, for it runs on meta tensors.

        A network that does not run on them fails later, in `compare`.
        """
        return self._cut(kept)[1]

    def _cut(self, kept: np.ndarray) -> tuple[nn.Module | None, str | None]:
        try:
            pruned = cut(self.dense, self.space, kept)
        except Exception as error:
            return None, f"fails when pruned: {first_line(error)}"
        failure = self._fails_on_meta(pruned, self.call, *self.moves) if self.moves else None
        return pruned, f"fails when pruned: {failure}" if failure else None

    def _compare(self, kept: np.ndarray) -> tuple[Comparison, nn.Module | None]:
        pruned, reason = self._cut(kept)
        if pruned is None or reason:
            return Comparison(kept, np.inf, reason), pruned
        try:
            found = self._run(pruned, self.call)
        except Exception as error:
            self._run_base()
            return Comparison(kept, np.inf, f"fails when pruned: {first_line(error)}"), pruned
        wanted = self._silenced(kept)
        if [t.shape for t in found] != [t.shape for t in wanted]:
            reason = "changes the shape of the network's output when pruned"
            return Comparison(kept, np.inf, reason), pruned
        difference = max((_difference(a, b) for a, b in zip(found, wanted, strict=True)), default=0.0)
        if not difference <= self.tolerance:
            reason = f"gives other values when pruned (relative difference {difference:.1g})"
        finite = all(bool(tensor.isfinite().all()) for tensor in found)
        return Comparison(kept, difference, reason or self._wrong_in_training(pruned), finite), pruned

    def _wrong_in_training(self, pruned: nn.Module) -> str | None:
        if isinstance(self.trained, str):
            return None  # nor does the dense network train on this input alone
        trained = self._train(pruned, self.call)
        if isinstance(trained, str):
            return f"fails in train mode when pruned: {trained}"
        same = trained == self.trained
        return None if same else "changes the shape of an output in train mode when pruned"

    def _run(self, model: nn.Module, call: Call) -> list[Tensor]:
        opened = Opened() if self.opened else nullcontext()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), attention_unfused(), opened:
            return list(find_tensors(call(model)))

    def _runs_opened(self) -> bool:
        """Whether the network runs where ReLUs let everything pass a little."""
        self.opened = True
        return self._accepts(self.call)

    def _run_base(self) -> None:
        """Nothing, unless it is not for pruning that values are rejected."""
        try:
            self._run(self.base.model, self.call)
        except Exception as error:
            raise _rejection(self.call, error) from error

    def _fails_on_meta(self, model: nn.Module, call: Call, move: Replace) -> str | None:
        """The error of a forward pass on meta tensors, if any."""
        try:
            with Shapes():
                self._run(clone_with(model, move), call.map(partial(to_meta, "")))
        except Exception as error:
            return first_line(error)
        return None

    def _silenced(self, kept: np.ndarray) -> list[Tensor]:
        model = silenced(self.base.model, self.base.space, kept)
        with torch.random.fork_rng(devices=[]):
            return Reference(model, self.base.space, kept, self.opened).run(self.call)

    def _train(self, model: nn.Module, call: Call) -> str | list[torch.Size]:
        """Shapes that a forward pass in train mode returns, or its error; on meta tensors where it can."""
        found: str | list[torch.Size] = ""
        for move in (*self.moves, to_cpu):
            trained = clone_with(model, move).train()
            try:
                with torch.no_grad(), torch.random.fork_rng(devices=[]), Shapes():
                    result = call.with_batch(2).map(partial(move, "input"))(trained)
                return [tensor.shape for tensor in find_tensors(result)]
            except Exception as error:
                found = first_line(error)
        return found


def _base_choice(group: ChannelGroup) -> int:
    """About a quarter, but enough for some to choose from."""
    legal = [count for count in group.choices if count]
    return next(
        count for i, count in enumerate(legal) if i == len(legal) - 1 or (i >= 3 and 4 * count >= group.units)
    )


def _rejection(call: Call, error: Exception) -> NetworkError:
    return NetworkError(
        f"the network rejects random input of shape {call.shapes}: {first_line(error)}; "
        "trace it with verify=False"
    )


def first_line(error: Exception, width: int = 160) -> str:
    """The first line of an error's message, shortened, or its type where it has none."""
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _difference(found: Tensor, wanted: Tensor) -> float:
    if not wanted.is_floating_point():
        return 0.0 if torch.equal(found, wanted) else np.inf
    finite = wanted.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return np.inf
    largest = wanted[finite].abs().max().item() if finite.any() else 0.0
    gap = (found - wanted)[finite].abs().max().item() if finite.any() else 0.0
    return gap / largest if largest else gap


def _random_input(tensor: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.detach().cpu().clone()
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(dtype)
