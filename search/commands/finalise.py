"""The command `paretoprune finalise`."""

from typing import Annotated, Literal

import typer

from search.commands.options import (
    DEFAULT_STORE,
    Address,
    CampaignId,
    Executor,
    LogFile,
    Overrides,
    Quiet,
    StoreUrl,
    Verbose,
    Workers,
    changes_of,
    monitor_of,
)
from spaces.errors import InputError


def finalise(
    campaign: CampaignId,
    points: Annotated[
        str | None, typer.Option(metavar="N,M", help="Numbers of the networks, as `front` shows them.")
    ] = None,
    max_flops: Annotated[
        float | None, typer.Option(metavar="SHARE", help="At most this share of dense's FLOPs, as 0.5.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="K", help="So many advised networks, spread along the FLOPs.")
    ] = None,
    test: Annotated[bool, typer.Option(metavar="", help="Open the test split when all are tuned.")] = True,
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
    """Tune chosen networks in full, and dense likewise, keep them as files, and test them once.

    Without --points, --max-flops or --top: the knee of the advised front and the network that answers the
    campaign's question. Only settings of [finalise] and [execution] may change: `--set finalise.epochs=30`.
    The same command again goes on where it was stopped.
    """
    monitor = monitor_of(quiet, verbose, log_file)
    from search.display.finalised import print_finalised
    from search.display.printing import print_json
    from search.finals.finalise import finalise as carry_out
    from search.finals.finalised import plain
    from search.finals.points import Choice

    choice = Choice(_numbers(points), max_flops, top)
    changes = changes_of(overrides, executor, workers, address)
    campaign_id, networks = carry_out(campaign, store, monitor, choice, changes, test=test)
    if format == "json":
        print_json({"campaign": campaign_id, "networks": [plain(n) for n in networks]})
    else:
        print_finalised(campaign_id, networks)


def _numbers(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",")) if text is not None else ()
    except ValueError:
        raise InputError(
            f"--points {text}: write trial numbers with commas between, as --points 12,70"
        ) from None
