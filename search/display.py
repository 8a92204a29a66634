"""What the command line prints on standard output: tables for people, JSON and CSV for machines."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from search.monitor import duration
from search.store.entries import CampaignRow
from spaces.intervals import smallest_difference

if TYPE_CHECKING:
    from reports.campaign import CampaignReport
    from search.calibration import Calibration
    from search.inspection import Expectation, Inspection
    from spaces.agreement import Agreement
    from spaces.finals import Estimate, FinalNetwork


ROWS = 15
"""Networks that are printed unless all are asked for."""

FLAT = 0.12
"""Share of the FLOPs: a task whose ladder loses nothing down to here is flat."""


def print_json(data: object) -> None:
    """Indented JSON."""
    print(json.dumps(data, indent=2))


def print_campaigns(rows: Sequence[CampaignRow]) -> None:
    """One line a campaign, oldest first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("campaign", "status", "started (UTC)"):
        table.add_column(column)
    table.add_column("trials", justify="right")
    for column in ("controller", "data"):
        table.add_column(column)
    for row in rows:
        total = row.config["budget"]["trials"]
        table.add_row(
            row.id,
            row.status,
            f"{row.created:%Y-%m-%d %H:%M}",
            f"{row.n_trials}/{total}",
            row.config["search"]["controller"],
            row.description["data"]["source"],
        )
    _print(table)


def print_campaign(row: CampaignRow) -> None:
    """One campaign: how it stands, and every setting that decides it."""
    about = row.description
    dense, metric = about["dense"], about["metric"]
    lines = {
        "campaign": f"{row.id} ({row.status}, {row.n_trials} of {row.config['budget']['trials']} trials)",
        "started": f"{row.created:%Y-%m-%d %H:%M} UTC",
        "network": f"{row.config['network']['factory']}, {dense['flops'] / 1e6:,.1f} MFLOPs, "
        f"{dense['params'] / 1e6:,.2f} M parameters, {len(about['groups'])} channel groups",
        "data": f"{about['data']['source']}, {about['data']['sizes']['train']} training and "
        f"{about['data']['sizes']['val']} validation cases",
        "dense": f"{metric} {about['as_given'][metric]:.3f} as given (chance {about['chance']:.3f})",
    }
    for table in ("proxy", "pruning", "search", "execution"):
        settings = row.config[table].items()
        lines[table] = ", ".join(f"{key} {value}" for key, value in settings if value not in (None, [], {}))
    if networks := about.get("finalised"):
        lines["finalised"] = ", ".join(network["folder"] for network in networks)
        openings = max(network["openings"] for network in networks)
        lines["test split"] = f"opened {openings} times in this store by then" if openings else "not opened"
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for label, text in lines.items():
        grid.add_row(label, text)
    _print(grid)


_ADVISED_BY = {
    "agreement": "by agreement with the dense network on training images: these cases took no part",
    "estimate": "by the shrunken difference: what is left of it once its noise is taken out",
}


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
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    metric = report.metric_name
    costs = _further_costs(report)
    figures = (metric, "to dense (95 % interval)", "shrunken", "runs", "")
    columns = ("", "point", "FLOPs", "params", *costs, *figures)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == len(columns) - 1 else "right")
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
    _print(table)
    advised = report.trials["advised"] & report.trials["kind"].ne("dense")
    mark = "* advised" if advised.any() else "advised: dense"
    print(f"\n{mark}, {_ADVISED_BY[report.trials.attrs['advised_by']]}")
    if report.constraints:
        print(verdict(report.trials, report.constraints, report.metric_name))
    smallest = smallest_difference(report.trials["se"].to_numpy())
    if smallest == smallest:
        print(f"differences below {smallest:.3f} may go unseen on these cases (power 80 %)")
    if (level := flat_until(report.trials)) <= FLAT:
        print(
            f"flat: uniform pruning down to {100 * level:.1f} % of the FLOPs is not shown to lose anything; "
            "take the ladder, or search with more validation cases"
        )
    print(f"hypervolume {report.hypervolume:.3f} (uniform ladder alone: {report.ladder_hypervolume:.3f})")
    if hidden := len(front_table(report.trials)) - len(frame):
        print(f"{hidden} more may be on the true front (not refuted at 95 %): `front {report.id} --all`")


def print_finalised(campaign_id: str, networks: Sequence["FinalNetwork"]) -> None:
    """Finalised networks: on test with simultaneous intervals, then by class."""
    name = networks[0].metric
    tested = [network for network in networks if network.test is not None]
    title = f"{campaign_id}: finalised networks, {name} on the validation cases (not tested yet)"
    if tested:
        patients = f" of {tested[0].patients} patients" if tested[0].patients else ""
        title = f"{campaign_id}: {name} on {tested[0].cases} test cases{patients}"
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for column in ("network", "FLOPs", "parameters", "val", "test", "to dense", "calibration error"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for network in networks:
        test = network.test
        table.add_row(
            network.folder,
            f"{100 * network.ratios['flops']:.1f} %",
            f"{100 * network.ratios['params']:.1f} %",
            f"{network.val[name]:.3f}",
            _interval(test.metric) if test else "",
            _interval(test.difference, signed=True) if test and test.difference else "",
            f"{test.reliability.error:.3f}" if test and test.reliability else "",
        )
    _print(table)
    if not tested:
        return
    _print_classes(tested)
    print(
        f"\nintervals: 95 %, for all {max(n.tested_together for n in tested)} networks at once; openings of "
        f"these test images in this store: {max(n.openings for n in tested)}"
    )


def _print_classes(tested: Sequence["FinalNetwork"]) -> None:
    """The measure by class, the rarest first: dense, and every other's paired difference to it."""
    first = tested[0].test
    if first is None or len(first.classes) < 2:
        return
    print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{first.classes[0].measure} by class")
    table.add_column("cases", justify="right")
    for network in tested:
        table.add_column(network.folder, justify="right")
    for i, of_dense in enumerate(first.classes):
        cells = []
        for network in tested:
            result = network.test.classes[i] if network.test else of_dense
            cells.append(_interval(result.difference or result.value, signed=result.difference is not None))
        table.add_row(of_dense.name, str(of_dense.cases), *cells)
    _print(table)


def _interval(found: "Estimate", *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


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


def print_calibration(found: "Calibration") -> None:
    """Every rung with both ranking values: agreement with full, time, regret; and what to take."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ("rung", "ranked by", "tau, 95 % interval", "within an octave", "seconds", "hypervolume lost")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < 2 else "right")
    for c in found.rungs:
        numbers = (_tau(c.overall), _tau(c.within), f"{c.seconds:.2g}", f"{c.regret:.3f}")
        table.add_row(c.rung, c.value, *numbers)
    repeat = (_tau(found.ceiling), _tau(found.ceiling_within), f"{found.full_seconds:.2g}", "")
    table.add_row("full", "its repeat", *repeat)
    _print(table)
    print(
        f"\n{found.networks} networks: a tau below {found.power:.2f} may go unseen (power 80 %); no rung is "
        f"expected above the repeat of full\ntake: proxy.rung = {found.rung!r}, ranked by the {found.value}"
    )
    if found.at_chance:
        print("no rung ranks better than chance: every upper bound says so")


def _tau(agreement: "Agreement") -> str:
    return f"{agreement.tau:.2f} ({agreement.low:.2f} to {agreement.high:.2f})"


def print_latencies(rows: Sequence[Mapping[str, Any]]) -> None:
    """Measured networks, and how many times faster than the first each is in the same setting."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    predicted = any(row["predicted_ms"] is not None for row in rows)
    columns = ["network", "runtime", "batch", "ms", "10-90 %", "least", "speed-up", "MB"]
    for i, column in enumerate([*columns, "predicted"] if predicted else columns):
        table.add_column(column, justify="left" if i < 2 else "right")
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
    _print(table)
    one = rows[0]
    threads = f", {one['threads']} CPU thread{'s' * (one['threads'] > 1)}" if one["device"] == "cpu" else ""
    print(f"\nmilliseconds a call, median; {one['machine']}{threads}, device {one['device']}")
    for note, runtime in notes.items():
        print(f"{runtime}: {note}")


def print_inspection(found: "Inspection", *, tree: bool = False) -> None:
    """A campaign's network: its groups as a table or along the module tree, costs, and the time it takes."""
    if tree:
        _print(_module_tree(found.groups, found.frozen))
    else:
        _print_groups(found.groups)
    if found.frozen and not tree:
        print()
        reasons = Table(box=None, pad_edge=False, header_style="bold")
        reasons.add_column("frozen", overflow="fold")
        reasons.add_column("why", overflow="fold")
        for entry in found.frozen:
            reasons.add_row(entry["name"], entry["reason"])
        _print(reasons)
    data = found.as_json()
    dense, minimal = data["dense"], data["minimal"]
    print(
        f"\ndense: {dense['flops'] / 1e6:,.2f} MFLOPs, {dense['params']:,.0f} parameters, "
        f"{dense['activation_bytes'] / 1e6:,.2f} MB of activations at most\n"
        f"minimal: {100 * minimal['flops'] / dense['flops']:.1f} % of the FLOPs, "
        f"{100 * minimal['params'] / dense['params']:.1f} % of the parameters\n"
        f"{len(found.groups)} channel groups, {data['networks']:.3g} networks"
    )
    print(_expectation(found.expected))


def _print_groups(groups: Sequence[Mapping[str, Any]]) -> None:
    """The channel groups along the network with their shares of the costs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("channel group", overflow="fold", min_width=24)
    for column in ("units", "channels", "kept", "FLOPs", "params", "activations"):
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    table.add_column("members", overflow="ellipsis", no_wrap=True, max_width=48)
    for group in groups:
        choices = group["choices"]
        table.add_row(
            group["name"],
            str(group["units"]),
            str(group["channels"]),
            f"{choices[0]}..{choices[-1]} ({len(choices)})",
            *(f"{100 * group[f'{cost}_share']:.1f} %" for cost in ("flops", "params", "activation")),
            f"{len(group['members'])}: {', '.join(group['members'])}",
        )
    _print(table)


def _module_tree(groups: Sequence[Mapping[str, Any]], frozen: Sequence[Mapping[str, str]]) -> Tree:
    """Groups and frozen channels below the modules that produce them."""
    root = Tree("network")
    branches: dict[str, Tree] = {"": root}

    def branch(path: str) -> Tree:
        if path not in branches:
            parent, _, leaf = path.rpartition(".")
            branches[path] = branch(parent).add(leaf)
        return branches[path]

    for group in groups:
        share = f"{100 * group['flops_share']:.1f} % of the FLOPs"
        parent, _, leaf = group["name"].rpartition(".")
        branch(parent).add(f"{leaf}  {group['units']} units, {share}, {len(group['members'])} members")
    for entry in frozen:
        parent, _, leaf = entry["name"].rpartition(".")
        branch(parent).add(f"{leaf}  frozen: {entry['reason']}", style="dim")
    return root


def _expectation(expected: "Expectation") -> str:
    """The expected time of a campaign in words, with what was assumed."""
    dense = "weights are given, so dense is not trained"
    if expected.dense_steps:
        dense = f"{duration(expected.dense_training_s)} to train dense ({expected.dense_steps} steps)"
    workers = "" if expected.workers == 1 else f", {expected.workers} at a time"
    candidate, cheapest = expected.candidate, 100 * expected.cheapest_flops
    return (
        f"expected time: {duration(expected.campaign_s)}, an estimate from steps measured here: {dense}; "
        f"{expected.trial_s:.3g} s a trial ({expected.trial_steps} steps of {candidate.step_s:.3g} s, "
        f"{candidate.validation_s:.3g} s to validate){workers}. Assumed: candidates have "
        f"{100 * expected.mean_flops:.0f} % of dense's FLOPs on average, as when spread evenly over the "
        f"octaves down to {cheapest:.1f} %; a step of dense takes {expected.dense.step_s:.3g} s."
    )


def _print(table: Table | Tree) -> None:
    # A pipe has no width: give it room instead of folding at 80.
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)
