"""Figures of a network's classes: what each gains or loses, and how it does over the held-out cases."""

import html

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports.drawing import drawn, error_bar, rows_layout
from reports.theme import FRONT, INK, PAPER, PINK

CLASSES_REACH = 0.05
"""The least that the axis of changes reaches to both sides: smaller changes look small."""
_CHANGE = (
    "<b>%{text}</b><br>%{customdata[0]:.3f}, %{x:+.3f} to dense<br>"
    "95 %: %{customdata[1]:+.3f} to %{customdata[2]:+.3f}<extra></extra>"
)
_SPREAD = (
    "<b>%{text}</b>, NAME<br>median %{x:.3f}<br>"
    "half of the cases: %{customdata[1]:.3f} to %{customdata[2]:.3f}<br>"
    "nine of ten: %{customdata[0]:.3f} to %{customdata[3]:.3f}<extra></extra>"
)


def classes_figure(classes: pd.DataFrame, number: int, tested: pd.DataFrame | None = None) -> go.Figure:
    """What each class gains or loses against dense, the rarest on top, with 95 % intervals.

    Args:
        classes: A `class_frame`.
        number: Of the network to show.
        tested: A `final_class_frame`: the same on the test split, where the network was finalised.
    """
    order = classes.drop_duplicates("class")
    place = {name: i for i, name in enumerate(order["class"])}
    labels = [class_label(name, n) for name, n in zip(order["class"], order["cases"], strict=True)]
    figure = go.Figure()
    styles = (
        ("validation", classes, FRONT, "circle", 11),
        ("test", classes.iloc[:0] if tested is None else tested, PINK, "triangle-up", 12),
    )
    for name, frame, colour, symbol, size in styles:
        rows = frame[frame["number"].eq(number) & frame["class"].isin(list(place))]
        figure.add_trace(
            go.Scatter(
                name=name,
                x=drawn(rows["difference"]),
                y=[place[label] for label in rows["class"]],
                mode="markers",
                marker={
                    "size": size,
                    "color": colour,
                    "symbol": symbol,
                    "line": {"color": PAPER, "width": 1},
                },
                error_x=error_bar(rows["low"], rows["difference"], rows["high"], colour, 2),
                customdata=drawn(rows[["value", "low", "high"]]),
                text=[labels[place[label]] for label in rows["class"]],
                hovertemplate=_CHANGE,
            )
        )
    rows_layout(figure, labels, f"{_measure(order)} of the class, difference to dense")
    shown = [frame.loc[frame["number"].eq(number), ["low", "high"]] for _, frame, *_ in styles]
    ends = np.abs(np.concatenate([rows.to_numpy(float).ravel() for rows in shown]))
    reach = 1.1 * float(np.nanmax(ends, initial=CLASSES_REACH))
    figure.update_xaxes(range=[-reach, reach], tickformat="+.2~f", nticks=7)
    return figure


def class_label(name: str, cases: float) -> str:
    """A class as figures name it: with its validation cases, where they are known."""
    return html.escape(str(name)) + (f" ({cases:.0f})" if cases == cases else "")


def spread_figure(tested: pd.DataFrame, number: int) -> go.Figure:
    """How a measure spreads over the held-out cases, by class: a finalised network below dense.

    The mark is the median, the thick bar holds half of the cases, the thin one nine of ten.

    Args:
        tested: A `final_class_frame`; classes without a spread are left out.
        number: Of the network to show.
    """
    known = tested[tested["median"].notna()]
    order = known.drop_duplicates("class")
    labels = [class_label(name, n) for name, n in zip(order["class"], order["cases"], strict=True)]
    figure = go.Figure()
    for name, rows, colour, symbol, shift in (
        ("dense", known[known["dense"]], INK, "square", -0.14),
        ("network", known[known["number"].eq(number) & ~known["dense"]], PINK, "triangle-up", 0.14),
    ):
        rows = rows.set_index("class").reindex(order["class"])
        for part, low, high, thickness, cap in (("most", "p5", "p95", 1.4, 3), ("half", "p25", "p75", 6, 0)):
            bar = error_bar(rows[low], rows["median"], rows[high], colour, thickness)
            figure.add_trace(
                go.Scatter(
                    name=f"{name}, {part}",
                    x=drawn(rows["median"]),
                    y=np.arange(len(order)) + shift,
                    mode="markers",
                    marker={
                        "size": 12,
                        "color": colour,
                        "symbol": symbol,
                        "line": {"color": PAPER, "width": 1.5},
                    },
                    error_x=bar | {"width": cap},
                    customdata=drawn(rows[["p5", "p25", "p75", "p95"]]),
                    text=labels,
                    hovertemplate=_SPREAD.replace("NAME", name),
                )
            )
    rows_layout(figure, labels, f"{_measure(order)} over the held-out cases")
    lowest = float(np.nanmin(known["p5"], initial=0.95))
    figure.update_xaxes(range=[max(0.0, lowest - 0.03) - 0.01, 1.01], nticks=7)
    figure.update_layout(height=110 + 46 * max(len(labels), 1))
    return figure


def _measure(classes: pd.DataFrame) -> str:
    """What is measured of each class, in words."""
    measure = str(classes["measure"].iloc[0]) if len(classes) else "measure"
    return {"auc": "AUC", "dice": "Dice"}.get(measure, measure)
