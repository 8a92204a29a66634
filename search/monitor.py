"""What a long command shows while it works: the silent base, and one for the terminal."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

logger = logging.getLogger("paretoprune")


class Advance(Protocol):
    """Says how far a stretch of work is."""

    def __call__(self, done: int, total: int, note: str = "", /) -> None:
        """So much of the whole is done; what else is worth knowing, as the best so far."""
        ...


Update: TypeAlias = Callable[[int, int, str], None]
"""Called with done, total and a note."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a campaign stands after a trial.

    Attributes:
        done: Finished trials.
        total: Trials in the budget.
        failed: How many of the finished ones failed.
        reused: How many of the finished ones other campaigns of the store had evaluated.
        rate_per_min: Trials finished a minute, in this run; NaN until one has.
        left_s: Seconds that the rest should take; NaN while unknown.
        hypervolume: Above max(dense - 0.10, chance), in metric x octaves of FLOPs.
        best: The observed front as (FLOPs ratio, metric), cheapest first.
    """

    done: int
    total: int
    failed: int
    reused: int
    rate_per_min: float
    left_s: float
    hypervolume: float
    best: tuple[tuple[float, float], ...]


class Monitor:
    """Shows nothing, only logs; what library code and tests get unless they ask for more.

    Attributes:
        lines_every_s: How often work that goes on is worth a line.
    """

    lines_every_s: float = 10.0

    def say(self, text: str) -> None:
        """A message worth a line."""
        logger.info(text)

    @contextmanager
    def stopping(self, text: str) -> Iterator[None]:
        """What Ctrl-C leaves, and how to go on: said when it comes."""
        try:
            yield
        except KeyboardInterrupt:
            self.say(text)
            raise

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """A stretch of work that knows how far it is: shown with its rate and the time left."""
        logger.info(title)
        started, begun = time.monotonic(), -1

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal begun
            if begun < 0:  # what an earlier run had done says nothing about the pace
                begun = done - 1
            pace = _pace(done - begun, total - done, time.monotonic() - started)
            update(done, total, " · ".join(part for part in (*pace, note) if part))

        with self._bar(title) as update:
            yield advance

    @contextmanager
    def campaign(self, total: int) -> Iterator[Callable[[Standing], None]]:
        """The trials of a campaign, with what was found so far."""
        with self._bar("searching") as update:
            yield lambda standing: update(standing.done, standing.total, describe(standing))

    @contextmanager
    def _bar(self, title: str) -> Iterator[Update]:
        yield self._every(title, _log)

    def _every(self, title: str, line: Callable[[str, int, int, str], None]) -> Update:
        """Calls `line` every so often, and at the end."""
        last, ended = time.monotonic(), False

        def update(done: int, total: int, note: str) -> None:
            nonlocal last, ended
            if (done >= total and not ended) or time.monotonic() - last >= self.lines_every_s:
                last, ended = time.monotonic(), done >= total
                line(title, done, total, note)

        return update


class TerminalMonitor(Monitor):
    """Bars on a terminal, plain lines every so often where there is none; always on standard error."""

    def __init__(self, *, lines_every_s: float = 10.0) -> None:
        self.lines_every_s = lines_every_s
        self.console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """One line."""
        logger.debug(text)
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def _bar(self, title: str) -> Iterator[Update]:
        log = self._every(title, _log)
        if not self.console.is_terminal:
            show = self._every(title, self._print)

            def both(done: int, total: int, note: str) -> None:
                log(done, total, note)
                show(done, total, note)

            yield both
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20, table_column=Column(min_width=20)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", style="dim", table_column=Column(ratio=1, no_wrap=True)),
        )
        with Progress(*columns, console=self.console, transient=True, expand=True) as bar:
            task = bar.add_task(title, total=None, note="")

            def update(done: int, total: int, note: str) -> None:
                log(done, total, note)
                bar.update(task, completed=done, total=total, note=note)

            yield update

    def _print(self, title: str, done: int, total: int, note: str) -> None:
        self.console.print(f"{title}: {done}/{total}  {note}".rstrip(), markup=False, soft_wrap=True)


def _log(title: str, done: int, total: int, note: str) -> None:
    """Into the log, as numbers too."""
    progress = {"stage": title, "done": done, "total": total, "note": note}
    logger.debug("%s: %d/%d  %s", title, done, total, note, extra={"progress": progress})


def _pace(done: int, left: int, elapsed_s: float) -> tuple[str, ...]:
    """Rate and time left, once there is something to tell them from."""
    if done < 2 or elapsed_s <= 0:
        return ()
    rate = done / elapsed_s
    shown = f"{rate:.3g}/s" if rate >= 1 else f"{60 * rate:.3g}/min"
    return (shown, f"{duration(left / rate)} left") if left > 0 else (shown,)


def describe(standing: Standing) -> str:
    """Rate, time left, hypervolume and the best networks in a few words."""
    words = []
    if standing.rate_per_min == standing.rate_per_min:
        words.append(f"{standing.rate_per_min:.1f}/min")
    if standing.left_s == standing.left_s and standing.done < standing.total:
        words.append(f"{duration(standing.left_s)} left")
    if standing.failed:
        words.append(f"{standing.failed} failed")
    if standing.reused:
        words.append(f"{standing.reused} known from earlier campaigns")
    words.append(
        f"hypervolume {standing.hypervolume:.3f}" if standing.hypervolume else "nothing near dense yet"
    )
    shown = standing.best[:: max(1, -(-len(standing.best) // 3))]
    if shown:
        words.append("best " + ", ".join(f"{metric:.3f} at {100 * ratio:.0f} %" for ratio, metric in shown))
    return " · ".join(words)


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
