"""Campaigns of a store: the list, and how one stands."""

from collections.abc import Sequence

from search.display.printing import new_table, show, words_table
from search.store.entries import CampaignRow
from search.words import settings_in_words
from spaces.objectives import in_words


def print_campaigns(rows: Sequence[CampaignRow]) -> None:
    """One line a campaign, oldest first."""
    table = new_table(("campaign", "status", "started", "trials", "controller"), left=3, last_left=True)
    for column in table.columns:  # an id is there to be copied
        column.no_wrap = True
    table.add_column("data", overflow="fold")
    for row in rows:
        total = row.config["budget"]["trials"]
        table.add_row(
            row.id,
            row.status,
            f"{row.created:%Y-%m-%d}",
            f"{row.n_trials}/{total}",
            row.config["search"]["controller"],
            row.description["data"]["source"],
        )
    show(table)


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
        "dense": f"{in_words(metric)} {about['as_given'][metric]:.3f} as given, chance {about['chance']:.3f}",
    }
    for table in ("proxy", "pruning", "search", "execution"):
        lines[table] = settings_in_words(row.config[table])
    if networks := about.get("finalised"):
        lines["finalised"] = ", ".join(network["folder"] for network in networks)
        before = [network for group in about.get("finalised_before", {}).values() for network in group]
        if before:
            lines["put aside"] = ", ".join(network["folder"] for network in before) + " (with other settings)"
        openings = max(network["openings"] for network in [*networks, *before])
        times = f"opened {openings} time{'s' * (openings != 1)} in this store by then"
        lines["test split"] = times if openings else "not opened"
    show(words_table(lines))
