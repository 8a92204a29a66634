"""A made-up campaign that looks like a real one: records, groups and words, for the report's tests."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from reports.campaign import CampaignReport, campaign_report
from spaces.finals import ClassResult, Distance, Estimate, FinalNetwork, Reliability, TestResult
from spaces.messages import Genome, Outcome, Record, Trial

NAMES = ["conv1"] + [
    f"layer{stage}.{block}.conv{conv}" for stage in range(1, 5) for block in range(2) for conv in (1, 2)
]
UNITS = [64] + [64] * 4 + [128] * 4 + [256] * 4 + [512] * 4
DENSE: Genome = tuple(UNITS)
CASES = 80
CLASSES = {"benign": 58, "malignant": 22}
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
    recalls = np.column_stack([shares + 0.02, shares - 0.1 * (1 - float(kept.mean()))]).astype(np.float32)
    values |= {f"recall/{name}": float(recalls[:, i].mean()) for i, name in enumerate(CLASSES)}
    per_case = {"metric": shares, "loss": 1 - shares, "classes": recalls}
    outcome = Outcome(number, "complete", values, per_case, {"wall_s": 11.0})
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


def finals() -> list[FinalNetwork]:
    """Dense and two of the ladder, finalised and tested."""
    networks = []
    for point, genome, change in ((0, DENSE, None), (3, LADDER[0], -0.004), (5, LADDER[2], -0.021)):
        difference = None if change is None else Estimate(change, change - 0.02, change + 0.02)
        value = 0.881 + (change or 0.0)
        recall = Estimate(value - 0.1, value - 0.2, value + 0.05)
        classes = [
            ClassResult(name, "recall", 20 + 30 * i, recall, difference)
            for i, name in enumerate(["malignant", "benign"])
        ]
        test = TestResult(
            {"auc": value},
            Estimate(value, value - 0.04, value + 0.04),
            difference,
            tuple(classes),
            Reliability(0.031, (0.6, 0.9), (0.55, 0.92), (0.3, 0.7)),
        )
        ratios = {name: cost / costs(DENSE)[name] for name, cost in costs(genome).items()}
        networks.append(
            FinalNetwork(
                group="f",
                point=point,
                dense=change is None,
                folder="dense" if change is None else f"point-{point}",
                genome=genome,
                metric="auc",
                costs=costs(genome),
                ratios=ratios,
                recipe={},
                val={"auc": value + 0.01},
                seconds=60.0,
                weights="ab",
                test=test,
                cases=156,
                tested_together=3,
                openings=1,
                opened="2026-11-24T10:00:00+00:00",
            )
        )
    return networks


def segmented_finals() -> list[FinalNetwork]:
    """The same as if they had drawn two regions: the spread of Dice over cases, and distances of borders."""
    networks = []
    for network in finals():
        assert network.test is not None
        worse = network.test.difference.value if network.test.difference else 0.0
        spread = [0.8 + worse, 0.1, 0.5 + 2 * worse, 0.75 + worse, 0.82 + worse, 0.88, 0.93]
        test = replace(
            network.test,
            classes=tuple(replace(found, measure="dice") for found in network.test.classes),
            table="dice",
            table_rows=("benign", "malignant"),
            table_columns=("mean", "sd", "5 %", "25 %", "50 %", "75 %", "95 %"),
            table_values=(tuple(spread), tuple(value - 0.05 for value in spread)),
            distances=(
                Distance("benign", "mm", 3.25 - 20 * worse, 2.5, 40, 0, 1),
                Distance("malignant", "mm", None, None, 0, 2, 0),
            ),
        )
        networks.append(replace(network, test=test))
    return networks


def latencies() -> list[dict[str, object]]:
    """Rows of `latency.json` of dense and two of the ladder, one of them not measured."""
    rows = []
    for point, genome, ms in ((0, DENSE, 12.0), (3, LADDER[0], 7.5), (4, LADDER[1], None)):
        times = dict.fromkeys(("median_ms", "low_ms", "high_ms"))
        if ms is not None:
            times = {"median_ms": ms, "low_ms": 0.9 * ms, "high_ms": 1.2 * ms}
        fixed = {"runtime": "eager", "batch": 1, "device": "cpu", "threads": 1, "machine": "a processor"}
        note = None if ms is not None else "it would not run"
        rows.append(
            {"point": point, "genome": list(genome), **fixed, **times, "peak_bytes": 4e6, "note": note}
        )
    return rows


def calibration() -> dict[str, object]:
    """What a calibration keeps in a description."""

    def tau(value: float) -> dict[str, float]:
        return {"tau": value, "low": value - 0.2, "high": min(1.0, value + 0.2)}

    rungs = [
        {
            "rung": rung,
            "value": value,
            "overall": tau(t),
            "within": tau(t - 0.1),
            "seconds": s,
            "regret": 0.01,
        }
        for rung, s, t in (("recalibrate", 0.4, 0.3), ("shared", 0.6, 0.62), ("finetune", 9.0, 0.7))
        for value in ("metric", "loss")
    ]
    ends = {"ceiling": tau(0.8), "ceiling_within": tau(0.7), "full_seconds": 60.0}
    return {"networks": 12, "rungs": rungs, **ends}


def prior() -> dict[str, pd.DataFrame]:
    """What `search.prior.history` tells of a campaign with a prior."""
    slope = np.linspace(0.02, 0.05, len(NAMES))
    outcome = pd.DataFrame({"group": NAMES, "transfer": slope, "flat": 0.03, "observed": 0.03, "sd": 0.01})
    rows = [
        (n, name, w) for n in (3, 8, 60) for name, w in (("transfer", 0.9 - n / 100), ("flat", 0.1 + n / 100))
    ]
    return {
        "prior_outcome": outcome,
        "prior_weights": pd.DataFrame(rows, columns=["networks", "expert", "weight"]),
    }


def of_many_trials(few: CampaignReport, networks: int) -> CampaignReport:
    """The same campaign as if it had measured so many networks, most of them a little worse than its own."""
    rng = np.random.default_rng(0)
    copies = few.trials.iloc[rng.integers(0, len(few.trials), networks - len(few.trials))].copy()
    worse = rng.uniform(0.002, 0.03, len(copies))
    copies["number"] = 1000 + np.arange(len(copies))
    copies["kind"], copies["front"], copies["advised"] = "search", False, False
    copies["metric"] -= worse
    for column in ("difference", "low", "high", "estimate"):
        copies[column] -= worse
    copies["flops"] *= rng.uniform(0.9, 1.0, len(copies))
    copies["flops_ratio"] = copies["flops"] / DENSE_FLOPS
    trials = pd.concat([few.trials, copies], ignore_index=True)
    trials.attrs |= few.trials.attrs
    numbers = np.arange(networks)
    history = pd.DataFrame({"number": numbers, "hypervolume": np.linspace(0, few.hypervolume, networks)})
    return replace(few, trials=trials, history=history)


def full_report(**words: object) -> CampaignReport:
    """The sample campaign with everything that a campaign can have."""
    everything = {
        "finalised": finals(),
        "latency": latencies(),
        "calibration": calibration(),
        **prior(),
    }
    found = records()
    rng = np.random.default_rng(5)
    again = [record(len(found) + i, LADDER[i], rng, replicate=1) for i in range(3)]
    return report([*found, *again], **(everything | words))


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
        "class_cases": CLASSES,
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
