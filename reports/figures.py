"""Plotly figures, each a pure function of frames; the only file that knows Plotly."""

import html
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from reports.theme import (
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

_HOVER = (
    "<b>trial %{customdata[0]}</b><br>%{x:.3g} % of the FLOPs, %{customdata[1]:.3g} % of the parameters<br>"
    "METRIC %{y:.3f}, %{customdata[2]:+.3f} ± %{customdata[3]:.3f} to dense<extra></extra>"
)


def front_figure(frame: pd.DataFrame, metric_name: str, selected: int | None = None) -> go.Figure:
    """Metric over FLOPs: the observed front with its intervals, all networks, ladder and dense.

    Bars are 95 % intervals of the paired difference to dense, drawn around the network's metric. The axis
    shows where something is at stake; networks far below are one double click away.

    Args:
        frame: A `trials_frame`.
        metric_name: In words, for the axis.
        selected: Number of the network that wears the ring.
    """
    hover = _HOVER.replace("METRIC", html.escape(metric_name))
    kind = frame["kind"]
    figure = go.Figure()
    searched, plausible = kind.eq("search"), frame["plausible"]
    others = {"size": 6, "color": PAPER, "line": {"color": FAINT, "width": 1.2}}
    filled = {"size": 7.5, "color": FRONT, "line": {"color": PAPER, "width": 1}}
    diamond = {"size": 9, "color": LADDER, "symbol": "diamond", "line": {"color": PAPER, "width": 1}}
    square = {"size": 9, "color": INK, "symbol": "square"}
    ring = {"size": 17, "color": "rgba(0,0,0,0)", "line": {"color": INK, "width": 2}}
    chosen = frame[frame["number"].eq(-1 if selected is None else selected)]
    ladder = frame[kind.ne("search")].sort_values("flops")
    dotted = {"color": LADDER, "width": 1.5, "dash": "dot"}
    for trace in (
        _points("others", frame[searched & ~plausible], hover, marker=others),
        _front_line(frame),
        _points("intervals", frame[frame["front"] & kind.ne("dense")], hover, bars=True),
        _points("ladder line", ladder, hover, mode="lines", line=dotted, hoverinfo="skip"),
        _points("plausible", frame[searched & plausible], hover, marker=filled),
        _points("ladder", frame[kind.eq("ladder")], hover, marker=diamond),
        _points("dense", frame[kind.eq("dense")], hover, marker=square),
        _points("selected", chosen, hover, marker=ring, hoverinfo="skip"),
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
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=history["number"] + 1,
            y=history["hypervolume"],
            mode="lines",
            line={"color": FRONT, "width": 2.5, "shape": "hv"},
            hovertemplate="after %{x} trials: %{y:.3f}<extra></extra>",
        )
    )
    figure.add_hline(y=ladder_hypervolume, line={"color": LADDER, "width": 1.5, "dash": "dot"})
    last = float(history["hypervolume"].iloc[-1]) if len(history) else 0.0
    top = 1.12 * max(last, ladder_hypervolume, 0.01)
    _right_labels(
        figure,
        [
            (last, f"search {last:.3f}", FRONT),
            (ladder_hypervolume, f"ladder {ladder_hypervolume:.3f}", LADDER),
        ],
        (0.0, top),
    )
    figure.update_layout(layout(height=300))
    _titles(figure, "trials finished", f"hypervolume ({metric_name} × octaves)")
    figure.update_yaxes(range=[0, top])
    figure.update_xaxes(range=[0, max(len(history), 1)], rangemode="tozero")
    return figure


def ratios_figure(groups: pd.DataFrame, genome: Sequence[int]) -> go.Figure:
    """How much of each channel group a network keeps, along the network.

    Args:
        groups: name, units, channels and flops_share of each group, in the order of the genome.
        genome: Kept units per group.
    """
    names = [html.escape(str(name)) for name in groups["name"]]
    kept = np.asarray(genome) / groups["units"].to_numpy()
    channels = np.rint(kept * groups["channels"].to_numpy()).astype(int)
    details = np.column_stack([channels, groups["channels"], 100 * groups["flops_share"].to_numpy(float)])
    hover = "<b>%{x}</b><br>%{customdata[0]} of %{customdata[1]} channels kept"
    if groups["flops_share"].notna().all():
        hover += "<br>takes part in %{customdata[2]:.1f} % of dense's FLOPs"
    few = len(groups) <= 24
    figure = go.Figure()
    figure.add_trace(
        go.Bar(x=names, y=np.full(len(names), 100), marker={"color": TRACK}, hoverinfo="skip", name="dense")
    )
    figure.add_trace(
        go.Bar(
            x=names,
            y=100 * kept,
            marker={"color": FRONT},
            customdata=details,
            hovertemplate=hover + "<extra></extra>",
            text=[str(count) for count in channels] if few else None,
            textposition="outside",
            textfont={"size": 11, "color": MUTED},
            cliponaxis=False,
            name="kept",
        )
    )
    figure.update_layout(layout(height=320))
    _titles(figure, "channel groups, from the input to the output", "channels kept (%)")
    figure.update_layout(barmode="overlay", bargap=0.25, margin={"r": 16})
    figure.update_yaxes(range=[0, 112], tickvals=[0, 25, 50, 75, 100])
    figure.update_xaxes(
        type="category", tickangle=-50, tickfont={"size": 11}, showgrid=False, automargin=True
    )
    return figure


def compare_figure(frames: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Observed fronts of several campaigns: difference to each one's dense network over FLOPs.

    Args:
        frames: Campaign's name -> its `trials_frame`.
    """
    figure = go.Figure()
    styles = zip(cycle((FRONT, LADDER, GREEN, PINK, GOLD)), cycle(["solid"] * 5 + ["dash"] * 5), strict=False)
    for (name, frame), (colour, dash) in zip(frames.items(), styles, strict=False):
        rows = frame[frame["front"]].sort_values("flops")
        figure.add_trace(
            go.Scatter(
                x=100 * rows["flops_ratio"],
                y=rows["difference"],
                mode="lines+markers",
                name=html.escape(name),
                line={"color": colour, "width": 2, "shape": "hv", "dash": dash},
                marker={"size": 6},
                hovertemplate="%{x:.3g} % of the FLOPs: %{y:+.3f} to dense",
            )
        )
    figure.update_layout(layout(height=380))
    figure.update_xaxes(flops_axis(pd.concat([frame["flops_ratio"] for frame in frames.values()])))
    _titles(figure, "FLOPs (% of each dense network)", "metric, difference to dense")
    figure.add_hline(y=0, line={"color": INK, "width": 1.2, "dash": "dash"})
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    figure.update_layout(showlegend=True, legend=legend, margin={"r": 16})
    return figure


def plotly_js() -> str:
    """The JavaScript that draws these figures."""
    return str(get_plotlyjs())


def _points(name: str, rows: pd.DataFrame, hover: str, *, bars: bool = False, **style: object) -> go.Scatter:
    """A trace of networks; `customdata[0]` is the trial's number, by which a page finds the network."""
    half = (rows["high"] - rows["difference"]).fillna(0)
    if bars:
        style |= {
            "error_y": {"array": half, "color": FRONT, "thickness": 1.2, "width": 3},
            "marker": {"size": 1, "color": FRONT},
            "hoverinfo": "skip",
        }
    if "hoverinfo" not in style:
        style["hovertemplate"] = hover
    details = np.column_stack([rows["number"], 100 * rows["params_ratio"], rows["difference"], half])
    return go.Scatter(
        name=name,
        x=_drawn(100 * rows["flops_ratio"]),
        y=_drawn(rows["metric"]),
        mode=str(style.pop("mode", "markers")),
        customdata=_drawn(details),
        **style,
    )


def _drawn(values: pd.Series | np.ndarray) -> np.ndarray:
    """As many digits as a figure shows; halves the page where there are thousands of trials."""
    return np.asarray(values, dtype=np.float32)


def _front_line(frame: pd.DataFrame) -> go.Scatter:
    """The observed front as a step line: what is reached at each cost, up to the costliest network."""
    front = frame[frame["front"]].sort_values("flops")
    return go.Scatter(
        name="front",
        x=100 * np.append(front["flops_ratio"], frame["flops_ratio"].max()),
        y=np.append(front["metric"], front["metric"].max()),
        mode="lines",
        line={"color": FRONT, "width": 2, "shape": "hv"},
        hoverinfo="skip",
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
    labels = [(dense, f"dense {dense:.3f}", INK), (best, f"observed front {best:.3f}", FRONT)]
    _right_labels(figure, labels, span)
    ladder = frame[frame["kind"].eq("ladder") & frame["metric"].gt(low)]
    if len(ladder):
        _name_ladder(figure, ladder.iloc[int(ladder["flops"].argmax())])
    figure.update_layout(layout(height=480))
    figure.update_xaxes(flops_axis(frame.loc[frame["metric"].ge(low), "flops_ratio"]))
    _titles(figure, "FLOPs (% of dense, logarithmic)", f"{metric_name} (validation)")
    figure.update_yaxes(range=span)


def _name_ladder(figure: go.Figure, rung: pd.Series) -> None:
    """The ladder's name with a thin leader, down where costly networks are seldom so bad."""
    figure.add_annotation(
        x=np.log10(100 * rung["flops_ratio"]),
        y=rung["metric"],
        text="uniform ladder",
        font={"color": LADDER, "size": 13},
        ax=46,
        ay=74,
        xanchor="center",
        yanchor="top",
        arrowhead=0,
        arrowwidth=1,
        arrowcolor=LADDER,
        standoff=7,
    )


def _right_labels(figure: go.Figure, labels: list[tuple[float, str, str]], span: tuple[float, float]) -> None:
    """Names lines at their right end, pushed apart where they would touch."""
    gap = 0.055 * (span[1] - span[0])
    place = -np.inf
    for value, text, colour in sorted(labels):
        place = max(value, place + gap)
        figure.add_annotation(
            x=1.0,
            xref="paper",
            y=place,
            text=html.escape(text),
            font={"color": colour, "size": 13},
            showarrow=False,
            xanchor="left",
            xshift=8,
        )


def _titles(figure: go.Figure, x: str, y: str) -> None:
    figure.update_xaxes(title={"text": html.escape(x), "standoff": 12})
    figure.update_yaxes(title={"text": html.escape(y), "standoff": 10})
