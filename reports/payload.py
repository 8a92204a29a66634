"""The numbers and figures that a page carries, as plain data for its script. Never an array over cases."""

import json
import math
from collections.abc import Callable, Hashable
from typing import Any

import pandas as pd

from reports.campaign import CampaignReport
from reports.class_figures import CLASSES_REACH, classes_figure, spread_figure
from reports.detail_figures import (
    calibration_figure,
    latency_figure,
    prior_figure,
    replicates_figure,
    weights_figure,
)
from reports.figures import compare_figure, front_figure, history_figure, ratios_figure

_COLUMNS = (
    *("number", "kind", "front", "plausible", "advised", "replicates", "metric", "difference", "half"),
    *("estimate", "loss", "flops", "params", "activation_bytes"),
)
_RUNTIMES = {"eager": "PyTorch", "compile": "torch.compile", "onnxruntime": "ONNX Runtime"}


def campaign_payload(report: CampaignReport) -> dict[str, Any]:
    """Numbers and figures of one campaign."""
    trials = report.trials.assign(half=(report.trials["high"] - report.trials["low"]) / 2)
    return {
        "metric": report.metric_name,
        "id": report.id,
        "selected": int(report.headline["number"]),
        "columns": {name: plain(trials[name]) for name in _COLUMNS},
        "genomes": [list(map(int, genome)) for genome in trials["genome"]],
        "units": plain(report.groups["units"]),
        "channels": plain(report.groups["channels"]),
        "reach": CLASSES_REACH,
        "measure": str(report.classes["measure"].iloc[0]) if len(report.classes) else "",
        "classNames": [str(name) for name in dict.fromkeys(report.classes["class"])],
        "classes": _by_number(report.classes),
        "testedClasses": _by_number(report.final_classes, report.classes),
        "spread": _spread(report.final_classes),
        "tested": _tested(report.tested),
        "latency": _latency(report.latency),
        "figures": {name: as_plain(figure) for name, figure in campaign_figures(report).items()},
    }


def campaign_figures(report: CampaignReport) -> dict[str, Any]:
    """Every figure that a campaign has something for, by name, in the page's order."""
    chosen, metric = report.headline, report.metric_name
    number = int(chosen["number"])
    builders: dict[str, tuple[bool, Callable[[], Any]]] = {
        "front": (True, lambda: front_figure(report.trials, metric, number, report.finalised)),
        "ratios": (True, lambda: ratios_figure(report.groups, chosen["genome"])),
        "classes": (
            len(report.classes) > 0,
            lambda: classes_figure(report.classes, number, report.final_classes),
        ),
        "spread": (
            bool(report.final_classes["median"].notna().any()),
            lambda: spread_figure(report.final_classes, number),
        ),
        "latency": (bool(report.latency["median_ms"].notna().any()), lambda: latency_figure(report.latency)),
        "history": (True, lambda: history_figure(report.history, report.ladder_hypervolume, metric)),
        "calibration": (len(report.calibration) > 0, lambda: calibration_figure(report.calibration)),
        "replicates": (
            report.replicates["number"].nunique() > 1,
            lambda: replicates_figure(report.replicates, metric),
        ),
        "prior": (len(report.prior_outcome) > 0, lambda: prior_figure(report.prior_outcome)),
        "weights": (len(report.prior_weights) > 0, lambda: weights_figure(report.prior_weights)),
    }
    return {name: build() for name, (there, build) in builders.items() if there}


def compare_figures(reports: list[CampaignReport]) -> dict[str, Any]:
    """One comparison of observed fronts for each metric: metric in words -> figure."""
    by_metric: dict[str, dict[str, pd.DataFrame]] = {}
    for report in reports:
        by_metric.setdefault(report.metric_name, {})[f"{report.name} ({report.id})"] = report.trials
    return {metric: compare_figure(frames, metric) for metric, frames in by_metric.items()}


def plain(column: pd.Series) -> list[Any]:
    """Values that JSON knows, with six meaningful digits; NaN becomes null."""
    values = column.tolist()
    if column.dtype.kind == "b":
        return [int(value) for value in values]
    if column.dtype.kind != "f":
        return values
    return [_rounded(value) for value in values]


def as_plain(figure: Any) -> Any:
    """A figure as plain data; arrays of numbers stay Plotly's base64, which is smaller."""
    return json.loads(figure.to_json())


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _by_number(classes: pd.DataFrame, order: pd.DataFrame | None = None) -> dict[str, Any]:
    """Number of the network -> [value, difference, low, high] of each class, in the figure's order."""
    names = list(dict.fromkeys((classes if order is None else order)["class"]))
    figures = ["value", "difference", "low", "high"]
    found: dict[str, Any] = {}
    for number, rows in classes.groupby("number", sort=False):
        by_class = rows.drop_duplicates("class").set_index("class")[figures].reindex(names)
        found[str(number)] = [[_short(value) for value in row] for row in by_class.to_numpy(float)]
    return found


def _spread(tested: pd.DataFrame) -> dict[str, Any]:
    """Number of the finalised network -> percentiles of each class, in the figure's order; not of dense."""
    known, figures = tested[tested["median"].notna()], ["p5", "p25", "median", "p75", "p95"]
    names = list(dict.fromkeys(known["class"]))
    return {
        str(number): [
            [_short(v) for v in row]
            for row in rows.set_index("class")[figures].reindex(names).to_numpy(float)
        ]
        for number, rows in known[~known["dense"]].groupby("number", sort=False)
    }


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _tested(tested: pd.DataFrame) -> dict[str, list[float | None]]:
    """Number -> metric, low, high, difference, low, high on the test split."""
    names = ["metric", "low", "high", "difference", "difference_low", "difference_high"]
    return {
        str(row["number"]): [_rounded(float(row[name])) for name in names]
        for row in tested.to_dict("records")
    }


def _latency(latency: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry a setting: its name, and number -> median, low and high in ms, and peak bytes."""
    found = []
    settings = ["runtime", "batch", "device", "threads"]
    for setting, rows in latency.groupby(settings, sort=False):
        found.append({"label": _setting(setting), "values": _measured(rows)})
    return found


def _setting(setting: tuple[Hashable, ...]) -> str:
    runtime, batch, device, threads = setting
    where = f"{device}, {threads} thread{'s' if threads != 1 else ''}" if device == "cpu" else str(device)
    return f"{_RUNTIMES.get(str(runtime), runtime)}, batch {batch}, {where}"


def _measured(rows: pd.DataFrame) -> dict[str, list[float | None]]:
    names = ["median_ms", "low_ms", "high_ms", "peak_bytes"]
    return {
        str(row["number"]): [_rounded(float(row[name])) for name in names] for row in rows.to_dict("records")
    }
