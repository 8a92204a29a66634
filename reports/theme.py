"""How figures look: colours for light and dark paper, type, axes. Plain dictionaries, no Plotly.

Colours are the colour-blind-safe ones of Okabe and Ito, deepened for white paper. A page turns a figure dark
by replacing each colour in it by its partner in `DARK`, so every role has a colour of its own.
"""

from typing import Any

import numpy as np
import pandas as pd

INK, MUTED, GRID, PAPER, FAINT, TRACK = "#1b2733", "#586673", "#e4e9ed", "#ffffff", "#b9c3cc", "#edf1f4"
FRONT, LADDER, GREEN, PINK, GOLD = "#0a6aa6", "#c2520c", "#04785a", "#a4487b", "#8f6b00"
ADVISED, BAR = "#0b5f96", "#7ba6c4"

DARK = {
    INK: "#e6ebf0",
    MUTED: "#9fadb9",
    GRID: "#28323c",
    PAPER: "#141b22",
    FAINT: "#52606d",
    TRACK: "#222c35",
    FRONT: "#5ab4ee",
    LADDER: "#f2994a",
    GREEN: "#3cc79b",
    PINK: "#e09ac2",
    GOLD: "#e3c14f",
    ADVISED: "#6bbdf2",
    BAR: "#3f6d8d",
}
"""Light colour -> its partner on dark paper."""

FONT = (
    "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', 'Liberation Sans', Arial, sans-serif"
)


def layout(height: int) -> dict[str, Any]:
    """Plotly's layout for every figure of ours."""
    axis = {
        "gridcolor": GRID,
        "linecolor": FAINT,
        "tickcolor": FAINT,
        "tickfont": {"color": MUTED, "size": 12},
        "title": {"font": {"color": MUTED, "size": 13}},
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "ticklabelstandoff": 3,
    }
    return {
        "template": "none",
        "height": height,
        "margin": {"l": 64, "r": 150, "t": 16, "b": 56},
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "showlegend": False,
        "hoverlabel": {
            "bgcolor": PAPER,
            "bordercolor": FAINT,
            "font": {"family": FONT, "size": 13, "color": INK},
        },
        "hovermode": "closest",
        "xaxis": axis,
        "yaxis": axis | {"showline": False, "ticks": "", "automargin": True},
    }


def flops_axis(ratio: pd.Series) -> dict[str, Any]:
    """A logarithmic axis over these ratios in per cent, labelled 1, 2, 5, 10 ..."""
    high = 100 * float(ratio.max())
    low = min(100 * float(ratio.min()), high / 2.6)  # at least two labels, for a single network too
    ticks = [value * 10.0**power for power in range(-3, 4) for value in (1, 2, 5)]
    return {
        "type": "log",
        "range": [np.log10(low) - 0.06, np.log10(high) + 0.05],
        "tickvals": ticks,
        "ticktext": [f"{tick:g} %" for tick in ticks],
    }
