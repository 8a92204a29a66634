"""The picture of benchmarks/transfer.py: how soon each kind of search gets how far."""

from collections.abc import Mapping

import numpy as np

from reports.theme import ADVISED, BAR, FONT, GOLD, GREEN, GRID, INK, LADDER, MUTED, PAPER, PINK

SHOWN = {
    "structured + scouts": ("structured, scouts", ADVISED),
    "prior LODO + scouts": ("structured, scouts, prior", BAR),
    "structured + scan": ("structured, scan", INK),
    "prior LODO": ("structured, prior", LADDER),
    "structured": ("structured alone", GREEN),
    "optuna:gp": ("Optuna GP", PINK),
    "optuna:tpe": ("Optuna TPE", GOLD),
    "nsga2": ("NSGA-II", MUTED),
}
"""Arms in the picture: name and colour."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 360, 60, 210, 16, 48


def picture(curves: Mapping[str, np.ndarray]) -> str:
    """SVG of shares of the best gain, (n + 1,) each, over trials after the ladder."""
    n = max(len(curve) for curve in curves.values()) - 1
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(trial: float) -> float:
        return _LEFT + wide * trial / n

    def y(share: float) -> float:
        return _TOP + high * (1 - share)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="{FONT.replace(chr(34), "")}" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="{PAPER}"/>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{_LEFT} {y(share):.1f}H{_LEFT + wide}" stroke="{GRID}"/>')
        parts.append(_text(_LEFT - 8, y(share) + 4, f"{share:.0%}", MUTED, "end"))
    for trial in range(0, n + 1, 10):
        parts.append(_text(x(trial), _HEIGHT - _BOTTOM + 20, str(trial), MUTED, "middle"))
    parts.append(_text(_LEFT + wide / 2, _HEIGHT - 8, "trials after dense and the ladder", MUTED, "middle"))
    place = -np.inf
    shown = [arm for arm in SHOWN if arm in curves]
    for arm in sorted(shown, key=lambda arm: -curves[arm][-1]):
        name, colour = SHOWN[arm]
        points = " ".join(f"{x(k):.1f},{y(share):.1f}" for k, share in enumerate(curves[arm]))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        place = max(y(curves[arm][-1]), place + 17)
        parts.append(_text(_LEFT + wide + 8, place + 4, name, colour, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, colour: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{text}</text>'
