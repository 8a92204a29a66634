"""Which units of a group stay longest: the order that a criterion gives them, found once for all genomes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from spaces.clone import Inventory, check_fit
from spaces.criteria import CRITERIA, Batches, Loss, Material
from spaces.errors import InputError, NetworkError, RunError, did_you_mean
from spaces.messages import Genome
from spaces.space import ChannelSpace


@dataclass(frozen=True, eq=False)
class Ranking:
    """The units of every group, best first.

    Attributes:
        criterion: What ranked them.
        space: Fingerprint of the channel space, the one with a gene for every group.
        order: Per group, its units (numbered from 0 within the group), best first; int64.
    """

    criterion: str
    space: str
    order: tuple[np.ndarray, ...]

    def kept(self, space: ChannelSpace, genome: Genome) -> np.ndarray:
        """Mask over all units: the genome's best of each group, (number of units,) bool.

        Args:
            space: The space that was ranked, or one in which groups of it are tied.
            genome: Of that space.

        Raises:
            InputError: The ranking is of another space.
        """
        if self.space != space.fine.fingerprint:
            raise InputError("the ranking belongs to another channel space; rank the channels of this one")
        kept = np.zeros(space.offsets[-1], dtype=bool)
        counts = space.expand(np.asarray([genome], dtype=float))[0].astype(np.int64)
        for start, order, count in zip(space.offsets, self.order, counts, strict=False):
            kept[start + order[:count]] = True
        return kept


def rank_channels(
    model: nn.Module,
    space: ChannelSpace,
    criterion: str = "l1",
    batches: Batches | None = None,
    loss: Loss | None = None,
    *,
    seed: int = 0,
) -> Ranking:
    """Rank the units of every group. Deterministic; the model is not changed. Equal units keep their order.

    Args:
        model: The dense network of the space.
        space: Its channel space; one with tied groups has the ranking of the groups themselves.
        criterion: One of `CRITERIA`.
        batches: (images, targets), for criteria that look at images; read once.
        loss: (outputs, targets) -> scalar, for criteria that look at the loss.
        seed: Of the criterion `random`.

    Raises:
        InputError: The criterion is unknown, or lacks its data.
        NetworkError: The model is not the one that the space describes, or its scores are not finite.
    """
    if criterion not in CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}; {did_you_mean(criterion, CRITERIA)}")
    needs = CRITERIA[criterion]
    if (needs.batches and batches is None) or (needs.loss and loss is None):
        also = " and loss=" if needs.loss else ""
        raise InputError(
            f"criterion {criterion!r} looks at data: give batches=[(images, targets), ...]{also}"
        )
    space = space.fine
    check_fit(Inventory.of(model), space)
    with torch.random.fork_rng(devices=[]):
        scores = needs.score(Material(model, space, batches or (), loss or _no_loss, seed))
    if not np.isfinite(scores).all():
        raise NetworkError(
            f"criterion {criterion!r} gives scores that are not finite: look for NaN in the weights"
            + (", the images and the loss" if needs.batches else "")
        )
    order = tuple(
        np.argsort(-scores[start:stop], kind="stable")
        for start, stop in zip(space.offsets, space.offsets[1:], strict=False)
    )
    return Ranking(criterion, space.fingerprint, order)


def _no_loss(outputs: object, _: Tensor) -> Tensor:
    raise RunError(f"a criterion that was given no loss asked for it, of {type(outputs).__name__}")
