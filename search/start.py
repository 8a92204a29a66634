"""Where every search starts: the dense network and a few uniform ones down the FLOPs axis."""

import numpy as np

from search.genes import Genes, octaves
from spaces.messages import Genome
from spaces.space import ChannelSpace

RUNGS = (0.50, 0.25, 0.12, 0.06, 0.03)
"""FLOPs of the first uniform networks, as shares of dense."""

_REACHED = 0.5  # octaves: half of the way to the next rung


def common_first(space: ChannelSpace) -> list[Genome]:
    """The first genomes of every controller: dense, then uniform networks at about `RUNGS` of its FLOPs.

    Each rung is the uniform network nearest to it in log FLOPs. A rung that no uniform network comes within
    half an octave of is left out, and so is a network that stands on a rung already.
    """
    genomes, levels = uniform_networks(space)
    first = [space.dense]
    for level in np.log2(RUNGS):
        nearest = int(np.abs(levels - level).argmin())
        if abs(levels[nearest] - level) <= _REACHED and genomes[nearest] not in first:
            first.append(genomes[nearest])
    return first


def common_below(space: ChannelSpace) -> list[Genome]:
    """Uniform networks below the lowest of `common_first`, each about half of the one before in FLOPs."""
    genomes, levels = uniform_networks(space)
    lowest = float(octaves(space, np.array([common_first(space)[-1]]))[0])
    below: list[Genome] = []
    while len(left := np.flatnonzero(levels <= lowest - _REACHED)):
        nearest = left[np.abs(levels[left] - (lowest - 1)).argmin()]
        below.append(genomes[nearest])
        lowest = float(levels[nearest])
    return below


def uniform_networks(space: ChannelSpace) -> tuple[list[Genome], np.ndarray]:
    """Every uniform network of a space, cheapest first, and log2(FLOPs / dense) of each.

    A uniform network is `space.uniform(ratio)` of some ratio: about the same share kept in every group.
    """
    genes = Genes(space)
    rows = np.unique(genes.nearest(genes.ratios()[:, None] * genes.dense), axis=0)
    levels = octaves(space, rows)
    order = np.lexsort((rows.sum(axis=1), levels))
    return [tuple(row) for row in rows[order].tolist()], levels[order]
