"""Scouting: cheap looks at some candidates before the search, so that it knows where to look thoroughly.

A damage model searches the rung `scout` as the controller `structured` searches any other; what it saw is one
more expert for that controller, and proposes first networks to every controller. Scouts are evaluated in
rounds, so that what they are does not depend on who computes, and stored in a stage of their own: resuming
goes on with what is there.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from evaluators.protocols import Pool
from evaluators.rungs.prices import prices, scout_price
from search.config import LEAST_SCOUTS, CampaignConfig
from search.controllers.base import Controller, Yardstick
from search.controllers.bounded import Bounded
from search.controllers.registry import make_controller
from search.controllers.structured.belief import Belief, flat
from search.controllers.structured.evidence import Ledger
from search.controllers.structured.scouts import Scouts
from search.monitor import Monitor
from search.prior.advice import Advice, stored_advice
from search.prior.features import fisher_shares
from search.prior.model import SCAN, scan_slopes
from search.prior.proposals import first_networks
from search.problem import Problem
from search.stage import carry_out
from search.store.archive import Store
from search.store.entries import Status
from spaces.errors import StoreError
from spaces.messages import Genome, Record, Trial
from spaces.objectives import DISAGREEMENT, FLOPS
from spaces.space import ChannelSpace

STAGE = RUNG = "scout"

ROUND = 8
"""Scouts that are sent at once: what one finds is known when the next round is asked."""

WORTH = 4.0
"""Evaluations that all scouts of a campaign may cost, unless it is told how many there are."""

FEWEST, MOST = 24, 128
"""Scouts of a campaign, whatever an evaluation costs."""

SHARE = 0.25
"""Of the budget, what scouts may cost unless it is told how many there are."""

Evaluate: TypeAlias = Callable[[Sequence[Trial]], Sequence[Record]]
Groups: TypeAlias = Sequence[Mapping[str, Any]]


def n_scouts(config: CampaignConfig, n_train: int, n_val: int) -> int:
    """How many scouts a campaign sends: as it says, or as many as are worth a few of its evaluations.

    By default only `structured` sends any: it alone learns from them throughout. They cost at most a quarter
    of the budget; where that is too little for `LEAST_SCOUTS`, none are sent.
    """
    settings = config.search
    if settings.scouts is not None:
        return settings.scouts
    if settings.controller != "structured" or config.task.evaluator is not None:
        return 0
    price, scout = prices(config.proxy, n_train, n_val), scout_price(config.task.kind)
    evaluation = price[(*settings.rungs, config.proxy.rung)[0]]
    budget = config.budget.trials * price[config.budget.unit or config.proxy.rung]
    n = int(min(np.clip(WORTH * evaluation / scout, FEWEST, MOST), SHARE * budget / scout))
    return n if n >= LEAST_SCOUTS else 0


def send(
    space: ChannelSpace,
    first: Sequence[Genome],
    n: int,
    seed: int,
    evaluate: Evaluate,
    kept: Callable[[Controller], Controller] = lambda controller: controller,
) -> list[Record]:
    """Send n scouts, in rounds; fewer where the space is small.

    Args:
        space: Where genomes come from.
        first: The first of them: dense, the ladder, and what else is known to be worth a look.
        n: How many.
        seed: Decides every random choice.
        evaluate: Looks at candidates; the records come in the order of the trials.
        kept: What makes a controller keep the campaign's bounds.
    """
    controller = kept(make_controller("structured", space, (FLOPS, DISAGREEMENT), seed, first))
    records: list[Record] = []
    while len(records) < n:
        genomes = controller.ask(min(ROUND, n - len(records)))
        if not genomes:
            break
        found = evaluate([Trial(len(records) + i, genome, RUNG) for i, genome in enumerate(genomes)])
        for record in found:
            controller.tell(record)
        records += found
    return records


def scouts_of(space: ChannelSpace, records: Sequence[Record]) -> Scouts | None:
    """What the scouts saw; None where they saw too little to be of use."""
    ledger = Ledger(Yardstick())
    for record in records:
        if record.complete:
            amounts = record.outcome.per_case.get("disagreement")
            cases = None if amounts is None else -np.asarray(amounts, dtype=float)
            ledger.add(record.trial.genome, -record.value("disagreement"), cases)
    evidence = ledger.evidence(space.dense)
    if evidence is None or len(evidence.genomes) < ROUND:
        return None
    return Scouts(space, evidence)


def own_beliefs(groups: Groups) -> tuple[Belief, ...]:
    """What a network's gradients say of its own groups, no experience in it; then the flat expert."""
    n, shares = len(groups), fisher_shares(groups)
    if shares is None:
        return (flat(n),)
    return Belief(SCAN, scan_slopes(shares), np.ones(n)), flat(n)


def with_scouts(advice: Advice, space: ChannelSpace, groups: Groups, records: Sequence[Record]) -> Advice:
    """What a campaign is told before it begins: its prior's advice, if there was any, and its scouts' word.

    Args:
        advice: Of the prior; empty where there was none.
        space: Of the campaign; its costs are not looked at.
        groups: As the store describes them.
        records: What the scouts saw; none: the advice is as it was.
    """
    scouts = scouts_of(space, records)
    if scouts is None:
        return advice
    return replace(advice, beliefs=advice.beliefs or own_beliefs(groups), scouts=scouts)


def within(problem: Problem, controller: Controller) -> Controller:
    """The controller, kept within the campaign's bounds where it has any."""
    if not problem.bounds.most:
        return controller
    return Bounded(controller, problem.space, problem.bounds, problem.config.search.seed)


def advice_of(campaign_id: str, problem: Problem, store: Store, pool: Pool, monitor: Monitor) -> Advice:
    """What the controller is told before it begins: by the prior, and by scouts that are sent for it."""
    about, space, first = store.campaign(campaign_id).description, problem.space, problem.first
    advice, settings = stored_advice(about), problem.config.search
    if not settings.scouts:
        return advice
    allowed = problem.bounds.met if problem.bounds.most else None
    own = first_networks(space, advice.beliefs or own_beliefs(about["groups"]), first, None, allowed)
    try:
        with monitor.stage("scouting") as advance:

            def told(done: int, trial: Trial) -> None:
                advance(done, settings.scouts or 0)

            def evaluate(trials: Sequence[Trial]) -> list[Record]:
                return carry_out(trials, STAGE, space, pool, store, campaign_id, told)

            kept = partial(within, problem)
            seen = send(space, [*first, *own], settings.scouts, settings.seed, evaluate, kept)
    except KeyboardInterrupt:
        _note(store, campaign_id, "interrupted")
        monitor.say(f"stopped while scouting: go on with `paretoprune resume {campaign_id}{store.option}`")
        raise
    except Exception:
        _note(store, campaign_id, "failed")
        monitor.say(f"failed while scouting: go on with `paretoprune resume {campaign_id}{store.option}`")
        raise
    advice = with_scouts(advice, space, about["groups"], seen)
    if advice.scouts is None:
        monitor.say("the scouts saw too little to go by; the search begins without them")
        return advice
    proposed = first_networks(space, advice.beliefs, first, advice.scouts, allowed)
    return replace(advice, proposals=tuple(proposed))


def _note(store: Store, campaign_id: str, status: Status) -> None:
    """Say how scouting ended, if it was not only gone through again before a search that had begun."""
    with contextlib.suppress(StoreError):
        if not store.campaign(campaign_id).n_trials:
            store.set_status(campaign_id, status)
