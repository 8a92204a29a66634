"""Stored campaigns as reports: no data, no network, no torch needed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluators.latency.archive import latency_file, read_latencies
from search.finals.finalised import finalised
from search.store.archive import Store
from search.store.entries import CampaignRow
from search.words import settings_in_words
from spaces.errors import StoreError
from spaces.objectives import in_words

if TYPE_CHECKING:
    from reports.campaign import CampaignReport

_FIGURES = (
    *("flops", "flops_ratio", "params", "params_ratio", "activation_bytes", "latency_ms"),
    *("metric", "difference", "se", "low", "high", "estimate", "loss", "replicates"),
)


def campaign_summary(store: Store, campaign_id: str) -> "CampaignReport":
    """What reports show of a stored campaign, running ones too.

    Raises:
        StoreError: No such campaign, or the dense network has not been measured yet.
    """
    import pandas as pd

    from reports.campaign import campaign_report

    row = store.campaign(campaign_id)
    records = store.records(row.id)
    about, dense = row.description, tuple(row.description["dense"]["genome"])
    if not any(record.complete and record.trial.genome == dense for record in records):
        raise StoreError(
            f"campaign {row.id} has no measured dense network to compare with yet; "
            f"`paretoprune resume {row.id}` goes on"
        )
    patients = about["patients"]
    report = campaign_report(
        records,
        id=row.id,
        name=row.name,
        network=_network_in_words(row.config["network"]),
        data=_data_in_words(about["data"]),
        controller=row.config["search"]["controller"],
        metric=about["metric"],
        chance=about["chance"],
        dense=dense,
        ladder={tuple(genome) for genome in about["ladder"]},
        groups=pd.DataFrame(about["groups"])[["name", "channels", "units", "flops_share"]],
        provenance=_provenance(row),
        patients=None if patients is None else np.array(patients),
        rung=(row.config["search"].get("rungs") or [row.config["proxy"]["rung"]])[-1],
        status=row.status,
        class_cases=_class_cases(about["data"], folds=row.config["data"].get("folds", 1)),
        finalised=finalised(store, row.id),
        latency=read_latencies(latency_file(store.artifacts, row.id)),
        calibration=about.get("calibration"),
    )
    given = row.config.get("constraints", {}).items()
    return replace(
        report,
        constraints={name: bound for name, bound in given if bound is not None},
        objectives=tuple(row.config["search"].get("objectives", ("flops",))),
    )


def _class_cases(data: Mapping[str, Any], folds: int) -> dict[str, int]:
    """Cases by class among those that candidates are measured on: val, or with folds train and val."""
    counts = data.get("class_counts", {})
    parts = [counts[name] for name in (("train", "val") if folds > 1 else ("val",)) if name in counts]
    return {
        name: sum(numbers) for name, *numbers in zip(data["classes"], *parts, strict=False) if len(numbers)
    }


def front_points(report: "CampaignReport") -> dict[str, Any]:
    """The measured networks as plain data: every point, with dense and the ladder by themselves."""
    from reports.constraints import meets

    met = meets(report.trials, report.constraints)
    points = [
        {
            "number": int(row["number"]),
            "genome": [int(units) for units in row["genome"]],
            **{name: _plain(row[name]) for name in _FIGURES if name in row},
            "kind": row["kind"],
            "front": bool(row["front"]),
            "advised": bool(row["advised"]),
            "plausible": bool(row["plausible"]),
            "meets": bool(within),
        }
        for row, within in zip(report.trials.to_dict("records"), met, strict=True)
    ]
    return {
        "campaign": report.id,
        "metric": report.metric,
        "chance": report.chance,
        "constraints": dict(report.constraints),
        "points": points,
        "dense": next(point for point in points if point["kind"] == "dense"),
        "ladder": [point for point in points if point["kind"] == "ladder"],
        "hypervolume": _plain(report.hypervolume),
        "ladder_hypervolume": _plain(report.ladder_hypervolume),
    }


def _plain(value: float) -> float | int | None:
    """A number that JSON knows: NaN is null."""
    if value != value:
        return None
    return int(value) if float(value).is_integer() and abs(value) >= 1 else float(value)


def _network_in_words(network: Mapping[str, Any]) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in network["arguments"].items())
    return f"{network['factory'].partition(':')[2]}({arguments})"


def _data_in_words(data: Mapping[str, Any]) -> str:
    size = " × ".join(str(n) for n in data["spatial"])
    sizes = data["sizes"]
    return (
        f"{data['source']}, {size} pixels, {sizes['train']} training, {sizes['val']} validation and "
        f"{sizes['test']} test cases; {', '.join(data['classes'])}"
    )


def _whole_in_words(whole: Mapping[str, float] | None) -> dict[str, str]:
    if whole is None:
        return {}
    seen = f"{whole['volumes']} at the rung full, {whole['windows']:.1f} windows each on average"
    return {"Whole volumes": f"{seen}: dense takes {whole['dense_flops'] / 1e9:,.2f} GFLOPs a volume"}


def _provenance(row: CampaignRow) -> dict[str, str]:
    about, config = row.description, row.config
    given = about["as_given"].get(about["metric"])
    recipe = config["recipe"] if config["network"]["weights"] is None else None
    return {
        "Campaign": f"{row.id}, {row.status}",
        "Started": f"{row.created:%Y-%m-%d %H:%M} UTC",
        "Command": about["command"] or "from Python",
        "Network": _network_in_words(config["network"]),
        "Dense weights": settings_in_words(recipe) if recipe else "given by the user",
        "Dense as given": f"{in_words(about['metric'])} {given:.4f} on val, before equal fine-tuning",
        "Data": _data_in_words(about["data"]),
        **_whole_in_words(about.get("whole")),
        "Licence of the data": about["data"]["licence"] or "not known",
        "Duplicates removed": str(about["data"]["duplicates_removed"]),
        "Criterion": config["pruning"]["criterion"],
        "Evaluation": settings_in_words(config["proxy"]),
        "Search": settings_in_words(config["search"]),
        "Not prunable": ", ".join(f"{entry['name']} ({entry['reason']})" for entry in about["frozen"])
        or "nothing",
        "Versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "Machine": about["machine"],
        "Fingerprint": row.fingerprint,
    }
