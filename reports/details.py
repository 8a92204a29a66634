"""Frames beside the front: classes, repeats, rungs, finalised networks, latency, the prior's outcome.

What campaigns lack, has an empty frame with the same columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from reports.networks import complete_records, measured_networks, pooled
from spaces.finals import Estimate, FinalNetwork, TestResult
from spaces.intervals import paired_difference
from spaces.messages import Genome, Record

CLASS_COLUMNS = ("number", "class", "measure", "cases", "value", "difference", "low", "high")
FINAL_CLASS_COLUMNS = (
    *CLASS_COLUMNS,
    *("dense", "value_low", "value_high", "p5", "p25", "median", "p75", "p95"),
    *("hd_mean", "hd_median", "unit", "missed", "invented"),
)
FINAL_COLUMNS = (
    *("number", "dense", "flops_ratio", "params_ratio", "val", "metric", "low", "high"),
    *("difference", "difference_low", "difference_high", "calibration_error"),
    *("cases", "patients", "together", "openings", "opened"),
)
LATENCY_COLUMNS = (
    *("number", "flops_ratio", "runtime", "batch", "device", "threads", "machine"),
    *("median_ms", "low_ms", "high_ms", "peak_bytes", "note"),
)
CALIBRATION_COLUMNS = (
    *("rung", "value", "tau", "low", "high", "within", "within_low", "within_high"),
    *("seconds", "regret"),
)
PRIOR_COLUMNS = ("group", "observed", "sd")
WEIGHT_COLUMNS = ("networks", "expert", "weight")


def class_frame(
    records: Iterable[Record],
    numbers: Iterable[int],
    *,
    metric: str,
    dense: Genome,
    cases: Mapping[str, int] | None = None,
    patients: np.ndarray | None = None,
    rung: str = "finetune",
) -> pd.DataFrame:
    """One row a network and class, the rarest class first: what each class gains or loses.

    Columns: number (of the network's first trial); class; measure ("recall", "auc", "dice"); cases
    (validation cases of the class, NaN if unknown); value; difference: paired, to dense, with low and high,
    the ends of its 95 % interval over cases (the spread between trainings is not in it).

    Empty where the task has no classes, or there is one only.

    Args:
        records: Of one campaign.
        numbers: Of the networks to look at, as in `trials_frame`.
        metric: The campaign's.
        dense: The genome of the unpruned network.
        cases: Validation cases by class.
        patients: Anonymous patient index of each validation case.
        rung: The fidelity to show.

    Raises:
        InputError: Dense has not been measured.
    """
    networks = measured_networks(records, metric=metric, dense=dense, rung=rung)
    named = [name for name in networks[dense][0].outcome.values if "/" in name]
    wanted, known = set(numbers), cases or {}
    if len(named) < 2:
        return pd.DataFrame(columns=list(CLASS_COLUMNS))
    reference = _class_shares(networks[dense], len(named))
    rows = []
    for runs in networks.values():
        number = runs[0].trial.number
        if number not in wanted or reference is None:
            continue
        shares = _class_shares(runs, len(named))
        if shares is None:
            continue
        for name, ours, theirs in zip(named, shares.T, reference.T, strict=True):
            measure, _, label = name.partition("/")
            mean, se = paired_difference(ours, theirs, patients)
            half = 0.0 if ours is theirs else se * float(stdtrit(max(len(ours) - 1, 1), 0.975))
            figures = (float(ours.mean()), mean, mean - half, mean + half)
            rows.append((number, label, measure, known.get(label, np.nan), *figures))
    frame = pd.DataFrame(rows, columns=list(CLASS_COLUMNS))
    return frame.sort_values("cases", kind="stable", na_position="last").reset_index(drop=True)


def _class_shares(runs: Sequence[Record], n_classes: int) -> np.ndarray | None:
    """(cases, classes) shares in each class's measure; None where they do not belong to the classes."""
    name = "classes" if "classes" in runs[0].outcome.per_case else "score"
    if name not in runs[0].outcome.per_case:
        return None
    shares = pooled(runs, name)
    shares = shares[:, np.isfinite(shares).all(axis=0)] if shares.ndim == 2 else shares[:, None]
    return shares if shares.shape[1] == n_classes else None


def replicates_frame(
    records: Iterable[Record], *, metric: str, dense: Genome, rung: str = "finetune"
) -> pd.DataFrame:
    """One row an evaluation of a network that was evaluated more than once: what repeating changes.

    Columns: number (of the network's first trial), trial, replicate, kind ("dense" or "search"), metric,
    deviation (of the metric, from the network's mean).
    """
    runs = [r for r in complete_records(records, rung, metric) if r.trial.fold == 0]
    rows = [(r.trial.genome, r.trial.number, r.trial.replicate, r.value(metric)) for r in runs]
    frame = pd.DataFrame(rows, columns=["genome", "trial", "replicate", "metric"])
    grouped = frame.groupby("genome", sort=False)
    frame["number"] = grouped["trial"].transform("min")
    frame["deviation"] = frame["metric"] - grouped["metric"].transform("mean")
    frame["kind"] = ["dense" if genome == dense else "search" for genome in frame["genome"]]
    frame = frame[grouped["metric"].transform("size") > 1]
    return frame[["number", "trial", "replicate", "kind", "metric", "deviation"]].reset_index(drop=True)


def calibration_frame(found: Mapping[str, Any] | None) -> pd.DataFrame:
    """One row a rung and what it ranks by, from a stored calibration; the last row is `full`'s own repeat.

    Columns: rung; value ("metric", "loss"; "repeat" in the last row); tau: Kendall's, with `full`, with low
    and high, its 95 % interval; within, within_low, within_high: the same among networks whose FLOPs are
    within an octave; seconds: median time of an evaluation; regret: hypervolume lost on `full`.
    """
    if not found:
        return pd.DataFrame(columns=list(CALIBRATION_COLUMNS))

    def row(rung: str, value: str, overall: Mapping[str, Any], within: Mapping[str, Any], *rest: Any) -> Any:
        ends = [part[name] for part in (overall, within) for name in ("tau", "low", "high")]
        return (rung, value, *(np.nan if end is None else end for end in ends), *rest)

    rows = [
        row(c["rung"], c["value"], c["overall"], c["within"], c["seconds"], c["regret"])
        for c in found["rungs"]
    ]
    rows.append(row("full", "repeat", found["ceiling"], found["ceiling_within"], found["full_seconds"], 0.0))
    return pd.DataFrame(rows, columns=list(CALIBRATION_COLUMNS))


def finalised_frame(networks: Sequence[FinalNetwork]) -> pd.DataFrame:
    """One row a finalised network: what the test split says.

    Columns: number, dense, flops_ratio, params_ratio; val: the metric on val after the full fine-tune;
    metric with low and high, and difference (paired, to dense) with difference_low and difference_high, all
    on the test split, their 95 % intervals simultaneous over `together` networks; NaN until it is opened;
    calibration_error (expected); cases, patients (NaN: unknown), openings of the test split, opened.
    """
    rows = []
    for network in networks:
        test = network.test
        reliability = None if test is None else test.reliability
        difference = None if test is None else test.difference
        rows.append(
            {
                "number": network.point,
                "dense": network.dense,
                "flops_ratio": network.ratios["flops"],
                "params_ratio": network.ratios["params"],
                "val": network.val.get(network.metric, np.nan),
                **_ends("", None if test is None else test.metric, "metric"),
                **_ends("difference_", difference, "difference"),
                "calibration_error": np.nan if reliability is None else reliability.error,
                "cases": network.cases,
                "patients": np.nan if network.patients is None else network.patients,
                "together": network.tested_together,
                "openings": network.openings,
                "opened": network.opened,
            }
        )
    return pd.DataFrame(rows, columns=list(FINAL_COLUMNS))


def _ends(prefix: str, estimate: Any, name: str) -> dict[str, float]:
    if estimate is None:
        return {name: np.nan, f"{prefix}low": np.nan, f"{prefix}high": np.nan}
    return {name: estimate.value, f"{prefix}low": estimate.low, f"{prefix}high": estimate.high}


def final_class_frame(networks: Sequence[FinalNetwork]) -> pd.DataFrame:
    """As `class_frame`, on the test split: one row a finalised network and class, the rarest first.

    Further columns: dense (whether it is the unpruned network); value_low and value_high, the value's 95 %
    interval; p5, p25, median, p75, p95: percentiles of Dice over all test cases; hd_mean and hd_median of
    HD95, in unit ("mm" or "pixels"), over the cases that show the class and where it was drawn; missed and
    invented, how often nothing was drawn, or something that is not there. NaN and None where unknown.
    """
    rows = [
        {
            "number": network.point,
            "dense": network.dense,
            "class": found.name,
            "measure": found.measure,
            "cases": found.cases,
            **_ends("value_", found.value, "value"),
            **_ends("", found.difference or Estimate(0.0, 0.0, 0.0), "difference"),
            **_over_cases(network.test, found.name),
        }
        for network in networks
        if network.test
        for found in network.test.classes
    ]
    frame = pd.DataFrame(rows, columns=list(FINAL_CLASS_COLUMNS)).astype({"dense": bool})
    return frame.sort_values("cases", kind="stable").reset_index(drop=True)


def _over_cases(test: TestResult, name: str) -> dict[str, Any]:
    """How one class does over the test cases: percentiles of Dice, and distances; what is stored of them."""
    found: dict[str, Any] = {}
    if test.table == "dice" and name in test.table_rows:
        values = dict(zip(test.table_columns, test.table_values[test.table_rows.index(name)], strict=True))
        shown = {"5 %": "p5", "25 %": "p25", "50 %": "median", "75 %": "p75", "95 %": "p95"}
        found |= {column: values[percentile] for percentile, column in shown.items()}
    for distance in test.distances:
        if distance.name == name:
            found |= {"hd_mean": distance.mean, "hd_median": distance.median, "unit": distance.unit}
            found |= {"missed": distance.missed, "invented": distance.invented}
    return found


def latency_frame(measured: Iterable[Mapping[str, Any]], trials: pd.DataFrame) -> pd.DataFrame:
    """One row a measurement that was made of one of the campaign's networks.

    Columns: number (of the network's first trial), flops_ratio; runtime ("eager", "compile", "onnxruntime"),
    batch, device, threads, machine; median_ms, low_ms, high_ms of one call (10 % and 90 % quantiles), NaN
    where it could not be measured; peak_bytes; note: why something is missing.

    Args:
        measured: Rows of `latency.json`.
        trials: The campaign's `trials_frame`.
    """
    known = {row["genome"]: row for row in trials[["genome", "number", "flops_ratio"]].to_dict("records")}
    rows = [
        {name: (row | known[tuple(row["genome"])]).get(name) for name in LATENCY_COLUMNS}
        for row in map(dict, measured)
        if tuple(row["genome"]) in known
    ]
    frame = pd.DataFrame(rows, columns=list(LATENCY_COLUMNS))
    for name in ("median_ms", "low_ms", "high_ms", "peak_bytes"):
        frame[name] = pd.to_numeric(frame[name])
    return frame
