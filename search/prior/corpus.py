"""Past campaigns as a prior learns from them: descriptors, networks tried, damage and its noise."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.controllers.base import Yardstick
from search.controllers.structured.evidence import Evidence, Ledger
from search.store.archive import Store
from search.store.entries import CampaignRow
from spaces.errors import InputError
from spaces.messages import Genome
from spaces.space import ChannelGroup, ChannelSpace

LEAST_TRIALS = 8
"""Measured networks, dense apart, without which a campaign teaches nothing."""


@dataclass(frozen=True)
class Origin:
    """Where a campaign's experience comes from, for people and for the guard against leakage.

    Attributes:
        id: Of the campaign.
        name: Of the campaign.
        source: Name of the data, without any path.
        data: Fingerprint of the images.
        network: Fingerprint of the network's code and arguments.
        trials: Measured networks.
    """

    id: str
    name: str
    source: str
    data: str
    network: str
    trials: int

    def shares_data(self, source: str, data: str) -> bool:
        """Whether these are images that it has seen, or others of the same set."""
        return self.data == data or self.source == source


@dataclass(frozen=True, eq=False)
class PastCampaign:
    """One campaign, tidy.

    Attributes:
        origin: Where it comes from.
        groups: As described in the store, with descriptors.
        task: Descriptors of the task.
        space: Its groups, without costs.
        evidence: What was measured, dense apart.
        octaves: log2(FLOPs / dense) of the networks in the evidence: (n,).
        first: Which of these are the ladder, with which every campaign starts: (n,) bool.
        rung: At which they were evaluated.
    """

    origin: Origin
    groups: Sequence[Mapping[str, Any]]
    task: Mapping[str, float]
    space: ChannelSpace
    evidence: Evidence
    octaves: np.ndarray
    first: np.ndarray
    rung: str


def read_corpus(urls: Iterable[str]) -> tuple[list[PastCampaign], list[str]]:
    """Every campaign of some stores that teaches something, and for each of the others why it does not.

    A campaign that several stores hold counts once.

    Raises:
        StoreError: A store cannot be opened.
        InputError: No campaign teaches anything.
    """
    found: dict[str, PastCampaign] = {}
    skipped: list[str] = []
    for url in urls:
        with Store(url, create=False) as store:
            for row in store.campaigns():
                learnt = past_campaign(store, row)
                if isinstance(learnt, str):
                    skipped.append(f"{row.id}: {learnt}")
                else:
                    found.setdefault(learnt.origin.id, learnt)
    if not found:
        reasons = f" ({'; '.join(skipped[:3])})" if skipped else ""
        raise InputError(
            f"no campaign to learn from in these stores{reasons}; a prior needs campaigns with at least "
            f"{LEAST_TRIALS} measured networks, from at least two data sets: `paretoprune run` makes them"
        )
    return list(found.values()), skipped


def past_campaign(store: Store, row: CampaignRow) -> PastCampaign | str:
    """A stored campaign as experience, or why it is none."""
    about = row.description
    if "task" not in about or any("descriptors" not in group for group in about.get("groups", [{}])):
        return "it was begun before campaigns were described for priors"
    space = space_of(about["groups"])
    search = row.config["search"]
    rung = (search.get("rungs") or [row.config["proxy"]["rung"]])[-1]
    metric, patients = about["metric"], about["patients"]
    ledger = Ledger(Yardstick(about["chance"], None if patients is None else np.array(patients)))
    flops: dict[Genome, float] = {}
    for record in store.stream(row.id):
        trial = record.trial
        if record.complete and trial.rung == rung and trial.fold == 0 and np.isfinite(record.value(metric)):
            ledger.add(trial.genome, record.value(metric), record.outcome.per_case.get("metric"))
            flops[trial.genome] = record.costs["flops"]
    evidence = ledger.evidence(space.dense)
    if evidence is None or len(evidence.genomes) < LEAST_TRIALS:
        n = max(len(flops) - 1, 0)
        return f"{n} measured networks beside dense, {LEAST_TRIALS} are needed"
    ladder = {tuple(genome) for genome in about["ladder"]}
    networks = [tuple(genome) for genome in evidence.genomes.tolist()]
    octaves = np.log2([flops[network] / flops[space.dense] for network in networks])
    origin = Origin(
        id=row.id,
        name=row.name,
        source=about["data"]["source"],
        data=row.fingerprints.get("data", ""),
        network=row.fingerprints.get("network", ""),
        trials=len(networks),
    )
    first = np.array([network in ladder for network in networks])
    return PastCampaign(origin, about["groups"], about["task"], space, evidence, octaves, first, rung)


def space_of(groups: Sequence[Mapping[str, Any]]) -> ChannelSpace:
    """The channel space that a description tells of, without costs."""
    return ChannelSpace(
        tuple(
            ChannelGroup(
                group["name"],
                group["units"],
                group["channels"],
                tuple(group["members"]),
                tuple(group["choices"]),
            )
            for group in groups
        )
    )
