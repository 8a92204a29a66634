"""What a prior says about one campaign, as plain data that the store keeps with it.

A campaign goes on from this, not from the prior's file: resuming needs no file, and finds the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from search.config import CampaignConfig
from search.controllers.structured.belief import FLAT, Belief
from search.controllers.structured.scouts import Scouts
from search.prior.file import load_prior
from search.prior.model import META, LayerPrior
from search.prior.proposals import first_networks
from search.store.entries import CampaignEntry
from spaces.errors import ConfigError
from spaces.messages import Genome
from spaces.space import ChannelSpace


@dataclass(frozen=True, eq=False)
class Advice:
    """What a campaign takes from a prior, and from its scouts.

    Attributes:
        beliefs: The experts, the flat one last.
        proposals: Genomes to try right after the first ones.
        about: For people: hash, lessons, what was left out, what is out of range; plain JSON. None without a
            prior.
        scouts: What they saw. It is not stored with the advice: their records are.
    """

    beliefs: tuple[Belief, ...] = ()
    proposals: tuple[Genome, ...] = ()
    about: Mapping[str, Any] | None = None
    scouts: Scouts | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        beliefs = [
            {
                "name": belief.name,
                "slopes": np.round(belief.slopes, 4).tolist(),
                "doubt": np.round(belief.doubt, 4).tolist(),
                "weight": belief.weight,
            }
            for belief in self.beliefs
        ]
        return {
            "beliefs": beliefs,
            "proposals": [list(genome) for genome in self.proposals],
            **dict(self.about or {}),
        }


def advise(
    prior: LayerPrior, space: ChannelSpace, description: Mapping[str, Any], first: Sequence[Genome], data: str
) -> Advice:
    """What a prior says about a campaign that is about to start.

    Args:
        prior: Any; what has seen the campaign's images is left out here.
        space: Of the campaign.
        description: Of the campaign, as the store keeps it.
        first: Genomes that it tries anyway.
        data: Fingerprint of its images.

    Raises:
        ConfigError: The prior has seen nothing but these images.
    """
    clean = prior.guarded(description["data"]["source"], data)
    expected = clean.expect(description["groups"])
    kept = {lesson.origin.id for lesson in clean.lessons}
    about = {
        "sha256": prior.sha256,
        "lessons": sorted(kept),
        "left_out": sorted(le.origin.id for le in prior.lessons if le.origin.id not in kept),
        "outside": [int(n) for n in expected.outside],
        "quality": dict(prior.quality),
    }
    return Advice(expected.experts, tuple(first_networks(space, expected.experts, first)), about)


def noted(config: CampaignConfig) -> CampaignConfig:
    """The configuration of a new campaign with the hash of its prior, which so is one of its settings.

    Raises:
        ConfigError: The file is no prior, or another one than the hash names, or knows only this data.
    """
    settings = config.search
    if settings.prior is None:
        return config
    prior = load_prior(settings.prior)
    if settings.prior_sha256 not in (None, prior.sha256):
        raise ConfigError(
            f"search.prior_sha256 = {settings.prior_sha256!r}, but {settings.prior!r} has {prior.sha256!r}; "
            "put back the prior that is meant, or leave the hash out"
        )
    named = config.data.source if isinstance(config.data.source, str) else " + ".join(config.data.source)
    prior.guarded(named, "")  # sooner than by its images, when the network is trained
    settings = settings.model_copy(update={"prior_sha256": prior.sha256})
    return config.model_copy(update={"search": settings})


def advised(entry: CampaignEntry, config: CampaignConfig, space: ChannelSpace) -> CampaignEntry:
    """A campaign about to be stored, with what its prior says; as it is where there is none.

    Raises:
        ConfigError: The prior has seen nothing but the campaign's images.
    """
    if config.search.prior is None:
        return entry
    about = dict(entry.description)
    first = [space.dense, *(tuple(genome) for genome in about["ladder"])]
    prior = load_prior(config.search.prior)
    about["prior"] = advise(prior, space, about, first, entry.fingerprints["data"]).as_json()
    return replace(entry, description=about)


def stored_advice(description: Mapping[str, Any]) -> Advice:
    """The advice that a campaign was begun with; an empty one where there was no prior."""
    stored = description.get("prior")
    if not stored:
        return Advice()
    beliefs = tuple(
        Belief(b["name"], np.array(b["slopes"]), np.array(b["doubt"]), b["weight"]) for b in stored["beliefs"]
    )
    about = {key: value for key, value in stored.items() if key not in ("beliefs", "proposals")}
    return Advice(beliefs, tuple(tuple(genome) for genome in stored["proposals"]), about)


def in_words(advice: Advice) -> str:
    """One line for the start of a campaign."""
    about = advice.about or {}
    outside = sum(n > 0 for n in about["outside"])
    said = f"prior of {len(about['lessons'])} campaigns"
    if about["left_out"]:
        said += f" ({len(about['left_out'])} more have seen these images and do not count)"
    if outside:
        n = len(about["outside"])
        said += f"; {outside} of {n} groups lie outside of its experience and are doubted more"
    return said


def verdict(weights: Mapping[str, float]) -> str | None:
    """What became of the experts, in one line; None where there was only the flat one."""
    others = {name: weight for name, weight in weights.items() if name != FLAT}
    if not others:
        return None
    shares = ", ".join(f"{name} {weight:.0%}" for name, weight in weights.items())
    gone = [name for name, weight in others.items() if not weight]
    if gone:
        what = "negative transfer: " if META in gone else ""
        return f"{what}{' and '.join(gone)} refuted by the measurements and dropped ({shares})"
    return f"experts by what they foresaw: {shares}"
