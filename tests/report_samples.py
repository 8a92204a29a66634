"""A made-up campaign that looks like a real one: records, groups and words, for the report's tests."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reports.campaign import CampaignReport, campaign_report
from spaces.messages import Genome, Outcome, Record, Trial

NAMES = ["conv1"] + [
    f"layer{stage}.{block}.conv{conv}" for stage in range(1, 5) for block in range(2) for conv in (1, 2)
]
UNITS = [64] + [64] * 4 + [128] * 4 + [256] * 4 + [512] * 4
DENSE: Genome = tuple(UNITS)
CASES = 80
DENSE_FLOPS, DENSE_PARAMS, DENSE_BYTES = 1.82e9, 11.2e6, 4.1e6


def groups(names: Sequence[str] = NAMES) -> pd.DataFrame:
    share = np.linspace(0.1, 0.02, len(names))
    return pd.DataFrame({"name": names, "units": UNITS, "channels": UNITS, "flops_share": share})


def costs(genome: Genome) -> dict[str, float]:
    kept = np.array(genome) / np.array(UNITS)
    both = np.r_[kept[0], kept[1:] * kept[:-1]]
    return {
        "flops": DENSE_FLOPS * float(both.mean()),
        "params": DENSE_PARAMS * float(np.average(both, weights=np.square(UNITS))),
        "activation_bytes": DENSE_BYTES * float(kept.max()),
    }


def uniform(ratio: float) -> Genome:
    return tuple(max(8, round(ratio * units / 8) * 8) for units in UNITS)


LADDER = [uniform(ratio) for ratio in (0.7, 0.5, 0.35, 0.25, 0.18)]


def record(
    number: int,
    genome: Genome,
    rng: np.random.Generator,
    *,
    replicate: int = 0,
    bonus: float = 0.0,
    error: str | None = None,
) -> Record:
    trial = Trial(number, genome, replicate=replicate)
    if error is not None:
        return Record(trial, Outcome(number, "failed", error=error), costs(genome))
    kept = np.array(genome) / np.array(UNITS)
    quality = 0.885 + bonus - 0.11 * np.square(1 - kept[:9]).mean() - 0.035 * np.square(1 - kept[9:]).mean()
    quality -= 0.25 * max(0.0, 0.2 - float(kept.mean())) / 0.2
    hard = 0.15 * np.random.default_rng(7).standard_normal(CASES)
    shares = quality + hard + 0.03 * rng.standard_normal(CASES) + 0.003 * rng.standard_normal()
    shares = shares.astype(np.float32)
    values = {"auc": float(shares.mean(dtype=float)), "loss": float(1.2 - shares.mean(dtype=float))}
    outcome = Outcome(number, "complete", values, {"metric": shares, "loss": 1 - shares}, {"wall_s": 11.0})
    return Record(trial, outcome, costs(genome))


def records(networks: int = 60, seed: int = 0) -> list[Record]:
    """Dense three times, the ladder, random networks with two failures among them."""
    rng = np.random.default_rng(seed)
    found = [record(i, DENSE, rng, replicate=i) for i in range(3)]
    found += [record(3 + i, genome, rng) for i, genome in enumerate(LADDER)]
    for number in range(len(found), len(found) + networks):
        level = rng.uniform(0.12, 0.95)
        tilt = np.linspace(0.5, -0.5, len(UNITS)) * rng.uniform(-0.6, 1.0)
        kept = np.clip(level + tilt + 0.12 * rng.standard_normal(len(UNITS)), 0.06, 1)
        genome = tuple(int(max(8, round(k * u / 8) * 8)) for k, u in zip(kept, UNITS, strict=True))
        error = f"loss is NaN after step {number}" if number in (21, 40) else None
        found.append(record(number, genome, rng, bonus=0.004 * rng.random(), error=error))
    return found


def report(found: Sequence[Record] | None = None, **words: object) -> CampaignReport:
    """The sample campaign's report; words replace those of the campaign."""
    settings: dict[str, object] = {
        "id": "breast-3f9a",
        "name": "Breast ultrasound, ResNet-18",
        "network": "ResNet-18",
        "data": "BreastMNIST (546 train, 80 validation)",
        "controller": "NSGA-II",
        "metric": "auc",
        "chance": 0.5,
        "dense": DENSE,
        "ladder": LADDER,
        "groups": groups(),
        "provenance": {
            "data": "BreastMNIST, 28 × 28 pixels; 546 train, 80 validation, 156 test (not opened)",
            "network": "monai.networks.nets:resnet18(spatial_dims=2, n_input_channels=1, num_classes=2)",
            "evaluation": "prune, 2 epochs of SGD on 546 images, AUC on 80 images",
            "command": "paretoprune run examples/breastmnist.toml --executor ray --workers 2",
            "seed": "0",
            "started": "2026-11-24 09:12 UTC",
            "finished": "2026-11-24 09:21 UTC",
            "versions": "paretoprune 0.1.0, Python 3.11.9, torch 2.13.0, monai 1.6.1, numpy 2.4.6",
            "task fingerprint": "9f2c1b7e4a60d8315cfe0a77b1d2c3e4f5a69788b1c0de2f3a4b5c6d7e8f9012",
        },
    }
    return campaign_report(records() if found is None else found, **(settings | words))  # type: ignore[arg-type] # words by name
