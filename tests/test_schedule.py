"""Schedules: the dense reference is replicated, everything else is tried once."""

import numpy as np
import pytest

from search.controllers import make_controller
from search.schedule import Racing, Schedule, SingleRung, best_at_most
from search.start import common_below, common_first
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


AUC = Objective("auc", maximize=True)


def measured(trial: Trial, level: float, cases: int = 50, spread: float = 0.0) -> Record:
    """A record whose cases all say about the same, easier by the look: replicate / 10 + fold."""
    noise = spread * np.random.default_rng([*trial.genome, trial.replicate]).standard_normal(cases)
    shares = level + trial.replicate / 10 + trial.fold + noise
    per_case = {"metric": shares, "loss": -shares}
    values = {"auc": float(shares.mean()), "loss": -float(shares.mean())}
    outcome = Outcome(trial.number, "complete", values, per_case)
    return Record(trial, outcome, SPACE.cost(trial.genome).row(0))


def play(schedule: Schedule, trials: int, levels: dict[Genome, float], spread: float = 0.0) -> list[Trial]:
    asked = []
    for number in range(trials):
        trial = schedule.ask(number)
        if trial is None:
            break
        asked.append(trial)
        schedule.tell(measured(trial, levels[trial.genome], spread=spread))
    return asked


def test_racing_looks_again_at_leaders_only_and_not_more_often_than_allowed() -> None:
    levels = {(3, 4): 0.9, (1, 1): 0.5, (2, 2): 0.8, (2, 3): 0.6, (3, 3): 0.85, (1, 2): 0.55}
    controller = Scripted(list(levels))
    asked = play(Racing(controller, (3, 4), AUC, share=0.5, replicates=3), 16, levels)
    assert [(t.genome, t.replicate) for t in asked[:3]] == [((3, 4), r) for r in range(3)]
    again = [t.genome for t in asked[3:] if t.replicate > 0]
    assert (2, 3) not in again, "a cheaper network is far ahead of it"
    assert {(1, 1), (2, 2)} <= set(again)
    assert 0 < len(again) <= 0.5 * (len(asked) - 3) + 1
    assert len(set(asked)) == len(asked)


def test_racing_through_folds_comes_before_replicates() -> None:
    levels = {(3, 4): 0.9, (1, 1): 0.8}
    asked = play(Racing(Scripted(list(levels)), (3, 4), AUC, folds=2, share=5, replicates=2), 99, levels)
    looks = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [(t.replicate, t.fold) for t in asked] == looks + looks


def test_the_ladders_first_looks_buy_no_repeats() -> None:
    """In folds they are many: what is proposed would wait until the ladder was measured over and over."""
    levels = {(3, 4): 0.9, (2, 3): 0.8, (1, 1): 0.5, (2, 2): 0.85, (3, 3): 0.86, (1, 2): 0.7}
    schedule = Racing(
        Scripted(list(levels)), (3, 4), AUC, folds=3, share=0.5, replicates=2, ladder=[(2, 3), (1, 1)]
    )
    asked = [trial.genome for trial in play(schedule, 16, levels)]
    assert asked[:6] == [(3, 4)] * 6
    assert asked[6:13] == [(2, 3)] * 3 + [(1, 1)] * 3 + [(2, 2)]


@pytest.mark.parametrize("value", [AUC, Objective("loss", maximize=False)])
def test_the_controller_is_told_differences_to_dense_in_the_same_look(value: Objective) -> None:
    levels = {(3, 4): 0.9, (1, 1): 0.8}
    controller = Scripted(list(levels))
    play(Racing(controller, (3, 4), value, folds=2, share=5, replicates=2), 99, levels)
    told = [r.value(value.name) for r in controller.told if r.trial.genome == (1, 1)]
    dense = np.mean([r.value(value.name) for r in controller.told if r.trial.genome == (3, 4)])
    assert len(told) == 4
    assert np.allclose(told, dense - 0.1 if value.maximize else dense + 0.1)


def test_racing_survives_failures() -> None:
    controller = Scripted([(3, 4), (1, 1), (2, 2)])
    schedule = Racing(controller, (3, 4), AUC, share=1, replicates=2)
    for number in range(4):
        trial = schedule.ask(number)
        assert trial is not None
        schedule.tell(Record(trial, Outcome(number, "failed", error="lost"), {}))
    assert len(controller.told) == 4
    assert schedule.ask(4) is None


def test_the_best_at_most_as_costly_counts_ties_and_itself() -> None:
    flops, values = np.array([3.0, 1.0, 2.0, 2.0]), np.array([0.5, 0.2, 0.1, 0.9])
    assert best_at_most(flops, values).tolist() == [0.9, 0.2, 0.9, 0.9]


def test_the_ladder_goes_on_while_nothing_is_lost() -> None:
    levels = {(3, 4): 0.9, (2, 3): 0.89, (2, 2): 0.89, (1, 2): 0.6, (1, 1): 0.5, (3, 3): 0.9}
    schedule = Racing(
        Scripted([(3, 4), (2, 3), (3, 3)]),
        (3, 4),
        AUC,
        share=0,
        replicates=1,
        ladder=[(2, 3)],
        below=[(2, 2), (1, 2), (1, 1)],
    )
    asked = [trial.genome for trial in play(schedule, 9, levels)]
    assert asked == [(3, 4), (2, 3), (2, 2), (1, 2), (3, 3)], "the metric has fallen at (1, 2)"


def test_the_networks_below_the_ladder_halve_the_flops() -> None:
    space = ChannelSpace.chain([32, 64, 64, 128])
    levels = np.log2(space.cost([common_first(space)[-1], *common_below(space)]).flops)
    assert len(levels) > 2
    assert (np.diff(levels) < -0.5).all()
    assert not set(common_below(space)) & set(common_first(space))
