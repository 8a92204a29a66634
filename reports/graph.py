"""The channel graph as a picture: which modules each channel group runs through, along the network."""

import html
from collections.abc import Hashable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.theme import FAINT, FRONT, GOLD, GREEN, GRID, LADDER, MUTED, PAPER, PINK, layout
from spaces.errors import InputError

_COLOURS = (FRONT, LADDER, GREEN, PINK, GOLD)
_LABELLED = 60  # with more rows, names are left to the pointer


def channel_graph(groups: pd.DataFrame, frozen: pd.DataFrame, modules: Sequence[str]) -> go.Figure:
    """Groups as bands over the modules they run through, with their share of FLOPs; frozen modules grey.

    Args:
        groups: name, units, channels, flops_share, and members (a list of module paths) of each group.
        frozen: name and reason of what cannot be pruned.
        modules: All module paths that appear, from the input to the output.
    """
    place = {module: i for i, module in enumerate(modules)}
    rows = len(groups) + (len(frozen) > 0)
    figure = make_subplots(cols=2, shared_yaxes=True, column_widths=[0.84, 0.16], horizontal_spacing=0.012)
    for row, (group, colour) in enumerate(zip(groups.to_dict("records"), cycle(_COLOURS), strict=False)):
        _add_band(figure, group, row, [place[m] for m in group["members"] if m in place], modules, colour)
    colours = [colour for _, colour in zip(range(len(groups)), cycle(_COLOURS), strict=False)]
    _add_shares(figure, groups, colours)
    if len(frozen):
        _add_frozen(figure, frozen, rows - 1, place)
    _lay_out(figure, groups, rows, len(modules), has_frozen=len(frozen) > 0)
    return figure


def _add_band(
    figure: go.Figure,
    group: Mapping[Hashable, Any],
    row: int,
    places: Sequence[int],
    modules: Sequence[str],
    colour: str,
) -> None:
    if not places:
        return
    title = f"<b>{html.escape(group['name'])}</b><br>{group['units']} units of {group['channels']} channels"
    first, last = min(places), max(places)
    figure.add_trace(
        go.Scatter(
            x=[first - 0.5, last + 0.5],
            y=[row, row],
            mode="lines",
            line={"color": colour, "width": 9},
            opacity=0.3,
            hoverinfo="skip",
        ),
        row=1,
        col=1,
    )
    figure.add_trace(
        go.Scatter(
            x=places,
            y=[row] * len(places),
            mode="markers",
            marker={"symbol": "square", "size": 9, "color": colour},
            customdata=[html.escape(modules[place]) for place in places],
            hovertemplate=f"{title}<br>runs through %{{customdata}}<extra></extra>",
        ),
        row=1,
        col=1,
    )


def _add_shares(figure: go.Figure, groups: pd.DataFrame, colours: Sequence[str]) -> None:
    share = 100 * groups["flops_share"].to_numpy(float)
    figure.add_trace(
        go.Bar(
            x=share,
            y=list(range(len(groups))),
            orientation="h",
            marker={"color": list(colours)},
            hovertemplate="%{customdata}: takes part in %{x:.1f} % of the FLOPs<extra></extra>",
            customdata=[html.escape(name) for name in groups["name"]],
        ),
        row=1,
        col=2,
    )


def _add_frozen(figure: go.Figure, frozen: pd.DataFrame, row: int, place: dict[str, int]) -> None:
    shown = frozen[frozen["name"].isin(list(place))]
    details = [
        f"<b>{html.escape(name)}</b><br>stays whole: it {html.escape(reason)}"
        for name, reason in zip(shown["name"], shown["reason"], strict=True)
    ]
    figure.add_trace(
        go.Scatter(
            x=[place[name] for name in shown["name"]],
            y=[row] * len(shown),
            mode="markers",
            marker={"symbol": "square", "size": 9, "color": MUTED},
            customdata=details,
            hovertemplate="%{customdata}<extra></extra>",
        ),
        row=1,
        col=1,
    )


def _lay_out(figure: go.Figure, groups: pd.DataFrame, rows: int, columns: int, *, has_frozen: bool) -> None:
    base = layout(height=max(260, 110 + 20 * min(rows, _LABELLED) + 9 * max(0, rows - _LABELLED)))
    axes = {name: base.pop(name) for name in ("xaxis", "yaxis")}
    figure.update_layout(base)
    figure.update_layout(margin={"l": 16, "r": 24, "t": 40, "b": 56}, bargap=0.35)
    figure.update_xaxes(axes["xaxis"])
    figure.update_yaxes(axes["yaxis"] | {"range": [rows - 0.4, -0.6], "automargin": True, "gridcolor": GRID})
    names = [*(f"{name}  {units}" for name, units in zip(groups["name"], groups["units"], strict=True))]
    names += ["frozen"] if has_frozen else []
    step = 1 if rows <= _LABELLED else -(-rows // _LABELLED)
    shown = sorted({*range(0, rows, step), *([rows - 1] if has_frozen else [])})
    figure.update_yaxes(
        tickvals=shown, ticktext=[html.escape(names[row]) for row in shown], tickfont={"size": 11}, col=1
    )
    figure.update_yaxes(showticklabels=False, col=2)
    figure.update_xaxes(
        title={"text": "modules, from the input to the output"},
        range=[-1, columns],
        showticklabels=False,
        showgrid=False,
        ticks="",
        col=1,
    )
    figure.update_xaxes(title={"text": "FLOPs it takes part in (%)"}, rangemode="tozero", col=2)
    figure.add_annotation(
        text="channel groups with their units; squares are the modules that each runs through",
        x=0,
        y=1,
        xref="paper",
        yref="paper",
        yshift=24,
        xanchor="left",
        showarrow=False,
        font={"color": MUTED, "size": 12},
    )
    figure.update_layout(paper_bgcolor=PAPER, hoverlabel={"bordercolor": FAINT})


def write_channel_graph(
    groups: pd.DataFrame, frozen: pd.DataFrame, modules: Sequence[str], path: str | Path
) -> Path:
    """Write the picture as one HTML page that needs no network; arguments as for `channel_graph`.

    Raises:
        InputError: The name does not end in .html, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise InputError(f"the picture is an HTML page: name it {path.with_suffix('.html').name!r}")
    page = channel_graph(groups, frozen, modules).to_html(include_plotlyjs=True, config={"responsive": True})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"cannot write the picture to {path}: {error.strerror}") from error
    return path
