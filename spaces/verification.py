"""Proves a channel space: a pruned network must equal the dense one whose removed units are silenced.

Both run in float64 with all parameters and buffers randomised, because a fresh initialisation hides wrong
slices behind its zeros and ones. Silenced means: zero at every parameter and buffer position that a removed
unit holds, at producers and consumers alike. Where a layer computes statistics over channels, the dense
network's are taken over the kept ones (see `Reference`).

Which units go together does not depend on the size of an image, only the price of finding out: where the
network accepts smaller images than the example's, it is verified on the smallest of `SIDES` that it accepts.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from spaces.clone import clone_with, drop_modules
from spaces.errors import NetworkError
from spaces.inputs import Call, Example
from spaces.messages import Genome
from spaces.reference import Opened, Reference, randomised, silenced
from spaces.space import ChannelSpace
from spaces.supervision import switch_off, switch_on
from spaces.surgery import cut
from spaces.tracer import attention_unfused, find_tensors
from spaces.trials import contrasting

TOLERANCE = 1e-9  # of the largest output, in float64
SIDES = (
    32,
    64,
    96,
    128,
    192,
    256,
)  # of images; what halves five times over or needs eight patches divides them


Check = Callable[[np.ndarray], str | None]
"""Mask of kept units -> what is wrong with the network that keeps them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A choice of kept units for which the pruned network is wrong, and how it shows."""

    kept: np.ndarray
    reason: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Attributes:
        checked: Number of pruned networks compared.
        worst: Largest difference seen, relative to the largest output; infinite after an exception.
        failures: The comparisons that failed.
    """

    checked: int
    worst: float
    failures: tuple[Failure, ...]

    @property
    def passed(self) -> bool:
        """Whether every pruned network was right."""
        return not self.failures


@dataclass(frozen=True, slots=True)
class Guilt:
    """A group that cannot be pruned as traced, how it shows, and whether nothing was kept of it then."""

    group: int
    reason: str
    empty: bool = False


def verify(
    model: nn.Module, example_input: Example, space: ChannelSpace, *, genomes: int = 3, seed: int = 0
) -> Verification:
    """Check the minimal genome and others (see `contrasting`), each with units kept at random.

    Args:
        model: The dense network; never changed.
        example_input: As for `trace`; values are replaced by random ones.
        space: Its channel space.
        genomes: Least number of genomes besides the minimal one.
        seed: Of weights, input and genomes.
    """
    prover = Prover(model, example_input, space.fine, seed)
    failures = []
    worst = 0.0
    trials = prover.trials(genomes)
    for kept in trials:
        difference, reason = prover.compare(kept)
        worst = max(worst, difference)
        if reason:
            failures.append(Failure(kept, reason))
    return Verification(len(trials), worst, tuple(failures))


def find_guilty(
    model: nn.Module, example_input: Example, space: ChannelSpace, *, seed: int = 0
) -> list[Guilt]:
    """The groups to blame for failures; none when the space verifies.

    Halves of what fails are tried apart, down to single groups; where both pass, the first group that makes
    growing prefixes fail is named.
    """
    prover = Prover(model, example_input, space, seed)
    for kept in prover.trials(genomes=3):
        reason = prover.compare(kept)[1]
        if reason:
            guilty = prover.guilty(kept, reason)
            return [replace(guilt, empty=not kept[prover.span(guilt.group)].any()) for guilt in guilty]
    return []


class Prover:
    """Compares pruned networks with the silenced dense one, on one set of random weights and inputs."""

    def __init__(self, model: nn.Module, example_input: Example, space: ChannelSpace, seed: int) -> None:
        self.space = space
        self.rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        call = Call.of(example_input)
        call = call.with_batch(min(2, call.batch))
        self.dtype, self.tolerance = torch.float64, TOLERANCE
        try:
            self._prepare(model, call, generator)
        except Exception:  # code with a fixed dtype: compare in the network's own, less sharply
            self.dtype, self.tolerance = torch.float32, 1e-4
            self._prepare_or_refuse(model, call, generator)
        self.trained = self._train(self.dense, self.call)
        self.on_meta = self._fails_on_meta(self.dense) is None

    def _prepare(self, model: nn.Module, call: Call, generator: torch.Generator) -> None:
        """Random weights and inputs; raises what the network raises on them."""
        self.dense = clone_with(model, lambda n, t: randomised(n, t, generator, self.dtype)).eval()
        drop_modules(self.dense, self.space.fine.dropped)
        self.opened = False
        self.call = self._smallest(call.map(lambda tensor: _random_input(tensor, generator, self.dtype)))
        self.opened = self._runs_opened()
        self._supervise()

    def _supervise(self) -> None:
        """Turn supervision heads on where the network runs with them, so that they are proved, too."""
        off = switch_on(self.dense)
        if not off:
            return
        try:
            self._run(self.dense)
        except Exception:  # it was built without heads
            switch_off(off)
        if isinstance(self._train(self.dense, self.call), str):
            switch_off(off)

    def _smallest(self, call: Call) -> Call:
        """The call on the smallest images that the network accepts in both modes, or as it is."""
        for side in SIDES:
            smaller = call.with_side(side)
            if smaller.shapes == call.shapes:
                break
            try:
                self._run(self.dense, smaller)
            except Exception:  # too small, or of another shape than the network is made for
                continue
            if not isinstance(self._train(self.dense, smaller), str):
                return smaller
        self._run(self.dense, call)
        return call

    def _prepare_or_refuse(self, model: nn.Module, call: Call, generator: torch.Generator) -> None:
        try:
            self._prepare(model, call, generator)
        except Exception as error:
            raise NetworkError(
                f"the network rejects random input of shape {call.shapes}: {first_line(error)}; "
                "trace it with verify=False"
            ) from error

    def trials(self, genomes: int) -> list[np.ndarray]:
        """Masks of kept units: the minimal genome, others, and some without branches; random units."""
        chosen = [self.space.minimal, *contrasting(self.space, self.rng, genomes), *self._fallen()]
        masks = []
        for genome in chosen:
            kept = np.zeros(self.space.offsets[-1], dtype=bool)
            for start, group, count in zip(self.space.offsets, self.space.groups, genome, strict=False):
                kept[start + self.rng.permutation(group.units)[:count]] = True
            masks.append(kept)
        return masks

    def _fallen(self) -> list[Genome]:
        """Random genomes in which all branches of one depth of nesting keep nothing, for each depth."""
        falls = self.space.falls
        return [
            self.space.check(
                [
                    0 if len(falls[i]) == size else int(self.rng.choice([n for n in group.choices if n]))
                    for i, group in enumerate(self.space.groups)
                ]
            )
            for size in sorted({len(falling) for falling in falls if falling})
        ]

    def span(self, group: int) -> slice:
        """The units of a group."""
        return slice(self.space.offsets[group], self.space.offsets[group + 1])

    def compare(self, kept: np.ndarray) -> tuple[float, str | None]:
        """Difference between pruned and silenced, relative to the largest output; and what is wrong."""
        reason = self.fails(kept)
        if reason:
            return np.inf, reason
        pruned = cut(self.dense, self.space, kept)
        try:
            found = self._run(pruned)
        except Exception as error:
            return np.inf, f"fails when pruned: {first_line(error)}"
        wanted = self._silenced(kept)
        if [t.shape for t in found] != [t.shape for t in wanted]:
            return np.inf, "changes the shape of the network's output when pruned"
        difference = max((_difference(a, b) for a, b in zip(found, wanted, strict=True)), default=0.0)
        if not difference <= self.tolerance:
            return difference, f"gives other values when pruned (relative difference {difference:.1g})"
        return difference, self._wrong_in_training(pruned)

    def _wrong_in_training(self, pruned: nn.Module) -> str | None:
        if isinstance(self.trained, str):
            return None  # nor does the dense network train on this input alone
        trained = self._train(pruned, self.call)
        if isinstance(trained, str):
            return f"fails in train mode when pruned: {trained}"
        same = trained == self.trained
        return None if same else "changes the shape of an output in train mode when pruned"

    def fails(self, kept: np.ndarray) -> str | None:
        """What goes wrong without looking at values; cheap, for it runs on meta tensors.

        A network that does not run on them fails later, in `compare`.
        """
        try:
            pruned = cut(self.dense, self.space, kept)
        except Exception as error:
            return f"fails when pruned: {first_line(error)}"
        failure = self._fails_on_meta(pruned) if self.on_meta else None
        return f"fails when pruned: {failure}" if failure else None

    def guilty(self, kept: np.ndarray, reason: str) -> list[Guilt]:
        """Which groups are to blame, given that all fail together for this reason.

        Where shapes clash, only those to blame for that: what else is wrong shows once they are frozen.
        """
        check = self.fails if self.fails(kept) else lambda mask: self.compare(mask)[1]
        return self._guilty_among(kept, range(len(self.space.groups)), reason, check)

    def _guilty_among(self, kept: np.ndarray, groups: range, reason: str, check: Check) -> list[Guilt]:
        if len(groups) == 1:
            return [Guilt(groups[0], reason)]
        middle = len(groups) // 2
        found = []
        for part in (groups[:middle], groups[middle:]):
            failure = check(self._only(kept, part))
            if failure:
                found += self._guilty_among(kept, part, failure, check)
        return found or [self._guilty_in_company(kept, groups, reason, check)]

    def _guilty_in_company(self, kept: np.ndarray, groups: range, reason: str, check: Check) -> Guilt:
        """By bisection: the first group whose pruning makes those up to it fail together."""
        passes, fails = 0, len(groups)
        while fails - passes > 1:
            middle = (passes + fails) // 2
            found = check(self._only(kept, groups[:middle]))
            if found:
                fails, reason = middle, found
            else:
                passes = middle
        return Guilt(groups[fails - 1], reason)

    def _only(self, kept: np.ndarray, groups: range) -> np.ndarray:
        mask = np.ones_like(kept)
        for group in groups:
            mask[self.span(group)] = kept[self.span(group)]
        return mask

    def _run(self, model: nn.Module, call: Call | None = None) -> list[Tensor]:
        opened = Opened() if self.opened else nullcontext()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), attention_unfused(), opened:
            return list(find_tensors((call or self.call)(model)))

    def _runs_opened(self) -> bool:
        """Whether the network gives numbers where ReLUs let everything pass a little."""
        try:
            with Opened():
                return all(bool(tensor.isfinite().all()) for tensor in self._run(self.dense))
        except Exception:  # values that it cannot do with
            return False

    def _fails_on_meta(self, model: nn.Module) -> str | None:
        """The error of a forward pass on meta tensors, if any."""
        try:
            self._run(clone_with(model, lambda _, t: t.detach().to("meta")), self.call.map(_on_meta))
        except Exception as error:
            return first_line(error)
        return None

    def _silenced(self, kept: np.ndarray) -> list[Tensor]:
        model = silenced(self.dense, self.space, kept)
        with torch.random.fork_rng(devices=[]):
            return Reference(model, self.space, kept, self.opened).run(self.call)

    def _train(self, model: nn.Module, call: Call) -> str | list[torch.Size]:
        """Shapes that a forward pass in train mode returns, or its error; on meta tensors where it can."""
        found: str | list[torch.Size] = ""
        for move in (_on_meta, _copied):
            trained = clone_with(model, lambda _, tensor, move=move: move(tensor.detach())).train()  # type: ignore[misc]
            try:
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    result = call.with_batch(2).map(move)(trained)
                return [tensor.shape for tensor in find_tensors(result)]
            except Exception as error:
                found = first_line(error)
        return found


def _copied(tensor: Tensor) -> Tensor:
    return tensor.clone()


def _on_meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


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
