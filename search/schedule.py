"""Schedules: at which rung and how often the genomes of a controller are evaluated."""

from collections import deque
from typing import Protocol

from search.controllers.base import Controller
from spaces.messages import Genome, Record, Trial

DENSE_REPLICATES = 3


class Schedule(Protocol):
    """Turns a controller's genomes into trials. What the campaign loop asks and tells."""

    def ask(self, number: int) -> Trial | None:
        """The trial to run under this number; numbers are asked in order, each until a trial comes.

        None: nothing to try before another record is told. Asked again after that; when every trial's
        record has been told and None comes still, the search is exhausted.
        """
        ...

    def tell(self, record: Record) -> None:
        """Learn from a finished trial; records are told in the order of their numbers."""
        ...


class SingleRung:
    """Every genome once, at one rung; the dense reference several times.

    Args:
        controller: Who proposes.
        dense: The dense genome; every comparison leans on its value, so it is replicated.
        rung: Where everything is evaluated.
        dense_replicates: Trials of the dense genome, replicates 0, 1, ...
    """

    def __init__(
        self,
        controller: Controller,
        dense: Genome,
        rung: str = "finetune",
        dense_replicates: int = DENSE_REPLICATES,
    ) -> None:
        self._controller = controller
        self._dense = dense
        self._rung = rung
        self._dense_replicates = dense_replicates
        self._waiting: deque[tuple[Genome, int]] = deque()

    def ask(self, number: int) -> Trial | None:
        """See `Schedule.ask`."""
        if not self._waiting:
            for genome in self._controller.ask(1):
                times = self._dense_replicates if genome == self._dense else 1
                self._waiting.extend((genome, replicate) for replicate in range(times))
        if not self._waiting:
            return None
        genome, replicate = self._waiting.popleft()
        return Trial(number, genome, self._rung, replicate)

    def tell(self, record: Record) -> None:
        """See `Schedule.tell`."""
        self._controller.tell(record)
