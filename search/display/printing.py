"""What all tables on standard output share."""

import json
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.tree import Tree


def print_json(data: object) -> None:
    """Indented JSON."""
    print(json.dumps(data, indent=2))


def new_table(columns: Sequence[str] = (), *, left: int = 0, last_left: bool = False) -> Table:
    """A table without lines.

    Args:
        columns: Headings.
        left: So many columns from the first are words, aligned left; the others are figures.
        last_left: Whether the last one is words, too.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        words = i < left or (last_left and i == len(columns) - 1)
        table.add_column(column, justify="left" if words else "right")
    return table


def words_table(lines: Mapping[str, str]) -> Table:
    """Label and text, one a line; long texts go on below themselves."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in lines.items():
        table.add_row(label, text)
    return table


def show(table: Table | Tree, narrow: Table | None = None) -> None:
    """Print it, as wide as the terminal is, without blanks at the ends of lines.

    `narrow` is printed instead where the table would be folded.
    """
    # A pipe has no width: give it room instead of folding at 80.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
    unbounded = console.options.update(max_width=10_000)
    if isinstance(table, Table) and Measurement.get(console, unbounded, table).maximum > console.width:
        table.padding = (0, 1, 0, 0)  # closer together, before anything is folded
        if narrow and Measurement.get(console, unbounded, table).maximum > console.width:
            table, table.padding = narrow, table.padding
    with console.capture() as drawn:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))
