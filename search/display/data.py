"""What is in a source of images, and which sources there are."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from search.display.printing import new_table, show, words_table


def print_sources(forms: Sequence[str], sets: Mapping[str, Mapping[str, Any]]) -> None:
    """How sources are written, and the sets that come by name: "sizes", "classes" and "licence" of each."""
    show(words_table({"sources": ", ".join(forms)}))
    print()
    table = new_table(["source", "classes", "pixels", "licence"], left=1)
    table.columns[-1].justify = table.columns[-2].justify = "left"
    for name, known in sets.items():
        sizes = ", ".join(map(str, known["sizes"]))
        table.add_row(f"medmnist:{name}", str(len(known["classes"])), sizes, known["licence"])
    show(table)


def print_data(found: Mapping[str, Any]) -> None:
    """What `Splits.describe` says, with "intensities" beside it, for people."""
    sizes, patients, values = found["sizes"], found["groups"], found["intensities"]
    extent = " x ".join(str(n) for n in found["spatial"])
    channels = f"{found['channels']} channel{'s' * (found['channels'] != 1)}"
    stored = f"{values['stored_as']} from {values['lowest']:.4g} to {values['highest']:.4g}"
    known = [f"{n} in {part}" for part, n in patients.items() if n is not None]
    lines = {
        "source": found["source"],
        "task": found["kind"],
        "images": f"{extent} pixels, {channels}, {stored}",
        "cases": ", ".join(f"{n} {part}" for part, n in sizes.items()),
        "patients": ", ".join(known) or "not known: each case counts as one",
        "duplicates": f"{found['duplicates_removed']} removed from train",
        "normalisation": _normalisation(found["normalisation"]),
        "licence": found["licence"] or "not known",
        "fingerprint": found["fingerprint"],
    }
    show(words_table(lines))
    if found["classes"]:
        print()
        show(_classes(found))


def _classes(found: Mapping[str, Any]) -> Table:
    """The classes with their cases, or pixels where they are masks."""
    unit = "pixels" if found["kind"] == "segmentation" else "cases"
    counts = {part: row for part, row in found["class_counts"].items() if row}
    table = new_table(["class", *(f"{unit} in {part}" for part in counts)], left=1)
    for i, name in enumerate(found["classes"]):
        table.add_row(name, *(f"{row[i]:,}" for row in counts.values()))
    for region, members in found["regions"].items():
        table.add_row(f"region {region}: " + ", ".join(found["classes"][i] for i in members))
    return table


def _normalisation(found: Mapping[str, Any]) -> str:
    words = {"mean": "mean", "std": "deviation", "low": "clipped from", "high": "to"}
    known = [
        f"{word} {', '.join(f'{v:.4g}' for v in found[key])}" for key, word in words.items() if found.get(key)
    ]
    return "; ".join([str(found["mode"]), *known])
