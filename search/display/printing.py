"""What all tables on standard output share."""

import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.tree import Tree


def print_json(data: object) -> None:
    """Indented JSON."""
    print(json.dumps(data, indent=2))


def new_table(
    columns: Sequence[str] = (), *, left: int = 0, last_left: bool = False, title: str | None = None
) -> Table:
    """A table without lines.

    Args:
        columns: Headings.
        left: So many columns from the first are words, aligned left; the others are figures.
        last_left: Whether the last one is words, too.
        title: Above it.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", caption=title)  # `show` puts it above
    for i, column in enumerate(columns):
        words = i < left or (last_left and i == len(columns) - 1)
        table.add_column(column, justify="left" if words else "right")
    return table


def show(table: Table | Tree) -> None:
    """Print it, as wide as the terminal is; a title in one line, no blanks at the ends of lines."""
    # A pipe has no width: give it room instead of folding at 80.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
    if isinstance(table, Table) and table.caption is not None:
        console.print(str(table.caption), soft_wrap=True)
        table.caption = None
    with console.capture() as drawn:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))
