"""The command `finalise`: chosen networks tuned in full, dense likewise; then the test split, once.

Everything that is done is kept at once: checkpoints and finished runs as files, networks and their values on
val in the store, the opening of the test split before any network sees it. So whatever ends the program, the
same command goes on.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from search.config import CampaignConfig, override, parse_config
from search.finals.artefacts import write_results
from search.finals.finalisation import DENSE, Finalisation
from search.finals.points import Choice, choose
from search.finals.testing import judge_on_test
from search.latency_table import stored_latency
from search.launch import check_execution
from search.monitor import Monitor
from search.prepare import prepare, with_shared
from search.problem import Problem
from search.store.archive import Store
from search.store.entries import CampaignRow
from search.summary import campaign_summary
from spaces.errors import ConfigError, DataError, InputError
from spaces.finals import FinalNetwork

_DECIDE = ("network", "weights", "space", "ranking", "data", "task")
"""Parts of the fingerprint without which networks of the campaign are not those that were found."""


def finalise(
    campaign_id: str,
    url: str,
    monitor: Monitor,
    choice: Choice = Choice(),  # noqa: B008  # frozen
    overrides: Iterable[str] = (),
    *,
    test: bool = True,
) -> tuple[str, list[FinalNetwork]]:
    """Tune, save and test networks of a campaign; or go on with it.

    Args:
        campaign_id: Which; the start of its id is enough.
        url: Of the store.
        monitor: Shows how it goes.
        choice: Which networks.
        overrides: Settings of [finalise] and [execution] to change, "table.key=value".
        test: Whether to open the test split when all are tuned.

    Returns:
        The campaign's full id, and all of its networks that were finalised with these settings, dense first.

    Raises:
        InputError: The campaign, the networks, the settings, the data or the folder cannot be used.
        RunError: A network could not be tuned; the others are kept.
        KeyboardInterrupt: After Ctrl-C; the same command goes on.
    """
    with Store(url, create=False) as store:
        row = store.campaign(campaign_id)
        config = _config(row, overrides)
        folder = _writable(store.artifacts / row.id)
        points = choose(campaign_summary(store, row.id), store.records(row.id, per_case=False), choice)
        if test and not row.description["data"]["sizes"]["test"]:
            raise DataError(
                f"{row.description['data']['source']} has no test images, so nothing can say how networks do "
                "on patients that no choice has seen; add a test split, or go without with --no-test"
            )
        if row.status != "complete":
            monitor.say(f"campaign {row.id} is {row.status}: what is on its front now may not stay there")
        with monitor.stopping(
            f"stopped; what was tuned is kept: the same command, options included, goes on with {row.id}"
        ):
            problem = _problem(config, row, store.artifacts, monitor)
            job = Finalisation(store, row, config, problem, folder, monitor)
            job.tune(points)
            wanted = {DENSE, *(f"point-{point.number}" for point in points)}
            if test:
                judge_on_test(store, row.id, problem, folder, job.kept, wanted, monitor)
        write_results(folder, job.kept)
        example = points[-1].number if points else DENSE
        use = f"paretoprune export {row.id} --point {example} --format onnx --out DIR{store.option}"
        monitor.say(f"files: {folder}; use one: {use}")
        return row.id, job.kept


def _config(row: CampaignRow, overrides: Iterable[str]) -> CampaignConfig:
    """The campaign's settings with those of [finalise] and [execution] replaced."""
    begun, config = parse_config(row.config), parse_config(override(row.config, overrides))
    if changed := begun.differences(config):
        raise ConfigError(
            f"finalise takes the campaign as it is ({'; '.join(changed)}); only [finalise] and [execution] "
            "may change, as --set finalise.epochs=30"
        )
    check_execution(config)
    if config.finalise.search and config.execution.executor != "ray":
        raise ConfigError(
            "finalise.search = true gives up runs while others go on, which Ray Tune does: add --executor ray"
        )
    return config


def _problem(config: CampaignConfig, row: CampaignRow, artifacts: Path, monitor: Monitor) -> Problem:
    """The campaign's data and dense network as they were; of a cross-fitted one, train and val as given.

    Raises:
        ConfigError: The network, its weights, the data or the code of the factory have changed since.
    """
    folded = config.data.folds > 1
    if folded:  # what the folds trained is theirs
        data = config.data.model_copy(update={"folds": 1})
        search = config.search.model_copy(update={"rungs": ()})
        proxy = config.proxy.model_copy(update={"rung": "full"})
        config = config.model_copy(update={"data": data, "search": search, "proxy": proxy})
    problem = prepare(config, artifacts, monitor, stored_latency(row))
    then, now = row.fingerprints, problem.workload.fingerprints
    parts = [] if folded else [part for part in _DECIDE if then.get(part) != now[part]]
    if row.description["data"]["fingerprint"] != problem.splits.fingerprint:
        parts = ["data"]
    if parts:
        raise ConfigError(
            f"campaign {row.id} was run with another {' and another '.join(parts)}: its networks would not "
            "be those that were found; put back what was there, or start a new campaign"
        )
    if not folded and then.get("code") != now["code"]:
        monitor.say(
            "another version of PyTorch or of this program searched: val may differ in the last digits"
        )
    open_whole = problem.splits.open_whole
    if problem.workload.whole is None and open_whole is not None and problem.task.kind == "segmentation":
        problem = replace(problem, workload=replace(problem.workload, whole=open_whole("val")))
    if config.finalise.start == "shared" and problem.workload.shared is None:
        shared = with_shared(problem.workload, problem.task, artifacts, monitor)
        problem = replace(problem, workload=shared)
    return problem


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"the networks cannot be kept in {str(folder)!r}: {error.strerror}; make it writable, or set "
            "$PARETOPRUNE_ARTIFACTS where the store is a server's"
        ) from None
    return folder
