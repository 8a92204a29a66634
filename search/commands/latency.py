"""The command `paretoprune latency`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from search.commands.options import DEFAULT_STORE, LogFile, Overrides, Quiet, StoreUrl, Verbose, monitor_of
from spaces.errors import InputError


def latency(
    what: Annotated[str, typer.Argument(metavar="ID|CAMPAIGN.toml", help="A campaign, or a campaign file.")],
    points: Annotated[
        str | None,
        typer.Option(
            metavar="N,M", help="Trials to measure; default: what the front advises.", show_default=False
        ),
    ] = None,
    runtime: Annotated[str, typer.Option(metavar="NAME,...", help="eager, compile and onnx.")] = "eager",
    batch: Annotated[str, typer.Option(metavar="N,M", help="Images a call.")] = "1",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each network; more on a busy machine.")] = 7,
    fit: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Fit the model that [latency] describes into this file."),
    ] = None,
    advise: Annotated[
        bool, typer.Option("--advise", metavar="", help="Say which multiples of channels this machine likes.")
    ] = False,
    overrides: Overrides = None,
    format: Annotated[Literal["table", "json"], typer.Option(help="For people or for machines.")] = "table",
    store: StoreUrl = DEFAULT_STORE,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Measure how fast a campaign's networks are here, and what memory they take.

    Networks are timed in turn, after a warm-up; a campaign's figures are kept for its report and exports.
    """
    monitor = monitor_of(quiet, verbose, log_file)
    from evaluators.latency.runtimes import check_runtime
    from search.config import load_config
    from search.display.latency import print_latencies
    from search.display.printing import print_json
    from search.latencies import (
        Asked,
        advise_target,
        campaign_target,
        file_target,
        fit_target,
        measure_target,
    )
    from search.latency_table import in_words

    runtimes = tuple(check_runtime(name) for name in dict.fromkeys(_words(runtime)))
    asked = Asked(runtimes, tuple(_numbers(batch, "--batch")), device, threads, rounds)
    if what.endswith(".toml") or Path(what).is_file():
        if points:
            raise InputError("--points are trials of a campaign that has run; leave them out, or give its id")
        target = file_target(load_config(what, overrides or []))
    else:
        if overrides:
            raise InputError("--set is for campaign files; a campaign that has run keeps its settings")
        target = campaign_target(what, store, _numbers(points, "--points") if points else ())
    with monitor.stopping("stopped; what was under way is not kept: the same command begins again"):
        if fit is not None:
            target = fit_target(target, fit, monitor)
        rows, model = measure_target(target, asked, monitor), target.space.costs.latency
        advice = advise_target(target, asked, monitor) if advise else None
    if format == "json":
        fitted = {} if model is None else {"setting": dict(model.setting), "errors": dict(model.errors)}
        advised = {} if advice is None else advice.as_json()
        found = {"campaign": target.title, "measured": rows, "fitted": fitted, "advice": advised}
        print_json(found)
        return
    print_latencies(rows)
    if model is not None:
        print(in_words(model))
    if advice is not None:
        print(advice.in_words())


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str, option: str) -> list[int]:
    words = _words(text)
    if not words or not all(word.isdecimal() for word in words):
        raise InputError(f"{option} {text!r}: it takes whole numbers with commas between, as 1,8")
    return list(dict.fromkeys(map(int, words)))
