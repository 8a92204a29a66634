"""A campaign's front."""

from typing import TYPE_CHECKING

from search.display.printing import new_table, show
from spaces.intervals import smallest_difference

if TYPE_CHECKING:
    from reports.campaign import CampaignReport

ROWS = 15
"""Networks that are printed unless all are asked for."""

FLAT = 0.12
"""Share of the FLOPs: a task whose ladder is shown to lose next to nothing down to here is flat."""

MARGIN = 0.02
"""Next to nothing, in the metric."""


def print_front(report: "CampaignReport", *, everything: bool = False) -> None:
    """The advised and observed fronts and dense, cheapest first, with paired intervals.

    Args:
        report: Of the campaign.
        everything: The whole plausible front; else at most `ROWS` networks.
    """
    from reports.constraints import meets, verdict
    from reports.table import flat_until, front_table

    met = set(report.trials.loc[meets(report.trials, report.constraints), "number"])
    frame = front_table(report.trials, None if everything else ROWS)
    title = (
        f"{report.id}: {report.metric_name} on {report.cases} validation cases, chance {report.chance:.3f}"
    )
    metric = report.metric_name
    costs = _further_costs(report)
    figures = (metric, "to dense (95 % interval)", "shrunken", "runs", "")
    columns = ("", "point", "FLOPs", "params", *costs, *figures)
    table = new_table(columns, last_left=True)
    print(title)
    for row in frame.to_dict("records"):
        kind, dense = row["kind"], row["kind"] == "dense"
        interval = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        table.add_row(
            "*" if row["advised"] and not dense else "",
            str(row["number"]),
            f"{row['flops_percent']:.1f} %",
            f"{row['params_percent']:.1f} %",
            *(shown.format(row[column]) for column, shown in costs.values()),
            f"{row['metric']:.3f}",
            "" if dense else interval,
            "" if dense else f"{row['estimate']:+.3f}",
            str(row["replicates"]),
            _remarks(kind, row["number"] in met),
            style="" if row["advised"] or dense else "dim",
        )
    show(table)
    advised = report.trials["advised"] & report.trials["kind"].ne("dense")
    mark = "* advised" if advised.any() else "advised: dense"
    print(f"\n{mark}, by the shrunken difference: what is left of it once its noise is taken out")
    if report.constraints:
        print(verdict(report.trials, report.constraints, report.metric_name))
    smallest = smallest_difference(report.trials["se"].to_numpy())
    if smallest == smallest:
        print(f"differences below {smallest:.3f} may go unseen on these cases (power 80 %)")
    if said := _flatness(flat_until(report.trials, MARGIN), flat_until(report.trials)):
        print(said)
    print(
        f"hypervolume {report.hypervolume:.3f} above {metric} {report.reference:.3f} "
        f"(uniform ladder alone: {report.ladder_hypervolume:.3f})"
    )
    if report.out_of_reach:
        print(report.out_of_reach)
    if hidden := len(front_table(report.trials)) - len(frame):
        print(f"{hidden} more may be on the true front (not refuted at 95 %): `front {report.id} --all`")


def _flatness(shown: float, open_: float) -> str:
    """What to say where uniform pruning loses nothing far down: shown to, or only not shown to lose."""
    if shown <= FLAT:
        return (
            f"flat: uniform pruning down to {100 * shown:.1f} % of the FLOPs is shown to lose less than "
            f"{MARGIN:g}; take the ladder"
        )
    if open_ <= FLAT:
        return (
            f"uniform pruning down to {100 * open_:.1f} % of the FLOPs is not shown to lose anything, nor to "
            f"lose less than {MARGIN:g}: these cases are too few to say; take more of them"
        )
    return ""


def _further_costs(report: "CampaignReport") -> dict[str, tuple[str, str]]:
    """Headings of costs beside FLOPs and parameters, where the campaign is about them; column and format."""
    columns = {}
    if "activation_bytes" in report.objectives or "max_activations" in report.constraints:
        columns["activations"] = "activations_percent", "{:.1f} %"
    if "latency_ms" in report.trials:
        columns["ms"] = "latency_ms", "{:.2f}"
    return columns


def _remarks(kind: str, met: bool) -> str:
    """What is special about a network of a front."""
    words = [kind] if kind != "search" else []
    return ", ".join(words if met or kind == "dense" else [*words, "misses the constraints"])
