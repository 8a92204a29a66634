"""What the store takes and gives, besides `Record`: plain frozen data that knows no database."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

Status: TypeAlias = Literal["running", "interrupted", "complete", "failed"]
"""How a campaign stands; "running" may also mean that its process was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignEntry:
    """A campaign as its maker describes it.

    Attributes:
        name: The start of its id, and what people call it.
        config: The resolved configuration; JSON types only.
        fingerprint: The task fingerprint: evaluations of two campaigns with the same one are interchangeable.
        fingerprints: The same by part ("weights", "data", ...), to say what changed.
        description: What reports show: channel groups, dense figures, versions, command, data.
    """

    name: str
    config: Mapping[str, Any]
    fingerprint: str
    fingerprints: Mapping[str, str]
    description: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignRow(CampaignEntry):
    """A stored campaign.

    Attributes:
        id: The name in lower case and four random characters: short enough to type.
        created: UTC.
        status: How it stands.
        n_trials: How many records it has.
    """

    id: str
    created: datetime
    status: Status
    n_trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """One look at a test split.

    Attributes:
        campaign_id: Who looked.
        opened: UTC.
        test_fingerprint: Which test images.
        points: Numbers of the trials whose networks were tested.
    """

    campaign_id: str
    opened: datetime
    test_fingerprint: str
    points: tuple[int, ...]
