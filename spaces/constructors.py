"""What a library's own constructor needs to build a pruned network of a family that it knows; NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spaces.costs import Form
from spaces.errors import NetworkError


@dataclass(frozen=True, slots=True)
class Entry:
    """One width among a constructor's arguments.

    Attributes:
        argument: The argument's name.
        index: Which element of a list; None where the argument is one number.
        width: The width, in kept units.
    """

    argument: str
    index: int | None
    width: Form

    @property
    def name(self) -> str:
        """For readers, as `features_per_stage[2]`."""
        return self.argument if self.index is None else f"{self.argument}[{self.index}]"


@dataclass(frozen=True, slots=True)
class Follower:
    """A module whose width the constructor derives from an entry: always this share of it.

    Attributes:
        module: Its path.
        width: Its width, in kept units.
        entry: Number of the entry.
        share: Its width over the entry's in the dense network, as (numerator, denominator).
    """

    module: str
    width: Form
    entry: int
    share: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A projection that the constructor makes only where a block's input and output differ in width."""

    module: str
    into: Form
    out: Form


@dataclass(frozen=True, slots=True)
class NormGroups:
    """A GroupNorm that prunes by whole norm groups of so many channels."""

    module: str
    width: Form
    channels_each: int


@dataclass(frozen=True, slots=True)
class Constructor:
    """From kept units to the arguments of one network's class.

    Attributes:
        network: Name of the class.
        entries: The widths that it takes.
        followers: What else its code derives from them.
        shortcuts: What it makes only under a condition.
        norm_groups: Its GroupNorm layers.
        dense: The dense genome, group by group.
    """

    network: str
    entries: tuple[Entry, ...]
    followers: tuple[Follower, ...]
    shortcuts: tuple[Shortcut, ...]
    norm_groups: tuple[NormGroups, ...]
    dense: tuple[int, ...]

    def arguments(self, kept: Sequence[int]) -> dict[str, Any]:
        """The arguments that replace those of the dense network; all others stay as they were.

        Args:
            kept: Kept units of every group of channels.

        Raises:
            NetworkError: The class cannot build this network.
        """
        widths = [evaluate(entry.width, kept) for entry in self.entries]
        for follower in self.followers:
            over, under = follower.share
            found, entry = evaluate(follower.width, kept), self.entries[follower.entry]
            if found * under != widths[follower.entry] * over:
                raise self._refusal(
                    f"{follower.module} keeps {found} channels where {entry.name} = "
                    f"{widths[follower.entry]} gives {widths[follower.entry] * over / under:g}"
                )
        for shortcut in self.shortcuts:
            width = evaluate(shortcut.out, kept)
            if evaluate(shortcut.into, kept) == width:
                raise self._refusal(
                    f"{shortcut.module} projects {width} channels onto as many, which the class leaves out"
                )
        arguments: dict[str, Any] = {}
        for entry, width in zip(self.entries, widths, strict=True):
            if entry.index is None:
                arguments[entry.argument] = width
            else:
                arguments.setdefault(entry.argument, []).append(width)
        return arguments | self._norm(kept)

    def _norm(self, kept: Sequence[int]) -> dict[str, Any]:
        """The number of norm groups, where pruning changes it."""
        now, before = (
            {evaluate(norm.width, counts) // norm.channels_each for norm in self.norm_groups}
            for counts in (kept, self.dense)
        )
        if now == before:
            return {}
        if len(now) > 1:
            raise self._refusal(f"its GroupNorm layers keep {sorted(now)} groups, and it takes one number")
        return {"norm": ("GROUP", {"num_groups": now.pop()})}

    def _refusal(self, why: str) -> NetworkError:
        return NetworkError(
            f"{self.network} cannot build this network: {why}; take another genome, or prune it with `prune`"
        )


def evaluate(form: Form, kept: Sequence[int]) -> int:
    """A size at these kept units."""
    return form.constant + sum(multiple * int(kept[group]) for group, multiple in form.multiples)
