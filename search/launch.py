"""Starting and resuming campaigns: preparation, pool, store and loop put together."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from evaluators.protocols import EvaluatorSpec, Pool
from evaluators.rungs.prices import joint_price, prices, scout_price
from search import scouting
from search.calibration import CHANCE, FULL, Calibration, calibration_trials, compare_rungs, run_trials
from search.campaign import Budget, Campaign
from search.config import CampaignConfig, override, parse_config
from search.controllers.base import Controller
from search.controllers.registry import make_controller
from search.controllers.structured.controller import StructuredController
from search.describe import describe_problem
from search.halving import Halving
from search.latency_table import stored_latency
from search.monitor import Monitor
from search.prepare import prepare
from search.prior.advice import advised, in_words, noted, verdict
from search.problem import Problem
from search.schedule import Racing, Schedule
from search.store.archive import Store
from search.store.engine import artifact_dir, check_store
from search.store.entries import CampaignEntry
from spaces.errors import ConfigError, RunError
from spaces.latency import LatencyModel

CROSS_FIT_SHARE = 0.5
"""Of the trials, how many may be promising genomes in further folds."""


def launch(config: CampaignConfig, url: str, monitor: Monitor, command: str = "") -> str:
    """Start a campaign and run it to the end of its budget.

    Args:
        config: What to search.
        url: Of the store.
        monitor: Shows how it goes.
        command: The command line, for the record.

    Returns:
        The campaign's id.

    Raises:
        InputError: Something that was given cannot be used; nothing is stored then.
        RunError: The search could not be carried out.
        KeyboardInterrupt: After Ctrl-C; what was found is stored.
    """
    check_store(url)
    check_execution(config)
    config = noted(config)
    problem = _decided(_prepared(config, artifact_dir(url), monitor))
    entry = advised(_entry(problem, command), config, problem.space)
    with _pool(config, problem.spec) as pool, Store(url) as store:
        campaign_id = store.create(entry)
        if config.calibrate.at_start:
            _refuse_chance(campaign_id, _calibrate(campaign_id, problem, store, pool, monitor), store)
        _run(campaign_id, problem, store, pool, monitor)
    return campaign_id


def calibrate(
    config: CampaignConfig, url: str, monitor: Monitor, command: str = ""
) -> tuple[str, Calibration]:
    """Find out how well each rung ranks, without searching; see `search.calibration`.

    Returns:
        The id under which the evaluations are stored (in the stage "calibrate"), and what was found.

    Raises:
        InputError: Something that was given cannot be used.
        RunError: Too few networks could be evaluated.
    """
    check_store(url)
    check_execution(config)
    settings = config.calibrate.model_copy(update={"at_start": True})
    config = config.model_copy(update={"calibrate": settings, "name": f"{config.name[:52]}-calibrate"})
    problem = _prepared(config, artifact_dir(url), monitor)
    with _pool(config, problem.spec) as pool, Store(url) as store:
        campaign_id = store.create(_entry(problem, command))
        found = _calibrate(campaign_id, problem, store, pool, monitor)
        store.set_status(campaign_id, "complete")
    return campaign_id, found


def resume(
    campaign_id: str, url: str, monitor: Monitor, overrides: Iterable[str] = (), *, retry_lost: bool = False
) -> str:
    """Go on with a campaign, perhaps with a larger budget or another executor.

    Args:
        campaign_id: Which; the start of its id is enough.
        url: Of the store.
        monitor: Shows how it goes.
        overrides: Settings to change, "table.key=value".
        retry_lost: Go back to the first trial that the machines lost, whatever was found since.

    Returns:
        The campaign's full id.

    Raises:
        StoreError: No such campaign.
        ConfigError: The overrides, the data, the weights or the code differ from what it was begun with.
    """
    with Store(url, create=False) as store:
        row = store.campaign(campaign_id)
        begun = parse_config(row.config)
        config = parse_config(override(row.config, overrides))
        if changed := begun.differences(config):
            raise _changed(row.id, changed, "only budget and execution may change; start a new campaign")
        check_execution(config)
        problem = _prepared(config, artifact_dir(url), monitor, stored_latency(row))
        now = problem.spec.fingerprints
        if changed := [
            f"{part}: {row.fingerprints.get(part, 'none')[:8]} -> {now[part][:8]}"
            for part in now
            if row.fingerprints.get(part) != now[part]
        ]:
            raise _changed(row.id, changed, "put back what was there, or start a new campaign")
        with _pool(config, problem.spec) as pool:
            store.update_config(row.id, config.model_dump(mode="json"))
            _run(row.id, problem, store, pool, monitor, retry_lost=retry_lost)
        return row.id


def _prepared(
    config: CampaignConfig, artifacts: Path, monitor: Monitor, latency: LatencyModel | None = None
) -> Problem:
    with monitor.stopping(
        "stopped before the first trial; what was trained is kept: the same command goes on"
    ):
        return prepare(config, artifacts, monitor, latency)


def _decided(problem: Problem) -> Problem:
    """The problem with the number of its scouts in its configuration: resuming has to send as many."""
    splits, config = problem.workload.splits, problem.config
    n = scouting.n_scouts(config, len(splits.train), len(splits.val))
    search = config.search.model_copy(update={"scouts": n})
    return replace(problem, config=config.model_copy(update={"search": search}))


def _entry(problem: Problem, command: str) -> CampaignEntry:
    uniform = [*problem.first[1:], *problem.below]
    return CampaignEntry(
        name=problem.config.name,
        config=problem.config.model_dump(mode="json"),
        fingerprint=problem.spec.fingerprint,
        fingerprints=problem.spec.fingerprints,
        description=describe_problem(problem, uniform, command),
    )


def _calibrate(campaign_id: str, problem: Problem, store: Store, pool: Pool, monitor: Monitor) -> Calibration:
    settings, space = problem.config.calibrate, problem.space
    trials = calibration_trials(space, settings.networks, problem.config.search.seed, settings.rungs)
    try:
        records = run_trials(trials, space, pool, store, campaign_id, monitor)
        found = compare_rungs(records, space, problem.task.metric, problem.chance_at(FULL))
    except KeyboardInterrupt:
        store.set_status(campaign_id, "interrupted")
        monitor.say("stopped while calibrating; every evaluation so far is stored: the same command goes on")
        raise
    except Exception:
        store.set_status(campaign_id, "failed")
        raise
    about = store.campaign(campaign_id).description
    store.update_description(campaign_id, {**about, "calibration": found.as_json()})
    monitor.say(
        f"calibrated on {found.networks} networks: the cheapest good rung is {found.rung!r}, ranked by the "
        f"{found.value}"
    )
    return found


def _refuse_chance(campaign_id: str, found: Calibration, store: Store) -> None:
    if found.at_chance:
        store.set_status(campaign_id, "failed")
        raise RunError(
            f"no rung ranks {found.networks} networks better than chance here (upper bounds of Kendall's tau "
            f"below {CHANCE:g}): a search would follow noise; set proxy.rung = 'full', or take more val cases"
        )


def _run(
    campaign_id: str,
    problem: Problem,
    store: Store,
    pool: Pool,
    monitor: Monitor,
    *,
    retry_lost: bool = False,
) -> None:
    config, space = problem.config, problem.space
    advice = scouting.advice_of(campaign_id, problem, store, pool, monitor)
    controller = make_controller(
        config.search.controller,
        space,
        problem.objectives,
        config.search.seed,
        problem.first,
        config.search.options,
        proposals=advice.proposals,
        yardstick=problem.yardstick,
        beliefs=advice.beliefs,
        scouts=advice.scouts,
    )
    bounded = scouting.within(problem, controller)
    if advice.about is not None:
        monitor.say(in_words(advice))
    trials = config.budget.trials
    monitor.say(f"campaign {campaign_id}: {trials} trial{'s' * (trials != 1)}, {config.search.controller}")
    schedule, most = _schedule(bounded, problem)
    campaign = Campaign(
        id=campaign_id,
        store=store,
        space=space,
        schedule=schedule,
        metric=problem.task.metric,
        chance=problem.chance_at(config.judging_rung),
        lag=config.search.lag,
        budget=Budget(most, config.budget.wall_s),
        retry_lost=retry_lost,
        rung=config.judging_rung,
        folds=config.data.folds,
    )
    with monitor.stopping(
        f"stopped; everything found is stored: go on with `paretoprune resume {campaign_id}{store.option}`"
    ):
        campaign.run(pool, monitor)
    if isinstance(controller, StructuredController) and (said := verdict(controller.weights)):
        monitor.say(said)


def _schedule(controller: Controller, problem: Problem) -> tuple[Schedule, int]:
    """The schedule that the configuration asks for, and the most trials that its budget allows."""
    config, space = problem.config, problem.space
    first, trials = problem.first, config.budget.trials
    if not config.search.rungs:
        racing = Racing(
            controller,
            space.dense,
            problem.value,
            config.proxy.rung,
            folds=config.data.folds,
            share=max(config.search.repeats, CROSS_FIT_SHARE if config.data.folds > 1 else 0.0),
            ladder=first[1:],
            below=problem.below,
        )
        return racing, trials
    halving = partial(
        Halving,
        controller,
        space,
        problem.value,
        config.search.rungs,
        ladder=first[1:],
        folds=config.data.folds,
    )
    if config.budget.unit is None:
        return halving(), trials
    splits = problem.workload.splits
    n_train, n_val = len(splits.train), len(splits.val)
    windows = problem.windows
    price = prices(config.proxy, n_train, n_val, None if windows is None else int(windows.sum()))
    budget = trials * price[config.budget.unit]
    joint = problem.workload.shared is not None
    spent = config.data.folds * joint_price(config.proxy, n_train) if joint else 0.0
    if config.calibrate.at_start:
        looks = [*config.calibrate.rungs, "full", "full"]
        spent += config.calibrate.networks * sum(price[rung] for rung in looks)
    spent += (config.search.scouts or 0) * scout_price(config.task.kind)
    if spent >= budget:
        raise ConfigError(
            f"budget.trials = {trials}: joint training, calibration and scouts are worth "
            f"{spent / price[config.budget.unit]:.0f} of them, and nothing is left to search with; give more"
        )
    schedule = halving(prices=price, budget=budget, spent=spent)
    return schedule, max(1, int(budget / min(price.values())))


def check_execution(config: CampaignConfig) -> None:
    """Refuse what no Ray worker could do, before anything expensive starts."""
    execution, device = config.execution, config.proxy.device
    if execution.executor != "ray":
        return
    share = execution.gpus_per_worker
    if ":" in device:
        raise ConfigError(f"proxy.device = {device!r}, but Ray gives each worker its GPU: write 'cuda'")
    if device == "cuda" and not share:
        raise ConfigError("proxy.device = 'cuda' needs GPUs: set execution.gpus_per_worker, as to 0.5 or 1")
    if device == "cpu" and share:
        raise ConfigError(
            f"execution.gpus_per_worker = {share:g} is wasted on proxy.device = 'cpu': set it to 0"
        )
    if execution.address:
        from evaluators.pools.cluster import check_cluster

        check_cluster(execution.address)


def _pool(config: CampaignConfig, spec: EvaluatorSpec) -> AbstractContextManager[Pool]:
    execution, threads = config.execution, config.proxy.threads
    if execution.executor == "serial":
        from evaluators.pools.serial import SerialPool

        return SerialPool(spec, threads=threads)
    from evaluators.pools.raypool import RayPool

    return RayPool(
        spec,
        workers=min(execution.workers, config.search.lag + 1),  # more would never be busy
        address=execution.address,
        threads=threads,
        gpus_per_worker=execution.gpus_per_worker,
        deadline_s=execution.deadline_s,
        memory_gb=execution.memory_gb,
        recycle_after=execution.recycle_after,
    )


def _changed(campaign_id: str, changes: list[str], way_out: str) -> ConfigError:
    return ConfigError(
        f"campaign {campaign_id} was begun with other settings ({'; '.join(changes)}); {way_out}"
    )
