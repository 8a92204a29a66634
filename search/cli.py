"""The command line: `paretoprune --help` teaches it.

Results go to standard output, progress and messages to standard error. Exit status: 0 done, 1 failed,
2 wrong input, 130 interrupted (resumable).
"""

import importlib.resources
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from search.commands.calibrate import calibrate
from search.commands.data import app as data
from search.commands.embed import embed
from search.commands.export import export
from search.commands.finalise import finalise
from search.commands.latency import latency
from search.commands.options import (
    DEFAULT_STORE,
    Address,
    CampaignFile,
    CampaignId,
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
from search.commands.prior import app as prior
from search.commands.report import report
from spaces.errors import InputError, ParetoPruneError

app = typer.Typer(
    name="paretoprune",
    help="Prune a trained medical-imaging network into a Pareto front of accuracy against FLOPs.\n\n"
    "Start with `paretoprune demo`; then write a campaign file (see examples/) and `paretoprune run` it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

app.add_typer(data, name="data")
app.add_typer(prior, name="prior")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report and the store.")] = Path("demo"),
    trials: Annotated[
        int | None, typer.Option(min=8, help="Evaluations in all; default 100.", show_default=False)
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Search a front on built-in phantoms: no data, no network access, a few minutes on a CPU.

    Leaves in the folder: report.html, the store, and the campaign file to start your own from.
    """
    monitor = monitor_of(quiet, verbose, log_file)
    campaign_file = out / "demo.toml"
    ours = importlib.resources.files("search").joinpath("demo.toml").read_text()
    try:
        out.mkdir(parents=True, exist_ok=True)
        if campaign_file.exists() and campaign_file.read_text() != ours:
            raise InputError(f"{str(campaign_file)!r} was changed; `run` it, or choose another --out")
        campaign_file.write_text(ours)
    except OSError as error:
        raise InputError(f"cannot write into {str(out)!r}: {error.strerror}; choose another --out") from None
    url = f"sqlite:///{out / 'paretoprune.db'}"
    from search.config import load_config
    from search.launch import launch

    config = load_config(campaign_file, [f"budget.trials={trials}"] if trials else [])
    campaign_id = launch(config, url, monitor, command="paretoprune demo")
    path = _write_report([campaign_id], url, out / "report.html")
    _print_front(campaign_id, url)
    print(f"\nreport: {path}")


@app.command()
def run(
    campaign: CampaignFile,
    overrides: Overrides = None,
    prior: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start from past campaigns: what `prior fit` wrote, or builtin.",
            show_default=False,
        ),
    ] = None,
    executor: Executor = None,
    workers: Workers = None,
    address: Address = None,
    store: StoreUrl = DEFAULT_STORE,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Start a campaign and search until its budget is spent.

    Ctrl-C stops it cleanly; `paretoprune resume ID` goes on.
    """
    monitor = monitor_of(quiet, verbose, log_file)
    from search.config import load_config
    from search.launch import launch
    from search.store.engine import store_option

    changes = changes_of(overrides, executor, workers, address)
    changes += [f"search.prior={json.dumps(str(prior))}"] if prior is not None else []
    config = load_config(campaign, changes)
    campaign_id = launch(config, store, monitor, command=command_line())
    _print_front(campaign_id, store)
    monitor.say(f"see it: paretoprune report {campaign_id} --out report.html{store_option(store)}")


@app.command()
def resume(
    campaign: CampaignId,
    overrides: Overrides = None,
    retry_lost: Annotated[
        bool, typer.Option("--retry-lost", metavar="", help="Go back to the first lost trial.")
    ] = False,
    executor: Executor = None,
    workers: Workers = None,
    address: Address = None,
    store: StoreUrl = DEFAULT_STORE,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Go on with an interrupted campaign, or give a finished one more budget.

    Only settings of [budget] and [execution] may change: `--set budget.trials=120`.
    """
    monitor = monitor_of(quiet, verbose, log_file)
    from search.launch import resume as go_on

    changes = changes_of(overrides, executor, workers, address)
    campaign_id = go_on(campaign, store, monitor, changes, retry_lost=retry_lost)
    _print_front(campaign_id, store)


@app.command("list")
def list_campaigns(
    format: Annotated[Literal["table", "json"], typer.Option(help="For people or for machines.")] = "table",
    store: StoreUrl = DEFAULT_STORE,
) -> None:
    """List the campaigns of a store."""
    from search.display.campaigns import print_campaigns
    from search.display.printing import print_json
    from search.store.archive import Store

    with Store(store, create=False) as archive:
        rows = archive.campaigns()
    if format == "json":
        print_json(
            [
                {"id": r.id, "status": r.status, "created": r.created.isoformat(), "trials": r.n_trials}
                for r in rows
            ]
        )
    elif rows:
        print_campaigns(rows)
    else:
        print("no campaigns yet; `paretoprune run CAMPAIGN.toml` adds one", file=sys.stderr)


@app.command()
def show(
    campaign: CampaignId,
    format: Annotated[Literal["table", "json"], typer.Option(help="For people or for machines.")] = "table",
    store: StoreUrl = DEFAULT_STORE,
) -> None:
    """Show how a campaign stands and every setting that decides it."""
    from search.display.campaigns import print_campaign
    from search.display.printing import print_json
    from search.store.archive import Store

    with Store(store, create=False) as archive:
        row = archive.campaign(campaign)
    if format == "json":
        print_json(
            {
                "id": row.id,
                "status": row.status,
                "created": row.created.isoformat(),
                "trials": row.n_trials,
                "config": row.config,
                "fingerprints": row.fingerprints,
                "description": row.description,
            }
        )
    else:
        print_campaign(row)


@app.command()
def inspect(
    campaign: CampaignFile,
    overrides: Overrides = None,
    format: Annotated[
        Literal["table", "tree", "json"], typer.Option(help="For people, by module, or for machines.")
    ] = "table",
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Draw the channel graph into this page.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Say what can be pruned in a campaign's network, what it costs, what is frozen and why.

    Measures a few steps and tells how long the campaign may take. Nothing is trained.
    """
    monitor_of(quiet, verbose, log_file)
    from search.config import load_config
    from search.display.inspection import print_inspection
    from search.display.printing import print_json
    from search.inspection import draw, inspect_campaign

    found = inspect_campaign(load_config(campaign, overrides or []))
    if format == "json":
        print_json(found.as_json())
    else:
        print_inspection(found, tree=format == "tree")
    if picture is not None:
        print(f"picture: {draw(found, picture)}", file=sys.stderr if format == "json" else sys.stdout)


@app.command()
def front(
    campaign: CampaignId,
    format: Annotated[
        Literal["table", "csv", "json"], typer.Option(help="For people or for machines.")
    ] = "table",
    everything: Annotated[bool, typer.Option("--all", metavar="", help="The whole plausible front.")] = False,
    store: StoreUrl = DEFAULT_STORE,
) -> None:
    """Print a campaign's front: the best measured and the advised networks, or --all that may be on it.

    The plausible front holds the networks that no cheaper one is shown to beat, with 95 % confidence. Below:
    what was finalised, as the test split judged it. JSON and CSV hold every measured network.
    """
    from search.display.finalised import print_finalised
    from search.display.front import print_front
    from search.display.printing import print_json
    from search.finals.finalised import finalised, plain
    from search.store.archive import Store
    from search.summary import campaign_summary, front_points

    with Store(store, create=False) as archive:
        report = campaign_summary(archive, campaign)
        networks = finalised(archive, report.id)
    if format == "table":
        print_front(report, everything=everything)
        if networks:
            print()
            print_finalised(report.id, networks, classes=False)
    elif format == "json":
        print_json({**front_points(report), "finalised": [plain(network) for network in networks]})
    else:
        import pandas as pd

        frame = pd.DataFrame(front_points(report)["points"])
        frame["genome"] = [" ".join(map(str, genome)) for genome in frame["genome"]]
        frame.to_csv(sys.stdout, index=False)


app.command()(calibrate)
app.command()(finalise)
app.command()(latency)
app.command()(report)
app.command()(export)
app.command()(embed)


def main() -> None:
    """Entry point: errors of ours become one line and an exit status, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = app(prog_name="paretoprune", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        status = 130
    except InputError as error:
        status = _complain(error, 2)
    except ParetoPruneError as error:
        status = _complain(error, 1)
    except BrokenPipeError:  # the reader of our output has gone, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except typer.Exit as leave:
        status = leave.exit_code
    except Exception as error:
        told = getattr(error, "format_message", None)
        if told is None:
            raise
        status = _correct(told(), getattr(error, "ctx", None))
    sys.exit(status or 0)


def _correct(mistake: str, context: Any) -> int:
    """Say what typer found wrong on the command line; nothing where it has shown the help already."""
    if mistake:
        for words in ("Value error, ", "Input "):
            mistake = mistake.replace(words, "")
        command = "paretoprune" if context is None else context.command_path
        print(f"error: {mistake.rstrip('.')}; `{command} --help` explains it", file=sys.stderr)
    return 2


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _complain(error: ParetoPruneError, status: int) -> int:
    logging.getLogger("paretoprune").debug("%s", error, exc_info=error)
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return status


def _print_front(campaign_id: str, url: str) -> None:
    from search.display.front import print_front
    from search.store.archive import Store
    from search.summary import campaign_summary

    with Store(url, create=False) as archive:
        print_front(campaign_summary(archive, campaign_id))


def _write_report(campaign_ids: list[str], url: str, out: Path) -> Path:
    from reports.page import write_report
    from search.store.archive import Store
    from search.summary import campaign_summary

    with Store(url, create=False) as archive:
        summaries = [campaign_summary(archive, campaign_id) for campaign_id in campaign_ids]
    return write_report(summaries, out)
