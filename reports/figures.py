"""The main figures, each a pure function of frames that returns a Plotly figure: fronts, history, ratios."""

import html
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports.drawing import drawn, error_bar, group_axis, name_lines, set_titles
from reports.theme import (
    ADVISED,
    BAR,
    FAINT,
    FRONT,
    GOLD,
    GREEN,
    INK,
    LADDER,
    MUTED,
    PAPER,
    PINK,
    TRACK,
    flops_axis,
    layout,
)
from spaces.fronts import MARGIN

MOST_DRAWN = 600
"""Dominated networks that a figure draws, and as many plausible ones; of more, an even choice."""
_CLEAR = "rgba(0,0,0,0)"
_HOVER = (
    "<b>network %{customdata[0]}</b><br>%{x:.3g} % of the FLOPs, %{customdata[1]:.3g} % of the parameters<br>"
    "METRIC %{y:.3f}, %{customdata[2]:+.3f} ± %{customdata[3]:.3f} to dense<extra></extra>"
)
_TESTED = (
    "<b>network %{customdata[0]}, finalised</b><br>%{x:.3g} % of the FLOPs<br>"
    "METRIC on test %{customdata[1]:.3f}, %{customdata[2]:+.3f} to dense<br>"
    "95 %: %{customdata[3]:+.3f} to %{customdata[4]:+.3f}<extra></extra>"
)


def front_figure(
    frame: pd.DataFrame,
    metric_name: str,
    selected: int | None = None,
    finalised: pd.DataFrame | None = None,
) -> go.Figure:
    """Metric over FLOPs: all networks, the observed front, what is advised, ladder, dense, test results.

    Bars are 95 % intervals of the paired difference to dense, drawn around the network's metric. Results on
    the test split are differences to dense there, drawn from dense's line. The axis shows where something is
    at stake; networks far below are one double click away.

    Args:
        frame: A `trials_frame`.
        metric_name: In words, for the axis.
        selected: Number of the network that wears the ring.
        finalised: A `finalised_frame`, if there is one.
    """
    hover = _HOVER.replace("METRIC", html.escape(metric_name))
    kind, plausible, advised = frame["kind"], frame["plausible"], frame["advised"]
    searched = kind.eq("search")
    ladder = frame[kind.ne("search")].sort_values("flops")
    chosen = frame[frame["number"].eq(-1 if selected is None else selected)]
    dense = float(frame.loc[kind.eq("dense"), "metric"].iloc[0])
    in_sight = frame["metric"].gt(dense - 1.15 * MARGIN)
    named = frame[(frame["front"] | advised) & kind.ne("dense") & in_sight]
    dotted = {"color": LADDER, "width": 1.5, "dash": "dot"}
    rest = _few(frame[searched & ~plausible & ~advised])
    figure = go.Figure()
    for trace in (
        _points("others", rest, hover, marker=_marker(5, PAPER, FAINT)),
        _front_line(frame),
        _points("intervals", named, hover, bars=True),
        _points("ladder line", ladder, hover, mode="lines", line=dotted, hoverinfo="skip"),
        _points(
            "plausible", _few(frame[searched & plausible & ~advised]), hover, marker=_marker(7, PAPER, FRONT)
        ),
        _points("ladder", frame[kind.eq("ladder")], hover, marker=_marker(10, LADDER, PAPER, "diamond")),
        _points("advised", frame[searched & advised], hover, marker=_marker(11, ADVISED, PAPER)),
        _points("dense", frame[kind.eq("dense")], hover, marker=_marker(11, INK, PAPER, "square")),
        _tested(frame, finalised, metric_name),
        _points("selected", chosen, hover, marker=_marker(20, _CLEAR, INK, width=2.5), hoverinfo="skip"),
    ):
        figure.add_trace(trace)
    _front_layout(figure, frame, metric_name)
    return figure


def history_figure(history: pd.DataFrame, ladder_hypervolume: float, metric_name: str) -> go.Figure:
    """Hypervolume of the observed front after each trial, beside the ladder's.

    Args:
        history: A `history_frame`.
        ladder_hypervolume: The level of dense and ladder alone.
        metric_name: In words, for the axis.
    """
    last = float(history["hypervolume"].iloc[-1]) if len(history) else 0.0
    changes = history[history["hypervolume"].diff().ne(0) | (np.arange(len(history)) == len(history) - 1)]
    figure = go.Figure(
        go.Scatter(
            x=changes["number"] + 1,
            y=changes["hypervolume"],
            mode="lines",
            line={"color": FRONT, "width": 2.5, "shape": "hv"},
            hovertemplate="after %{x} trials: %{y:.3f}<extra></extra>",
        )
    )
    figure.add_hline(y=ladder_hypervolume, line={"color": LADDER, "width": 1.5, "dash": "dot"})
    top = 1.12 * max(last, ladder_hypervolume, 0.01)
    _name_levels(figure, last, ladder_hypervolume, top)
    figure.update_layout(layout(height=300))
    figure.update_layout(margin={"r": 16})
    set_titles(figure, "trials finished", f"hypervolume ({metric_name} × octaves)")
    figure.update_yaxes(range=[0, top])
    figure.update_xaxes(range=[0, max(float(history["number"].max()) + 1 if len(history) else 1, 1)])
    return figure


def ratios_figure(groups: pd.DataFrame, genome: Sequence[int]) -> go.Figure:
    """How much of each channel group a network keeps, along the network.

    Args:
        groups: name, units, channels and flops_share of each group, in the order of the genome.
        genome: Kept units per group.
    """
    names, place = [str(name) for name in groups["name"]], np.arange(len(groups))
    kept = np.asarray(genome) / groups["units"].to_numpy()
    channels = np.rint(kept * groups["channels"].to_numpy()).astype(int)
    shares = 100 * groups["flops_share"].to_numpy(float)
    details = zip(channels, groups["channels"], shares, map(html.escape, names), strict=True)
    hover = "<b>%{customdata[3]}</b><br>%{customdata[0]} of %{customdata[1]} channels kept"
    if groups["flops_share"].notna().all():
        hover += "<br>takes part in %{customdata[2]:.1f} % of dense's FLOPs"
    few = len(groups) <= 24
    figure = go.Figure()
    figure.add_trace(
        go.Bar(x=place, y=np.full(len(names), 100), marker={"color": TRACK}, hoverinfo="skip", name="dense")
    )
    figure.add_trace(
        go.Bar(
            x=place,
            y=100 * kept,
            marker={"color": FRONT},
            customdata=[list(row) for row in details],
            hovertemplate=hover + "<extra></extra>",
            text=[str(count) for count in channels] if few else None,
            textposition="outside",
            textfont={"size": 12, "color": MUTED},
            cliponaxis=False,
            name="kept",
        )
    )
    figure.update_layout(layout(height=270))
    set_titles(figure, "channel groups, from the input to the output", "channels kept (%)")
    bare = 1 - 0.78 * min(1.0, len(names) / 8)  # a few groups are no walls
    figure.update_layout(barmode="overlay", bargap=bare, margin={"r": 16})
    figure.update_yaxes(range=[0, 114], tickvals=[0, 25, 50, 75, 100])
    group_axis(figure, names)
    return figure


def compare_figure(frames: Mapping[str, pd.DataFrame], metric_name: str = "metric") -> go.Figure:
    """Observed fronts of several campaigns: difference to each one's dense network over FLOPs.

    Args:
        frames: Campaign's name -> its `trials_frame`; comparable where metric and data are the same.
        metric_name: In words, for the axis.
    """
    figure = go.Figure()
    colours, dashes = cycle((FRONT, LADDER, GREEN, PINK, GOLD)), cycle(["solid"] * 5 + ["dash"] * 5)
    symbols = cycle(("circle", "diamond", "square", "triangle-up", "x"))
    styles = zip(colours, dashes, symbols, strict=False)
    for (name, frame), (colour, dash, symbol) in zip(frames.items(), styles, strict=False):
        rows = frame[frame["front"]].sort_values("flops")
        figure.add_trace(
            go.Scatter(
                x=100 * rows["flops_ratio"],
                y=rows["difference"],
                mode="lines+markers",
                name=html.escape(name),
                line={"color": colour, "width": 2, "shape": "hv", "dash": dash},
                marker={"size": 8, "symbol": symbol},
                hovertemplate="%{x:.3g} % of the FLOPs: %{y:+.3f} to dense",
            )
        )
    figure.update_layout(layout(height=400))
    every = pd.concat([frame[["flops_ratio", "difference", "front"]] for frame in frames.values()])
    shown = every[every["front"] & every["difference"].gt(-1.15 * MARGIN)]
    low, high = min(float(shown["difference"].min()), -0.02), max(float(shown["difference"].max()), 0.005)
    figure.update_xaxes(flops_axis(shown["flops_ratio"]))
    figure.update_yaxes(range=[low - 0.06 * (high - low), high + 0.06 * (high - low)])
    set_titles(figure, "FLOPs (% of each dense network)", f"{metric_name}, difference to dense")
    figure.add_hline(y=0, line={"color": INK, "width": 1.2, "dash": "dash"})
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    figure.update_layout(showlegend=True, legend=legend, margin={"r": 16})
    return figure


def _marker(
    size: float, colour: str, line: str, symbol: str = "circle", *, width: float = 1.3
) -> dict[str, Any]:
    return {"size": size, "color": colour, "symbol": symbol, "line": {"color": line, "width": width}}


def _few(rows: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST_DRAWN` rows, evenly along cost and metric."""
    if len(rows) <= MOST_DRAWN:
        return rows
    ordered = rows.assign(octave=np.round(4 * np.log2(rows["flops_ratio"]))).sort_values(["octave", "metric"])
    return ordered.iloc[np.linspace(0, len(rows) - 1, MOST_DRAWN).round().astype(int)]


def _points(name: str, rows: pd.DataFrame, hover: str, *, bars: bool = False, **style: Any) -> go.Scatter:
    """A trace of networks; `customdata[0]` is the trial's number, by which a page finds the network."""
    half = (rows["high"] - rows["difference"]).fillna(0)
    if bars:
        style |= {
            "error_y": {"array": drawn(half), "color": BAR, "thickness": 1.2, "width": 3},
            "marker": {"size": 1, "color": BAR, "symbol": "line-ns-open"},
            "hoverinfo": "skip",
        }
    if "hoverinfo" not in style:
        style["hovertemplate"] = hover
    details = np.column_stack([rows["number"], 100 * rows["params_ratio"], rows["difference"], half])
    return go.Scatter(
        name=name,
        x=drawn(100 * rows["flops_ratio"]),
        y=drawn(rows["metric"]),
        mode=str(style.pop("mode", "markers")),
        customdata=drawn(details),
        **style,
    )


def _front_line(frame: pd.DataFrame) -> go.Scatter:
    """The observed front as a step line: what is reached at each cost, up to the costliest network."""
    front = frame[frame["front"]].sort_values("flops")
    return go.Scatter(
        name="front",
        x=drawn(100 * np.append(front["flops_ratio"], frame["flops_ratio"].max())),
        y=drawn(np.append(front["metric"], front["metric"].max())),
        mode="lines",
        line={"color": FRONT, "width": 1.6, "shape": "hv"},
        hoverinfo="skip",
    )


def _tested(frame: pd.DataFrame, finalised: pd.DataFrame | None, metric_name: str) -> go.Scatter:
    """Differences to dense on the test split, drawn from dense's line on the validation axis."""
    dense = float(frame.loc[frame["kind"].eq("dense"), "metric"].iloc[0])
    rows = frame.iloc[:0].assign(number=0) if finalised is None else finalised
    if finalised is not None:
        rows = rows[rows["difference"].notna()]
    else:
        rows = rows.assign(difference_low=[], difference_high=[])
    ends = ["number", "metric", "difference", "difference_low", "difference_high"]
    low, high = rows["difference_low"].astype(float), rows["difference_high"].astype(float)
    return go.Scatter(
        name="tested",
        x=drawn(100 * rows["flops_ratio"]),
        y=drawn(dense + rows["difference"]),
        mode="markers",
        marker=_marker(12, PINK, PAPER, "triangle-up"),
        error_y=error_bar(low, rows["difference"], high, PINK, 2),
        customdata=drawn(rows[ends]),
        hovertemplate=_TESTED.replace("METRIC", html.escape(metric_name)),
    )


def _front_layout(figure: go.Figure, frame: pd.DataFrame, metric_name: str) -> None:
    dense = float(frame.loc[frame["kind"].eq("dense"), "metric"].iloc[0])
    best = float(frame["metric"].max())
    bars = (frame["metric"] + (frame["high"] - frame["difference"]).fillna(0))[frame["front"]]
    low, high = dense - 1.15 * MARGIN, max(dense, float(bars.max()))
    visible = frame.loc[frame["metric"].gt(low), "metric"]
    low = min(float(visible.min()), dense - 0.02)
    pad = 0.06 * (high - low)
    span = (low - pad, high + pad)
    figure.add_hline(y=dense, line={"color": INK, "width": 1.2, "dash": "dash"})
    labels = [(dense, f"dense {dense:.3f}", INK)]
    if best > dense:
        labels.append((best, f"best {best:.3f}", FRONT))
    name_lines(figure, labels, span)
    ladder = frame[frame["kind"].eq("ladder") & frame["metric"].gt(low)]
    if len(ladder):
        _name_ladder(figure, ladder.iloc[int(ladder["flops"].argmax())], span)
    figure.update_layout(layout(height=520))
    figure.update_layout(margin={"r": 110})
    figure.update_xaxes(flops_axis(frame.loc[frame["metric"].ge(low), "flops_ratio"]))
    set_titles(figure, "FLOPs (% of dense, logarithmic)", f"{metric_name} (validation)")
    figure.update_yaxes(range=span)


def _name_ladder(figure: go.Figure, rung: pd.Series, span: tuple[float, float]) -> None:
    """The ladder's name with a thin leader, down where networks are seldom so bad; up from near the axis."""
    down = (rung["metric"] - span[0]) / (span[1] - span[0]) > 0.28
    figure.add_annotation(
        x=np.log10(100 * rung["flops_ratio"]),
        y=rung["metric"],
        text="uniform ladder",
        font={"color": LADDER, "size": 13},
        bgcolor=PAPER,
        ax=46,
        ay=74 if down else -74,
        xanchor="center",
        yanchor="top" if down else "bottom",
        arrowhead=0,
        arrowwidth=1,
        arrowcolor=LADDER,
        standoff=7,
    )


def _name_levels(figure: go.Figure, search: float, ladder: float, top: float) -> None:
    """Both levels' names at the right, where the curve has arrived: above the upper one, below the lower.

    Below a level at the axis there is no room.
    """
    room = 0.12 * top
    upper, lower = sorted(
        [(search, f"search {search:.3f}", FRONT), (ladder, f"ladder {ladder:.3f}", LADDER)], reverse=True
    )
    close = lower[0] < room and upper[0] - lower[0] < room
    for (value, text, colour), shift in (
        (upper, 29 if close else 11),
        (lower, 11 if lower[0] < room else -11),
    ):
        figure.add_annotation(
            x=1.0,
            xref="paper",
            y=value,
            text=html.escape(text),
            font={"color": colour, "size": 13},
            bgcolor=PAPER,
            borderpad=1,
            showarrow=False,
            xanchor="right",
            yshift=shift,
        )
