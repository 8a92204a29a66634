"""Finalised networks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.display.printing import new_table, show
from spaces.objectives import in_words

if TYPE_CHECKING:
    from spaces.finals import Distance, Estimate, FinalNetwork, TestResult


def print_finalised(campaign_id: str, networks: Sequence["FinalNetwork"], *, classes: bool = True) -> None:
    """Finalised networks: on test with simultaneous intervals, then by class."""
    name = networks[0].metric
    shown = in_words(name)
    tested = [network for network in networks if network.test is not None]
    title = f"{campaign_id}: finalised networks, {shown} on the validation cases (not tested yet)"
    if tested:
        patients = f" of {tested[0].patients} patients" if tested[0].patients else ""
        title = f"{campaign_id}: {shown} on {tested[0].cases} test cases{patients}"
    print(title)
    columns: tuple[str, ...] = ("network", "FLOPs", "params", "val")
    if tested:
        columns += ("test", "to dense", "calibration error")
    wide = new_table(columns, left=1)
    narrow = new_table([column.replace("calibration ", "calibration\n") for column in columns], left=1)
    for network in networks:
        figures = (
            network.folder,
            f"{100 * network.ratios['flops']:.1f} %",
            f"{100 * network.ratios['params']:.1f} %",
            f"{network.val[name]:.3f}",
        )
        wide.add_row(*figures, *(_on_test(network.test) if tested else ()))
        narrow.add_row(*figures, *(_on_test(network.test, "\n") if tested else ()))
    show(wide, narrow)
    if not tested:
        return
    if classes:
        _print_classes(tested)
        _print_distances(tested)
    print(
        f"\nintervals: 95 %, for all {max(n.tested_together for n in tested)} networks at once; openings of "
        f"these test images in this store: {max(n.openings for n in tested)}"
    )


def _on_test(test: "TestResult | None", between: str = " ") -> tuple[str, str, str]:
    """The figures of a network on the test split, as the table has them; `between`: before an interval."""
    if test is None:
        return "not opened", "", ""
    return (
        _interval(test.metric, between),
        _interval(test.difference, between, signed=True) if test.difference else "",
        f"{test.reliability.error:.3f}" if test.reliability else "",
    )


def _print_classes(tested: Sequence["FinalNetwork"]) -> None:
    """The measure by class, the rarest first: dense, and every other's paired difference to it."""
    first = tested[0].test
    if first is None or len(first.classes) < 2:
        return
    print()
    measure = first.classes[0].measure
    title = f"{measure} by class"
    wide = new_table([title, "cases", *(network.folder for network in tested)], left=1)
    narrow = new_table([title, "cases", "network", "dense, others to it"], left=1)  # a line a network
    narrow.columns[2].justify = "left"
    for i, of_dense in enumerate(first.classes):
        named, cells = (of_dense.name, str(of_dense.cases)), []
        for network in tested:
            result = network.test.classes[i] if network.test else of_dense
            cells.append(_interval(result.difference or result.value, signed=result.difference is not None))
            narrow.add_row(*(named if network is tested[0] else ("", "")), network.folder, cells[-1])
        wide.add_row(*named, *cells)
    show(wide, narrow)


def _print_distances(tested: Sequence["FinalNetwork"]) -> None:
    """How far borders are off, by class: mean and median, and where nothing was drawn."""
    first = tested[0].test
    if first is None or not first.distances:
        return
    print()
    heading = f"HD95 by class ({first.distances[0].unit}): mean, median"
    grid = new_table([heading, *(network.folder for network in tested)], left=1)
    for i, of_dense in enumerate(first.distances):
        cells = []
        for network in tested:
            found = network.test.distances[i] if network.test and network.test.distances else None
            cells.append("" if found is None else distance_in_words(found))
        grid.add_row(of_dense.name, *cells)
    show(grid)


def distance_in_words(found: "Distance") -> str:
    """As "3.2, 2.0; missed in 2 cases"."""
    figures = [f"{value:.2f}" for value in (found.mean, found.median) if value is not None]
    words = ", ".join(figures) or "none"
    for how, n in (("missed", found.missed), ("invented", found.invented)):
        words += f"; {how} in {n}" if n else ""
    return words


def _interval(found: "Estimate", between: str = " ", *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{found.value:{sign}.3f}{between}({found.low:{sign}.3f} to {found.high:{sign}.3f})"
