"""What all figures share: names at the ends of lines, titles, intervals, and the script that draws them."""

import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports.theme import INK, MUTED, layout

PLOTLY_JS = Path(__file__).parent / "templates" / "plotly-basic.min.js"
"""Plotly's own build of bars and points (MIT), of the version that the Python package writes for."""
MOST_NAMED = 48
"""Names along an axis; of more, every second or third is written."""


def plotly_js() -> str:
    """The JavaScript that draws these figures; a quarter of the whole library."""
    return PLOTLY_JS.read_text(encoding="utf-8")


def drawn(values: pd.Series | pd.DataFrame | np.ndarray) -> np.ndarray:
    """As many digits as a figure shows; halves the page where there are thousands of trials."""
    return np.asarray(values, dtype=np.float32)


def set_titles(figure: go.Figure, x: str, y: str) -> None:
    """Titles of both axes, as text."""
    figure.update_xaxes(title={"text": html.escape(x), "standoff": 12})
    figure.update_yaxes(title={"text": html.escape(y), "standoff": 10})


def group_axis(figure: go.Figure, names: Sequence[str]) -> None:
    """Channel groups along the x axis at 0, 1, 2 ..., and as much more height as their names take."""
    shown = short_names(names)
    step = -(-len(names) // MOST_NAMED)
    figure.layout.height += round(5.5 * max(map(len, shown), default=0))
    figure.update_xaxes(
        range=[-0.6, len(names) - 0.4],
        tickvals=list(range(0, len(names), step)),
        ticktext=[html.escape(name) for name in shown[::step]],
        autotickangles=[0, -50, -90],
        tickfont={"color": MUTED, "size": 11},
        showgrid=False,
        automargin=True,
    )


def short_names(names: Sequence[str], most: int = 24) -> list[str]:
    """Dotted names, the parts before the last cut to three letters where they are long; kept distinct."""

    def short(name: str) -> str:
        *parents, last = name.split(".")
        return name if len(name) <= most else ".".join([*(parent[:3] for parent in parents), last])

    cut = [short(name) for name in names]
    times = Counter(cut)
    return [ours if times[ours] == 1 else name for ours, name in zip(cut, names, strict=True)]


def rows_layout(figure: go.Figure, labels: Sequence[str], title: str) -> None:
    """Rows with names at the left, from top to bottom, around a line at 0."""
    base: dict[str, Any] = layout(height=110 + 34 * max(len(labels), 2))
    figure.update_layout(base)
    figure.update_layout(margin={"l": 16, "r": 16, "t": 12})
    figure.update_yaxes(
        automargin=True,
        tickfont={"color": INK, "size": 13},
        tickvals=list(range(len(labels))),
        ticktext=list(labels),
        range=[len(labels) - 0.5, -0.5],
    )
    figure.update_xaxes(title={"text": html.escape(title), "standoff": 12})
    figure.add_vline(x=0, line={"color": MUTED, "width": 1.2})


def error_bar(low: Any, middle: Any, high: Any, colour: str, width: float = 1.4) -> dict[str, Any]:
    """An interval around points; what is not known is not drawn."""
    middle = np.asarray(middle, float)
    up = np.nan_to_num(np.asarray(high, float) - middle)
    down = np.nan_to_num(middle - np.asarray(low, float))
    return {
        "type": "data",
        "symmetric": False,
        "array": drawn(up),
        "arrayminus": drawn(down),
        "color": colour,
        "thickness": width,
        "width": 3,
    }


def name_lines(figure: go.Figure, labels: list[tuple[float, str, str]], span: tuple[float, float]) -> None:
    """Names horizontal lines at their right end, pushed apart where they would touch.

    Args:
        figure: With a right margin that holds the names.
        labels: Place on the y axis, name and colour.
        span: Of the y axis.
    """
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
