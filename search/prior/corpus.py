"""Past campaigns as a prior learns from them: descriptors, networks tried, damage and its noise."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from search.controllers.base import Yardstick
from search.controllers.structured.evidence import Evidence, Ledger
from search.store.archive import Store
from search.store.entries import CampaignRow
from spaces.errors import InputError
from spaces.messages import Genome
from spaces.objectives import Objective, per_case_of, ranked_by
from spaces.space import ChannelGroup, ChannelSpace

LEAST_TRIALS = 8
"""Measured networks, dense apart, without which a campaign teaches nothing."""

AGREEMENT, METRIC = "agreement", "metric"

_NAMES = {
    "breastmnist": ("busi", "dataset_busi", "dataset_busi_with_gt"),
    "pneumoniamnist": ("chest_xray", "chestxray2017"),
    "dsb2018_nuclei": ("bbbc038", "bbbc038v1", "dsb2018", "data_science_bowl_2018", "stage1_train"),
    "hippocampus3d": (
        *("hippocampus", "decathlon_hippocampus"),
        *("task04_hippocampus", "task004_hippocampus", "dataset004_hippocampus"),
    ),
}  # of data that the built-in prior has seen, other names
_ALIASES = {alias: name for name, aliases in _NAMES.items() for alias in aliases}


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
        value: What the damage is of: "agreement" with dense on training images, "metric" or "loss".
    """

    id: str
    name: str
    source: str
    data: str
    network: str
    trials: int
    value: str = METRIC

    def shares_data(self, source: str, data: str) -> bool:
        """Whether these are images that it has seen, or others of the same set, in whatever form."""
        return bool(data and self.data == data) or bool(data_sets(self.source) & data_sets(source))


def data_sets(source: str) -> frozenset[str]:
    """Names of the data sets in a source, whatever they are read from: `npz:BreastMNIST.npz` is breastmnist.

    Sizes at the end of MedMNIST's names do not count: they are the same images.
    """
    stems = [PurePath(part.split(":", 1)[-1].strip()).stem.lower() for part in source.split(" + ")]
    stems = [re.sub(r"(mnist(3d)?)_\d+$", r"\1", re.sub(r"[-\s]", "_", stem)) for stem in stems]
    return frozenset(_ALIASES.get(stem, stem) for stem in stems)


def sets_of(origins: Sequence[Origin]) -> list[str]:
    """Which data set each is on; sources that share data are one, by the name of the first of them."""
    names: list[str] = [origin.source for origin in origins]
    for i, one in enumerate(origins):
        for k in range(i):
            if names[i] != names[k] and one.shares_data(origins[k].source, origins[k].data):
                first, joined = min(names[i], names[k]), {names[i], names[k]}
                names = [first if name in joined else name for name in names]
    return names


@dataclass(frozen=True, eq=False)
class PastCampaign:
    """One campaign, tidy.

    Attributes:
        origin: Where it comes from.
        groups: As described in the store, with descriptors.
        space: Its groups, without costs.
        evidence: What was measured, dense apart.
        octaves: log2(FLOPs / dense) of the networks in the evidence: (n,).
        first: Which of these are the ladder, with which every campaign starts: (n,) bool.
        rung: At which they were evaluated.
    """

    origin: Origin
    groups: Sequence[Mapping[str, Any]]
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


def past_campaign(
    store: Store, row: CampaignRow, value: str | None = None, *, cheapest: bool = False
) -> PastCampaign | str:
    """A stored campaign as experience, or why it is none.

    Args:
        store: Where it is.
        row: Which.
        cheapest: Whether to look at the first of several rungs, as its own controller did, and not the last.
        value: What the damage is of, as `search.value` has it. By default the agreement with dense, in which
            there is less noise, and the metric where agreement was not measured: what a campaign was ranked
            by does not matter here.
    """
    about = row.description
    if "task" not in about or any("descriptors" not in group for group in about.get("groups", [{}])):
        return "it was begun before campaigns were described for priors"
    space = space_of(about["groups"])
    search = row.config["search"]
    rung = (search.get("rungs") or [row.config["proxy"]["rung"]])[0 if cheapest else -1]
    measured = [
        record
        for record in store.stream(row.id)
        if record.complete and record.trial.rung == rung and record.trial.fold == 0
    ]
    if value is None:
        agreed = all("disagreement" in record.outcome.values for record in measured)
        value = AGREEMENT if agreed else METRIC
    objective = ranked_by(value, Objective(about["metric"], maximize=True))
    ledger, flops = Ledger(_yardstick(about, value)), dict[Genome, float]()
    for record in measured:
        trial, found = record.trial, -float(objective.loss(np.array(record.value(objective.name))))
        if np.isfinite(found):
            ledger.add(trial.genome, found, record.outcome.per_case.get(per_case_of(objective)))
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
        value=value,
    )
    first = np.array([network in ladder for network in networks])
    return PastCampaign(origin, about["groups"], space, evidence, octaves, first, rung)


def _yardstick(about: Mapping[str, Any], value: str) -> Yardstick:
    """What the measured figure means, as the campaign's own controller has it."""
    patients = about["patients"] if value != AGREEMENT else None
    known = None if patients is None else np.array(patients)
    return Yardstick(about["chance"] if value == METRIC else None, known)


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
