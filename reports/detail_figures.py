"""Figures beside the front: each takes a frame of `reports.details` and returns a Plotly figure."""

import html
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports.drawing import drawn, error_bar, group_axis, rows_layout, set_titles
from reports.theme import (
    ADVISED,
    FAINT,
    FRONT,
    GOLD,
    GREEN,
    INK,
    LADDER,
    PAPER,
    PINK,
    flops_axis,
    layout,
)

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")


def calibration_figure(calibration: pd.DataFrame) -> go.Figure:
    """How well each rung orders networks as `full` does: Kendall's tau with 95 % intervals.

    Args:
        calibration: A `calibration_frame`.
    """
    labels = [
        html.escape(f"{row.rung}, by {row.value}") if row.value != "repeat" else "full against its repeat"
        for row in calibration.itertuples()
    ]
    figure = go.Figure()
    series = (
        ("all networks", ("tau", "low", "high"), FRONT, "circle", -0.13),
        ("within an octave of FLOPs", ("within", "within_low", "within_high"), LADDER, "diamond", 0.13),
    )
    for name, (middle, low, high), colour, symbol, shift in series:
        figure.add_trace(
            go.Scatter(
                name=name,
                x=drawn(calibration[middle]),
                y=np.arange(len(labels)) + shift,
                mode="markers",
                marker=_marker(11, colour, symbol),
                error_x=error_bar(calibration[low], calibration[middle], calibration[high], colour, 1.8),
                customdata=np.column_stack([labels, [f"{s:.2g}" for s in calibration["seconds"]]]),
                hovertemplate=f"<b>%{{customdata[0]}}</b><br>{name}: tau %{{x:.2f}}"
                "<br>%{customdata[1]} s an evaluation<extra></extra>",
            )
        )
    timed = [f"{label}, {s:.2g} s" for label, s in zip(labels, calibration["seconds"], strict=True)]
    rows_layout(figure, timed, "Kendall's tau with full")
    lowest = float(np.nanmin(calibration[["low", "within_low"]].to_numpy(float), initial=-0.1))
    figure.update_xaxes(range=[lowest - 0.05, 1.05])
    ceiling = float(calibration["tau"].iloc[-1])
    if np.isfinite(ceiling):
        figure.add_vline(x=ceiling, line={"color": INK, "width": 1.2, "dash": "dash"})
    return _with_legend(figure)


def replicates_figure(replicates: pd.DataFrame, metric_name: str) -> go.Figure:
    """What repeating the evaluation of one network changes: each repeat, as a difference to the mean.

    Args:
        replicates: A `replicates_frame`.
        metric_name: In words, for the axis.
    """
    numbers = list(dict.fromkeys(replicates["number"]))
    place = {number: i for i, number in enumerate(numbers)}
    dense = set(replicates.loc[replicates["kind"].eq("dense"), "number"])
    figure = go.Figure()
    for name, kind, colour, symbol in (
        ("searched", "search", FRONT, "circle"),
        ("dense", "dense", INK, "square"),
    ):
        rows = replicates[replicates["kind"].eq(kind)]
        figure.add_trace(
            go.Scatter(
                name=name,
                x=[place[number] for number in rows["number"]],
                y=drawn(rows["deviation"]),
                mode="markers",
                marker=_marker(9, colour, symbol),
                customdata=np.column_stack([rows["number"], rows["trial"], rows["metric"]]),
                hovertemplate="network %{customdata[0]}, trial %{customdata[1]}: %{customdata[2]:.3f}"
                "<extra></extra>",
            )
        )
    figure.update_layout(layout(height=260))
    set_titles(figure, "networks evaluated more than once, by number", f"{metric_name}, from its mean")
    figure.add_hline(y=0, line={"color": FAINT, "width": 1.2})
    texts = ["dense" if number in dense else str(number) for number in numbers]
    step = max(1, len(numbers) // 30)
    figure.update_xaxes(
        tickvals=list(range(0, len(numbers), step)),
        ticktext=texts[::step],
        range=[-0.6, max(len(numbers) - 0.4, 3)],
    )
    figure.update_yaxes(tickformat="+.3~f")
    figure.update_layout(margin={"r": 16})
    return figure


def prior_figure(outcome: pd.DataFrame) -> go.Figure:
    """Damage per channel group: what each expert foresaw beside what the campaign found.

    Args:
        outcome: As `CampaignReport.prior_outcome`.
    """
    names = [str(name) for name in outcome["group"]]
    experts = [str(name) for name in outcome.columns if name not in ("group", "observed", "sd")]
    styles = zip(experts, cycle((LADDER, GREEN, PINK, GOLD)), cycle(_SYMBOLS[1:]), strict=False)
    series = [(name, f"foreseen by {name}", colour, symbol) for name, colour, symbol in styles]
    series.append(("observed", "observed in the campaign", FRONT, "circle"))
    figure = go.Figure()
    for k, (column, name, colour, symbol) in enumerate(series):
        middle = outcome[column].to_numpy(float)
        spread = 1.96 * outcome["sd"].to_numpy(float) if column == "observed" else np.zeros(len(middle))
        figure.add_trace(
            go.Scatter(
                name=html.escape(name),
                x=np.arange(len(names)) + 0.14 * (k - (len(series) - 1) / 2),
                y=drawn(middle),
                mode="markers",
                marker=_marker(9, colour, symbol),
                error_y=error_bar(middle - spread, middle, middle + spread, colour, 1.6),
                customdata=[html.escape(name) for name in names],
                hovertemplate="<b>%{customdata}</b>: %{y:.3f}",
            )
        )
    figure.update_layout(layout(height=290))
    set_titles(figure, "channel groups, from the input to the output", "damage of the group")
    group_axis(figure, names)
    figure.add_hline(y=0, line={"color": FAINT, "width": 1.2})
    return _with_legend(figure)


def weights_figure(weights: pd.DataFrame) -> go.Figure:
    """How far each expert was believed, as measurements came in.

    Args:
        weights: As `CampaignReport.prior_weights`.
    """
    figure = go.Figure()
    styles = zip(cycle((FRONT, LADDER, GREEN, PINK, GOLD)), cycle(_SYMBOLS), strict=False)
    for (expert, rows), (colour, symbol) in zip(weights.groupby("expert", sort=False), styles, strict=False):
        figure.add_trace(
            go.Scatter(
                name=html.escape(str(expert)),
                x=rows["networks"],
                y=drawn(rows["weight"]),
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker=_marker(8, colour, symbol),
                hovertemplate="after %{x} networks: %{y:.2f}",
            )
        )
    figure.update_layout(layout(height=280))
    set_titles(figure, "networks measured", "weight in the mixture")
    figure.update_yaxes(range=[-0.03, 1.06])
    return _with_legend(figure)


def latency_figure(latency: pd.DataFrame) -> go.Figure:
    """Measured latency over FLOPs: one series a runtime, batch size and device.

    Args:
        latency: A `latency_frame`.
    """
    figure = go.Figure()
    known = latency[latency["median_ms"].notna()]
    colours = (ADVISED, LADDER, GREEN, PINK, GOLD)
    series = known.groupby(["runtime", "batch", "device"], sort=False)
    styles = zip(cycle(colours), cycle(_SYMBOLS), strict=False)
    for ((runtime, batch, device), rows), (colour, symbol) in zip(series, styles, strict=False):
        figure.add_trace(
            go.Scatter(
                name=html.escape(f"{runtime}, batch {batch}, {device}"),
                x=drawn(100 * rows["flops_ratio"]),
                y=drawn(rows["median_ms"]),
                mode="markers",
                marker=_marker(10, colour, symbol),
                error_y=error_bar(rows["low_ms"], rows["median_ms"], rows["high_ms"], colour, 1.6),
                customdata=rows["number"],
                hovertemplate="network %{customdata}: %{y:.3g} ms",
            )
        )
    figure.update_layout(layout(height=320))
    set_titles(figure, "FLOPs (% of dense, logarithmic)", "milliseconds a call")
    figure.update_xaxes(flops_axis(known["flops_ratio"]))
    figure.update_yaxes(rangemode="tozero")
    return _with_legend(figure)


def _marker(size: float, colour: str, symbol: str) -> dict[str, Any]:
    return {"size": size, "color": colour, "symbol": symbol, "line": {"color": PAPER, "width": 1}}


def _with_legend(figure: go.Figure) -> go.Figure:
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    figure.update_layout(showlegend=True, legend=legend, margin={"r": 16, "t": 40})
    return figure
