"""Which genomes a proof tries: few, but such that no two groups can be taken for each other.

Code that works out from the number of channels where one part ends and the next begins, as `x[:, : c // 2]`
does, is right as long as both parts keep as much, whatever belongs to them. So of any two groups that lie on
one dimension of some tensor, each keeps a larger part than the other in one of the genomes at least.
"""

import itertools

import numpy as np

from spaces.messages import Genome
from spaces.space import ChannelSpace

_LEVELS = 4  # how much a group keeps is told apart in as many steps, where it has as many choices
_MOST = {2: 12, 3: 8, 4: 6}  # genomes at most, by the number of levels: enough for hundreds on one dimension


def contrasting(space: ChannelSpace, rng: np.random.Generator, least: int) -> list[Genome]:
    """At least so many genomes, random but for the contrasts; branches do not fall in them."""
    choices = [[n for n in group.choices if n] for group in space.groups]
    color = _colors(space)
    several = [len(some) for some, own in zip(choices, color, strict=True) if own is not None]
    levels = max(2, min([_LEVELS, *several]))
    words = _words(levels, least, len({own for own in color if own is not None}))
    words = words[rng.permutation(len(words))]
    genomes = []
    for t in range(words.shape[1]):
        genome = []
        for some, own in zip(choices, color, strict=True):
            if own is None:
                genome.append(some[rng.integers(len(some))])
            else:
                level = words[own % len(words), t]
                genome.append(some[round(level * (len(some) - 1) / (levels - 1))])
        genomes.append(space.check(genome))
    return genomes


def _colors(space: ChannelSpace) -> list[int | None]:
    """A number for each group, another one for each that it shares a dimension with; None: with nobody."""
    group_of = np.repeat(np.arange(len(space.groups)), [group.units for group in space.groups])
    neighbours: list[set[int]] = [set() for _ in space.groups]
    for units in space.vectors[0]:
        together = np.unique(group_of[units[units >= 0]]).tolist()
        for group in together if len(together) > 1 else ():
            neighbours[group].update(together)
    colors: list[int | None] = [None] * len(space.groups)
    for group, others in enumerate(neighbours):
        if others:
            taken = {colors[other] for other in others}
            colors[group] = next(i for i in itertools.count() if i not in taken)
    return colors


def _words(levels: int, least: int, count: int) -> np.ndarray:
    """Words (n, length) of levels, as many as asked for, none of which is nowhere above another.

    Words of one sum are such; the sum in the middle has the most of them.
    """
    for length in range(least, max(least, _MOST[levels]) + 1):
        every = np.array(list(itertools.product(range(levels), repeat=length)))
        words = every[every.sum(1) == length * (levels - 1) // 2]
        if len(words) >= count:
            break
    return words
