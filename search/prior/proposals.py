"""What experts would try first: networks for every controller, also those that hold no model."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from search.controllers.structured.belief import FLAT, Belief
from search.controllers.structured.candidates import Candidates
from search.controllers.structured.scouts import Scouts
from search.controllers.structured.terms import Scales, Terms
from search.genes import Genes, octaves
from search.prior.lessons import Lesson
from spaces.fronts import OCTAVES
from spaces.messages import Genome
from spaces.space import ChannelSpace

N_PROPOSALS = 8
_PATHS = 96
_SCALES = 64
_GENERATIONS, _CHILDREN = 8, 400

Allowed: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Genomes (n, n_groups) to whether each may be tried, (n,)."""


def proposals(
    space: ChannelSpace,
    belief: Belief,
    n: int = N_PROPOSALS,
    known: Sequence[Genome] = (),
    places: Sequence[int] | None = None,
    allowed: Allowed | None = None,
) -> list[Genome]:
    """Networks that cost least damage by a belief alone, spread evenly along the FLOPs axis.

    Args:
        space: Of the target.
        belief: Whose word to take.
        n: How many, at most; fewer in small spaces.
        known: Genomes that are tried anyway.
        places: Which of the n levels, dearest first, where experts share the axis; None: all of them.
        allowed: Which genomes may be tried; None: all.
    """
    terms, scales = Terms(space, belief), Scales()

    def predict(genomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return terms.mean(terms.features(genomes), scales), np.zeros(len(genomes))

    candidates = Candidates(space, Genes(space))
    paths = candidates.paths(predict, _PATHS, np.random.default_rng(0))
    return _spread(space, paths, n, known, places, allowed)


def first_networks(
    space: ChannelSpace,
    experts: Sequence[Belief],
    known: Sequence[Genome],
    scouts: Scouts | None = None,
    allowed: Allowed | None = None,
) -> list[Genome]:
    """What experts would try first, in turn along the FLOPs axis: none is trusted alone.

    Where there are scouts, three of four networks are theirs: they have looked. The other experts share the
    rest. The flat expert proposes nothing.
    """
    informed = [expert for expert in experts if expert.name != FLAT]
    every, asked = range(N_PROPOSALS), list[Genome]()
    others = [place for place in every if scouts is None or place % 4 == 2]
    if scouts is not None:
        theirs = [place for place in every if not informed or place not in others]
        asked += scouted(space, scouts, N_PROPOSALS, known, theirs, allowed)
    for k, belief in enumerate(informed):
        places = others[k :: len(informed)]
        asked += proposals(space, belief, N_PROPOSALS, [*known, *asked], places, allowed)
    return asked


def scouted(
    space: ChannelSpace,
    scouts: Scouts,
    n: int = N_PROPOSALS,
    known: Sequence[Genome] = (),
    places: Sequence[int] | None = None,
    allowed: Allowed | None = None,
) -> list[Genome]:
    """Networks that lose least by what scouts saw, spread evenly along the FLOPs axis.

    The scouts themselves, and what comes of crossing and changing the best of them at each level.

    Args:
        space: Of the target.
        scouts: Whose word to take.
        n: How many, at most; fewer in small spaces.
        known: Genomes that are tried anyway.
        places: As in `proposals`.
        allowed: As in `proposals`.
    """
    candidates, rng = Candidates(space, Genes(space)), np.random.default_rng(0)
    rows = scouts.evidence.genomes
    for _ in range(_GENERATIONS):
        best = _best_by_level(octaves(space, rows), scouts.damage(rows))
        rows = np.unique(
            np.concatenate([rows[best], candidates.offspring(rows[best], _CHILDREN, rng)]), axis=0
        )
    return _spread(space, rows, n, known, places, allowed, scouts.damage(rows))


def _best_by_level(at: np.ndarray, damage: np.ndarray) -> np.ndarray:
    """Indices of what loses least on each quarter of an octave: cheap marvels oust no dearer kin."""
    order = np.argsort(damage, kind="stable")
    _, first = np.unique(np.round(4 * at[order]), return_index=True)
    return order[first]


def portfolio(
    space: ChannelSpace,
    features: np.ndarray,
    lessons: Sequence[Lesson],
    n: int = N_PROPOSALS,
    known: Sequence[Genome] = (),
) -> list[Genome]:
    """Networks of past fronts, carried over group by group, spread evenly along the FLOPs axis.

    Each group takes the kept share that the past group most like it has; all shares are then scaled by one
    factor so that the network costs as much of its dense network as the past one did.

    Args:
        space: Of the target.
        features: Of its groups (g, k), from `group_features`.
        lessons: Whose fronts.
        n: How many, at most.
        known: Genomes that are tried anyway.
    """
    genes = Genes(space)
    carried = []
    for lesson in lessons:
        scale = np.maximum(lesson.features.std(axis=0), 1e-6)
        gaps = np.square((features[:, None] - lesson.features[None]) / scale).clip(max=9.0).sum(axis=2)
        alike = gaps.argmin(axis=1)
        for level, shares in zip(lesson.levels, lesson.front, strict=True):
            factors = np.geomspace(0.2, 5.0, _SCALES)[:, None]
            rows = genes.nearest(np.minimum(shares[alike] * factors, 1.0) * genes.dense)
            carried.append(rows[np.abs(octaves(space, rows) - level).argmin()])
    return _spread(space, np.array(carried).reshape(-1, len(space.groups)), n, known)


def _spread(
    space: ChannelSpace,
    rows: np.ndarray,
    n: int,
    known: Sequence[Genome],
    places: Sequence[int] | None = None,
    allowed: Allowed | None = None,
    damage: np.ndarray | None = None,
) -> list[Genome]:
    """Of some genomes, one for each of n levels between the dearest and the cheapest: the nearest.

    Where damage is given, (rows,), the one that loses least within half the distance of two levels.
    """
    tried = set(known)
    new = np.array([tuple(row) not in tried for row in rows.tolist()], dtype=bool)
    if allowed is not None:
        new &= allowed(rows)
    if not new.any():
        return []
    rows, at = rows[new], octaves(space, rows[new])
    top = 0.0 if allowed is None else float(octaves(space, rows).max())
    levels = np.linspace(max(float(at.min()), -OCTAVES), top, n + 2)[1:-1][::-1]
    loss = np.zeros(len(rows)) if damage is None else damage[new]
    within = 0.0 if damage is None else (levels[0] - levels[-1]) / max(n - 1, 1) / 2
    chosen: dict[Genome, None] = {}
    for place in range(n) if places is None else places:
        gaps = np.maximum(np.abs(at - levels[place]), within)
        for i in np.lexsort((loss, gaps)):
            if (genome := tuple(rows[i].tolist())) not in chosen:
                chosen[genome] = None
                break
    return list(chosen)
