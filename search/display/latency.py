"""Measured latencies."""

from collections.abc import Mapping, Sequence
from typing import Any

from search.display.printing import new_table, show


def print_latencies(rows: Sequence[Mapping[str, Any]]) -> None:
    """Measured networks, and how many times faster than the first each is in the same setting."""
    predicted = any(row["predicted_ms"] is not None for row in rows)
    columns = ["network", "runtime", "batch", "ms", "10-90 %", "least", "speed-up", "MB"]
    table = new_table([*columns, "predicted"] if predicted else columns, left=2)
    first = {(row["runtime"], row["batch"]): row["median_ms"] for row in reversed(rows)}
    notes = {}
    for row in rows:
        known = (row["name"], row["runtime"], str(row["batch"]))
        if row["median_ms"] is None:
            notes[row["note"]] = row["runtime"]
            table.add_row(*known, "-")
            continue
        spread = f"{row['low_ms']:.2f}-{row['high_ms']:.2f}"
        base = first[row["runtime"], row["batch"]]
        faster = f"{base / row['median_ms']:.2f}" if base else ""
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.1f}"
        figures = (f"{row['median_ms']:.2f}", spread, f"{row['least_ms']:.2f}", faster, memory)
        guess = f"{row['predicted_ms']:.2f}" if row["predicted_ms"] is not None else ""
        table.add_row(*known, *figures, *([guess] if predicted else []))
    show(table)
    one = rows[0]
    threads = f", {one['threads']} CPU thread{'s' * (one['threads'] > 1)}" if one["device"] == "cpu" else ""
    print(f"\nmilliseconds a call, median; {one['machine']}{threads}, device {one['device']}")
    for note, runtime in notes.items():
        print(f"{runtime}: {note}")
