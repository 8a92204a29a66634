"""Schedules: the dense reference is replicated, everything else is tried once."""

from search.controllers import make_controller
from search.schedule import Schedule, SingleRung
from search.start import common_first
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.objectives import FLOPS, Objective
from spaces.space import ChannelSpace

SPACE = ChannelSpace.chain([3, 4])


class Scripted:
    """A controller that proposes a list and remembers what it was told."""

    def __init__(self, genomes: list[Genome]) -> None:
        self.genomes = genomes
        self.told: list[Record] = []

    def ask(self, n: int) -> list[Genome]:
        asked, self.genomes = self.genomes[:n], self.genomes[n:]
        return asked

    def tell(self, record: Record) -> None:
        self.told.append(record)


def test_dense_is_replicated_and_the_rest_is_tried_once() -> None:
    schedule: Schedule = SingleRung(Scripted([(3, 4), (1, 1), (2, 2)]), SPACE.dense, "finetune", 3)
    assert [schedule.ask(number) for number in range(6)] == [
        Trial(0, (3, 4), "finetune", 0),
        Trial(1, (3, 4), "finetune", 1),
        Trial(2, (3, 4), "finetune", 2),
        Trial(3, (1, 1), "finetune", 0),
        Trial(4, (2, 2), "finetune", 0),
        None,
    ]


def test_dense_is_replicated_whenever_it_comes() -> None:
    schedule = SingleRung(Scripted([(1, 1), (3, 4)]), SPACE.dense, "full", dense_replicates=2)
    trials = [schedule.ask(number) for number in range(4)]
    assert [(t.genome, t.rung, t.replicate) for t in trials if t] == [
        ((1, 1), "full", 0),
        ((3, 4), "full", 0),
        ((3, 4), "full", 1),
    ]
    assert trials[-1] is None


def test_none_is_not_for_ever() -> None:
    controller = Scripted([])
    schedule = SingleRung(controller, SPACE.dense)
    assert schedule.ask(0) is None
    controller.genomes = [(2, 1)]
    assert schedule.ask(0) == Trial(0, (2, 1), "finetune", 0)


def test_every_record_reaches_the_controller() -> None:
    controller = Scripted([(3, 4), (1, 1)])
    schedule = SingleRung(controller, SPACE.dense, dense_replicates=1)
    for number in range(2):
        trial = schedule.ask(number)
        assert trial is not None
        schedule.tell(Record(trial, Outcome(number, "failed", error="lost"), {}))
    assert [record.trial.genome for record in controller.told] == [(3, 4), (1, 1)]


def test_a_whole_space_is_tried_with_a_real_controller() -> None:
    objectives = (FLOPS, Objective("auc", maximize=True))
    controller = make_controller("nsga2", SPACE, objectives, 0, common_first(SPACE))
    schedule = SingleRung(controller, SPACE.dense)
    number = 0
    genomes = set()
    while (trial := schedule.ask(number)) is not None:
        assert trial.number == number
        genomes.add(trial.genome)
        outcome = Outcome(number, "complete", {"auc": sum(trial.genome) / 10})
        schedule.tell(Record(trial, outcome, SPACE.cost(trial.genome).row(0)))
        number += 1
    assert len(genomes) == SPACE.size
    assert number == SPACE.size + 2
