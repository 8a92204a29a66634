"""Analytic tasks that share structure: a group's damage falls with depth and with how well it can be spared.

Every task has its own widths, steepness and a little of its own in every group; what its descriptors say
holds for all of them. So a prior can learn from some and be judged, against the truth, on others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from search.controllers.base import Yardstick
from search.controllers.sampling import StratifiedSampler
from search.controllers.structured.evidence import Ledger
from search.genes import octaves
from search.prior.corpus import Origin, PastCampaign
from search.prior.evaluation import fit_prior
from search.prior.model import LayerPrior
from search.start import common_first
from search.store.archive import Store
from search.store.entries import CampaignEntry
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.space import ChannelSpace

CHANCE, DENSE = 0.5, 0.9
TAUGHT = [(seed, f"set{seed // 2}") for seed in range(6)]
"""Tasks that the family's prior has learnt from, and the data that they are on."""


@dataclass(frozen=True)
class FamilyTask:
    """One task of the family.

    Attributes:
        seed: Decides it.
        own: Spread of what each group adds of its own, in logarithms.
        noise: Standard deviation of a measurement.
    """

    seed: int
    own: float = 0.2
    noise: float = 0.005

    @cached_property
    def _drawn(self) -> tuple[ChannelSpace, np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([77, self.seed])
        n = int(rng.integers(8, 14))
        space = ChannelSpace.chain(sorted(int(width) for width in rng.choice([32, 64, 128], n)), round_to=8)
        depth, spare = np.linspace(0, 1, n), rng.random(n)
        logs = 1.5 - 2.5 * depth - 2.0 * (spare - 0.5) + self.own * rng.standard_normal(n)
        steep = np.exp(logs)
        return space, depth, spare, steep * rng.uniform(1.0, 3.0) / steep.sum()

    @property
    def space(self) -> ChannelSpace:
        return self._drawn[0]

    @property
    def steepness(self) -> np.ndarray:
        """Of each group, (n_groups,)."""
        return self._drawn[3]

    def metric(self, genomes: np.ndarray | Sequence[Genome]) -> np.ndarray:
        """Without noise: (n, n_groups) -> (n,)."""
        pruned = -np.log2(np.atleast_2d(genomes) / np.array(self.space.dense, dtype=float))
        return CHANCE + (DENSE - CHANCE) * np.exp(-np.square(pruned) @ self.steepness / 4)

    def record(self, number: int, genome: Genome, replicate: int = 0) -> Record:
        """A measurement; the same genome and replicate give the same."""
        rng = np.random.default_rng([self.seed, replicate, *genome])
        noise = self.noise * rng.standard_normal() * (genome != self.space.dense)
        value = float(self.metric(np.array(genome))[0] + noise)
        outcome = Outcome(number, "complete", {"auc": value, "loss": 1 - value})
        return Record(Trial(number, genome, "shared", replicate), outcome, self.space.cost(genome).row(0))

    @property
    def groups(self) -> list[dict]:
        """As a store describes them."""
        space, depth, spare, _ = self._drawn
        return [
            {
                "name": group.name,
                "units": group.units,
                "channels": group.channels,
                "members": list(group.members),
                "choices": list(group.choices),
                "descriptors": {"depth": float(d), "effective_rank": float(1 - s), "log_taps": 3.17},
            }
            for group, d, s in zip(space.groups, depth, spare, strict=True)
        ]

    @property
    def task(self) -> dict[str, float]:
        return {
            "dense": DENSE,
            "margin": DENSE - CHANCE,
            "log_groups": float(np.log2(len(self.space.groups))),
        }

    def genomes(self, n: int) -> list[Genome]:
        """The common first ones, then random ones, n in all or nearly."""
        sampler, rng = StratifiedSampler(self.space), np.random.default_rng([self.seed, n])
        return list(dict.fromkeys([*common_first(self.space), *(sampler.draw(rng) for _ in range(n - 6))]))

    def campaign(self, source: str, n: int = 60) -> PastCampaign:
        """A past campaign of so many trials on data of that name."""
        genomes, ledger = self.genomes(n), Ledger(Yardstick(CHANCE))
        for number, genome in enumerate(genomes):
            ledger.add(genome, self.record(number, genome).value("auc"), None)
        evidence = ledger.evidence(self.space.dense)
        assert evidence is not None
        ladder = set(common_first(self.space))
        first = np.array([tuple(genome) in ladder for genome in evidence.genomes.tolist()])
        origin = Origin(f"c{self.seed}", f"c{self.seed}", source, f"data of {source}", "chain", len(genomes))
        at = octaves(self.space, evidence.genomes)
        return PastCampaign(origin, self.groups, self.space, evidence, at, first, "shared")

    def store(self, url: str, source: str, n: int = 40) -> str:
        """The same as a stored campaign; its id."""
        dense = {"genome": list(self.space.dense), **self.space.cost(self.space.dense).row(0)}
        entry = CampaignEntry(
            name=f"family{self.seed}",
            config={"search": {"rungs": []}, "proxy": {"rung": "shared"}},
            fingerprint=f"f{self.seed}",
            fingerprints={"data": f"data of {source}", "network": "chain"},
            description={
                "groups": self.groups,
                "task": self.task,
                "metric": "auc",
                "chance": CHANCE,
                "patients": None,
                "dense": dense,
                "ladder": [list(genome) for genome in common_first(self.space)[1:]],
                "data": {"source": source},
            },
        )
        with Store(url) as store:
            campaign_id = store.create(entry)
            for number, genome in enumerate(self.genomes(n)):
                store.append(campaign_id, self.record(number, genome))
        return campaign_id


@lru_cache(maxsize=1)
def family_prior() -> LayerPrior:
    """What six tasks on three data sets teach."""
    return fit_prior([FamilyTask(seed).campaign(source) for seed, source in TAUGHT])
