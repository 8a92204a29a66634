"""Networks that were finalised with other settings: put aside, and back when theirs are given again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from search.finals.finalised import finalised, keep_finalised, plain
from search.store.archive import Store
from search.store.entries import CampaignRow
from spaces.finals import FinalNetwork

KEY = "finalised_before"
"""Of the campaign's description: by group, what was put aside."""
FOLDER = "before"
"""Below the campaign's artefacts: `before/GROUP/point-N/`."""

_NETWORKS: TypeAdapter[dict[str, list[FinalNetwork]]] = TypeAdapter(dict[str, list[FinalNetwork]])


def put_aside(row: CampaignRow) -> dict[str, list[FinalNetwork]]:
    """A campaign's networks of other settings than the last ones, by group."""
    return _NETWORKS.validate_python(row.description.get(KEY, {}))


def turn_to(store: Store, campaign_id: str, folder: Path, group: str) -> list[FinalNetwork]:
    """Make a group the one that is shown, tested and exported; what it replaces is kept aside.

    Files go first, then the store: a kill in between is made good by the next call.

    Args:
        store: Where the campaign is.
        campaign_id: Its id.
        folder: Of its networks.
        group: See `FinalNetwork.group`.

    Returns:
        What was put aside just now.
    """
    row = store.campaign(campaign_id)
    aside, shown = put_aside(row), finalised(store, campaign_id)
    others = [network for network in shown if network.group != group]
    if not others:
        return []
    for network in others:
        _move(folder / network.folder, folder / FOLDER / network.group / network.folder)
    for network in aside.get(group, ()):
        _move(folder / FOLDER / group / network.folder, folder / network.folder)
    back = [network for network in shown if network.group == group] or aside.pop(group, [])
    for network in others:
        aside.setdefault(network.group, []).append(network)
    _keep(store, campaign_id, aside)
    keep_finalised(store, campaign_id, back)
    return others


def _keep(store: Store, campaign_id: str, aside: Mapping[str, Sequence[FinalNetwork]]) -> None:
    about = dict(store.campaign(campaign_id).description)
    kept = {group: [plain(network) for network in networks] for group, networks in aside.items()}
    store.update_description(campaign_id, {**about, KEY: kept})


def _move(source: Path, target: Path) -> None:
    if source.is_dir() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
