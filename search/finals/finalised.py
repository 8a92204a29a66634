"""Finalised networks in a campaign's description: reading and writing them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from search.store.archive import Store
from spaces.finals import FinalNetwork

KEY = "finalised"
"""Of the campaign's description."""

_NETWORKS: TypeAdapter[list[FinalNetwork]] = TypeAdapter(list[FinalNetwork])


def finalised(store: Store, campaign_id: str) -> list[FinalNetwork]:
    """A campaign's finalised networks, dense first, then by FLOPs; empty before the first `finalise`.

    No data, no network, no torch. Results on test are there once the test split was opened (`test` is None
    until then), and their intervals hold for all networks of the list at once.

    Raises:
        StoreError: No such campaign.
    """
    return _NETWORKS.validate_python(store.campaign(campaign_id).description.get(KEY, []))


def keep_finalised(store: Store, campaign_id: str, networks: Sequence[FinalNetwork]) -> None:
    """Replace a campaign's finalised networks."""
    about = dict(store.campaign(campaign_id).description)
    ordered = sorted(networks, key=lambda network: (not network.dense, network.costs["flops"]))
    store.update_description(campaign_id, {**about, KEY: [plain(network) for network in ordered]})


def plain(network: FinalNetwork) -> dict[str, Any]:
    """As JSON, for the store and for `final.json`."""
    return asdict(network)
