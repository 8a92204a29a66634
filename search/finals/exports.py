"""From a campaign's point to the folder of its finalised network."""

from dataclasses import dataclass
from pathlib import Path

from evaluators.deploy.saving import read_description
from evaluators.settings import NetworkSettings
from search.finals.finalised import finalised
from search.store.archive import Store
from search.store.entries import CampaignRow
from spaces.errors import InputError, NetworkError
from spaces.finals import FinalNetwork

DENSE = "dense"


@dataclass(frozen=True)
class FinalisedFolder:
    """Where a finalised network lies.

    Attributes:
        path: The folder.
        factory: What makes the network, by the campaign's own configuration.
    """

    path: Path
    factory: str


def finalised_folder(store: Store, campaign: str, point: str) -> FinalisedFolder:
    """The folder of a campaign's finalised network.

    Args:
        store: Where the campaign is.
        campaign: Its id, or the beginning.
        point: A trial's number, or "dense".

    Raises:
        InputError: No such point, one that is not finalised, or a folder of another campaign.
    """
    row = store.campaign(campaign)
    found = _find(row, finalised(store, row.id), point, store)
    path = store.artifacts / row.id / found.folder
    if not path.is_dir():
        raise InputError(
            f"the files of {found.folder} of {row.id} are not in {str(path.parent)!r}: they were moved, or "
            f"finalised on another machine; {_command(row, found)} makes them again"
        )
    about = read_description(path)
    if about.campaign != row.id or about.genome != found.genome:
        other = about.campaign if about.campaign != row.id else "another point"
        raise NetworkError(
            f"{found.folder} of {row.id} holds a network of {other}; delete {str(path)!r}, then "
            f"{_command(row, found)} makes it again"
        )
    settings = NetworkSettings.model_validate(row.config["network"])
    return FinalisedFolder(path, settings.factory)


def _find(row: CampaignRow, known: list[FinalNetwork], point: str, store: Store) -> FinalNetwork:
    if point != DENSE and not point.isdecimal():
        raise InputError(f"--point {point}: it is a trial's number, as `front {row.id}` shows it, or dense")
    for network in known:
        if (network.dense and point == DENSE) or str(network.point) == point:
            return network
    there = ", ".join(DENSE if network.dense else str(network.point) for network in known)
    hint = f"finalised are: {there}" if there else "nothing of it is finalised yet"
    if point == DENSE:
        raise InputError(f"dense of {row.id} is not finalised; `paretoprune finalise {row.id}` does it")
    numbers = store.numbers(row.id, "complete")
    if int(point) not in numbers:
        raise InputError(
            f"campaign {row.id} measured no point {point}; `paretoprune front {row.id}` lists them"
        )
    raise InputError(
        f"point {point} of {row.id} is not finalised ({hint}); `paretoprune finalise {row.id} --points "
        f"{point}` does it"
    )


def _command(row: CampaignRow, network: FinalNetwork) -> str:
    points = "" if network.dense else f" --points {network.point}"
    return f"`paretoprune finalise {row.id}{points}`"
