"""Options that several commands share, and what they mean."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from search.monitor import Monitor

StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="URL",
        envvar="PARETOPRUNE_STORE",
        help="Database of campaigns: sqlite:///FILE.db or postgresql://...",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", metavar="", help="No progress, only results and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", metavar="", help="Log what happens inside.")]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", metavar="FILE", help="Append the log to this file as JSON lines.")
]
CampaignFile = Annotated[Path, typer.Argument(metavar="CAMPAIGN.toml", help="The campaign file.")]
CampaignId = Annotated[str, typer.Argument(metavar="ID", help="A campaign's id, or its beginning.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="TABLE.KEY=VALUE", help="Replace a setting, as budget.trials=60; repeatable."
    ),
]
Executor = Annotated[
    Literal["serial", "ray"] | None,
    typer.Option(help="In this process, or on Ray workers.", show_default=False),
]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="Ray workers.", show_default=False)]
Address = Annotated[
    str | None, typer.Option(help="Address of a running Ray cluster; default: one on this machine.")
]

DEFAULT_STORE = "sqlite:///paretoprune.db"


def monitor_of(quiet: bool, verbose: bool, log_file: Path | None) -> "Monitor":
    """Set up logging; the monitor that shows progress on standard error."""
    from search.logs import set_up_logging
    from search.monitor import Monitor, TerminalMonitor

    set_up_logging(verbose=verbose, log_file=log_file)
    return Monitor() if quiet else TerminalMonitor()


def changes_of(
    overrides: list[str] | None, executor: str | None, workers: int | None, address: str | None
) -> list[str]:
    """What --set says, then the flags that say where to run, as overrides; workers or an address mean Ray."""
    if executor is None and (workers is not None or address is not None):
        executor = "ray"
    flags = {"executor": executor, "workers": workers, "address": address}
    where = [f"execution.{name}={value}" for name, value in flags.items() if value is not None]
    return [*(overrides or []), *where]


def command_line() -> str:
    """The command line as a report may show it: no directories, and no store (a URL may hold a password)."""
    words, shown = iter(sys.argv[1:]), ["paretoprune"]
    for word in words:
        if word == "--store":
            next(words, None)
        elif not word.startswith("--store="):
            shown.append(re.split(r"[/\\]", word.rstrip("/\\"))[-1])
    return " ".join(shown)
