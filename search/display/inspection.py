"""What can be pruned in a campaign's network."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.tree import Tree

from search.display.printing import new_table, show
from search.monitor import duration

if TYPE_CHECKING:
    from search.inspection import Expectation, Inspection


def print_inspection(found: "Inspection", *, tree: bool = False) -> None:
    """A campaign's network: its groups as a table or along the module tree, costs, and the time it takes."""
    if tree:
        show(_module_tree(found.groups, found.frozen))
    else:
        _print_groups(found.groups)
    if found.frozen and not tree:
        print()
        reasons = new_table()
        reasons.add_column("frozen", overflow="fold")
        reasons.add_column("why", overflow="fold")
        for entry in found.frozen:
            reasons.add_row(entry["name"], entry["reason"])
        show(reasons)
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
    table = new_table()
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
    show(table)


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
