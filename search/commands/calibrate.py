"""The command `paretoprune calibrate`."""

from typing import Annotated, Literal

import typer

from search.commands.options import (
    DEFAULT_STORE,
    Address,
    CampaignFile,
    Executor,
    LogFile,
    Overrides,
    Quiet,
    StoreUrl,
    Verbose,
    Workers,
    changes_of,
    command_line,
    monitor_of,
)


def calibrate(
    campaign: CampaignFile,
    overrides: Overrides = None,
    format: Annotated[Literal["table", "json"], typer.Option(help="For people or for machines.")] = "table",
    executor: Executor = None,
    workers: Workers = None,
    address: Address = None,
    store: StoreUrl = DEFAULT_STORE,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Say how well each rung ranks networks here, what it costs, and which to take.

    Evaluates a few networks on every rung and twice on `full` ([calibrate] in the campaign file).
    """
    monitor = monitor_of(quiet, verbose, log_file)
    from search.config import load_config
    from search.display.calibration import print_calibration
    from search.display.printing import print_json
    from search.launch import calibrate as find_out

    config = load_config(campaign, changes_of(overrides, executor, workers, address))
    campaign_id, found = find_out(config, store, monitor, command=command_line())
    if format == "json":
        print_json({"campaign": campaign_id, **found.as_json()})
    else:
        print_calibration(found)
