"""Figures as PNG and SVG files, through kaleido and the system's Chromium: for papers and slides."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports.campaign import CampaignReport
from reports.payload import campaign_figures, compare_figures
from spaces.errors import InputError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTH = 1000
"""Pixels of a picture; PNG has twice as many, for projectors."""
LEGEND = {
    "front": "observed front",
    "intervals": "95 % interval",
    "advised": "advised",
    "plausible": "plausible",
    "others": "dominated",
    "ladder": "uniform ladder",
    "dense": "dense",
    "tested": "finalised: difference to dense on held-out test",
    "validation": "validation",
    "test": "held-out test",
    "dense, most": "dense",
    "network, most": "network",
}
"""Traces of figures that a page explains below them -> what the legend of a picture says."""
_EXPLAINED_BELOW = ("front", "classes", "spread")


def write_pictures(reports: Sequence[CampaignReport], folder: str | Path) -> list[Path]:
    """Write every figure of the reports, each as PNG and as SVG, on white paper.

    Args:
        reports: Of the campaigns; figures of the answer's network are drawn for each.
        folder: Is made where it is missing; files are named campaign-figure.png and .svg.

    Returns:
        The files.

    Raises:
        InputError: kaleido or Chromium is missing, or the folder cannot be written.
    """
    kaleido, browser, folder = _kaleido(), find_browser(), Path(folder)
    figures = {
        f"{report.id}-{name}": _with_legend(figure) if name in _EXPLAINED_BELOW else figure
        for report in reports
        for name, figure in campaign_figures(report).items()
    }
    if len(reports) > 1:
        figures |= {f"compare-{metric}": figure for metric, figure in compare_figures(list(reports)).items()}
    jobs: list[dict[str, Any]] = []
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            size = {"width": WIDTH, "height": int(figure.layout.height), "scale": 2 if kind == "png" else 1}
            path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.{kind}"
            jobs.append({"fig": figure, "path": str(path), "opts": {"format": kind, **size}})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kaleido.write_fig_from_object_sync(jobs, kopts={"path": browser})
    except OSError as error:
        raise InputError(
            f"cannot write pictures into {str(folder)!r}: {error.strerror}; choose another --png"
        ) from None
    if missing := [job["path"] for job in jobs if not Path(job["path"]).is_file()]:
        raise InputError(
            f"Chromium at {browser!r} did not draw {len(missing)} of {len(jobs)} pictures; name another one "
            "in $BROWSER_PATH"
        )
    return [Path(job["path"]) for job in jobs]


def _with_legend(figure: Any) -> Any:
    for trace in figure.data:
        trace.showlegend = trace.name in LEGEND and len(trace.x) > 0
        trace.name = LEGEND.get(trace.name, trace.name)
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "itemsizing": "constant"}
    figure.update_layout(showlegend=True, legend=legend, margin={"t": 48}, height=figure.layout.height + 32)
    return figure


def find_browser() -> str:
    """The Chromium that draws: $BROWSER_PATH, or the first on the PATH.

    Raises:
        InputError: There is none.
    """
    named = os.environ.get("BROWSER_PATH")
    found = named if named and Path(named).is_file() else None
    found = found or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise InputError(
            "pictures are drawn by Chromium, but there is none on the PATH; install it (apt-get install "
            "chromium), or name one in $BROWSER_PATH"
        )
    return found


def _kaleido() -> Any:
    try:
        import kaleido
    except ImportError:
        raise InputError("pictures need kaleido: pip install 'paretoprune[png]'") from None
    return kaleido
