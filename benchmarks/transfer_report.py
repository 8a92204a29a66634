"""Figures, table and picture of benchmarks/transfer.py, from the searches that it has kept.

Of each search, on held-out images: `agreement`, hypervolume of disagreement with dense, and `metric`, of the
metric; both of the front that disagreement on training images chose. `at_K`: gain over the ladder after K
trials, as a share of the best gain that any arm (ablations apart) and seed had in that task; `to_P`: trials
until P % of it, a search that never gets there counting as all its trials + 1. Means are over seeds, then
over the tasks of a data set, then over data sets; intervals are of a bootstrap that draws data sets, then
tasks, then seeds. `code` is the commit that made the report; searches are kept, and may be of earlier ones.
"""

import csv
import json
import re
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import DATA
from benchmarks.provenance import made
from benchmarks.transfer import ABLATIONS, ARMS, PRIORS, SCOUTED, WRONG
from benchmarks.transfer_picture import picture

RESULTS = {kind: Path(__file__).with_name(f"transfer{'_live' * kind}.json") for kind in (False, True)}
PICTURE = Path(__file__).parent.parent / "docs" / "transfer.svg"
MEASURES = ("agreement", "metric")
SHARES = (50, 80, 90, 95)
STOPS = (10, 20, 40, 60)
TRIALS = 60
_DRAWS = 1000

Found = dict[str, dict[str, list[dict[str, float]]]]
"""Of one arm: figures by data set, pair and seed, in lists in the order of the seeds."""


def load(kept: Path) -> list[dict[str, Any]]:
    """Every search that was kept, once."""
    lines = [line for path in sorted(kept.glob("*.jsonl")) for line in path.read_text().splitlines()]
    rows = {(row["pair"], row.get("live"), row["arm"], row["seed"]): row for row in map(json.loads, lines)}
    return [row for row in rows.values() if not row.get("missing")]


def figures(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One flat row for each search."""
    found: list[dict[str, Any]] = []
    for pair in dict.fromkeys(row["pair"] for row in rows):
        mine = [row for row in rows if row["pair"] == pair]
        for row in mine:
            found.append(
                {key: row[key] for key in ("pair", "arm", "seed")} | {"coverage": row.get("coverage")}
            )
        for measure in MEASURES:
            start = mine[0][measure][0]
            best = max(max(row[measure][: TRIALS + 1]) for row in mine if row["arm"] not in ABLATIONS)
            for row, flat in zip(mine, found[-len(mine) :], strict=True):
                share = (padded(row[measure]) - start) / max(best - start, 1e-9)
                for percent in SHARES:
                    reached = np.flatnonzero(share[: TRIALS + 1] >= percent / 100 - 1e-9)
                    flat[f"{measure}_to_{percent}"] = int(reached[0]) if len(reached) else TRIALS + 1
                for stop in STOPS:
                    flat[f"{measure}_at_{stop}"] = round(float(share[stop]), 3)
    return found


def padded(curve: Sequence[float], n: int = TRIALS) -> np.ndarray:
    """A curve that goes on where a search ran out of networks: (at least n + 1,)."""
    return np.pad(np.array(curve), (0, max(0, n + 1 - len(curve))), mode="edge")


def by_arm(flat: Sequence[dict[str, Any]]) -> dict[str, Found]:
    """The same, by arm, data set and pair."""
    arms: dict[str, Found] = {}
    for row in flat:
        pairs = arms.setdefault(row["arm"], {}).setdefault(DATA[row["pair"]], {})
        pairs.setdefault(row["pair"], []).append(row)
    return arms


def mean(found: Found, of: Callable[[dict[str, float]], float]) -> float:
    """Over seeds, then pairs, then data sets."""
    pairs = [[np.mean([of(row) for row in seeds]) for seeds in data.values()] for data in found.values()]
    return float(np.mean([np.mean(values) for values in pairs]))


def interval(
    arms: Sequence[Found], of: Callable[[dict[str, float]], float], compare: Callable[..., float]
) -> list[float]:
    """90 % interval of a comparison of arms: data sets are drawn, then pairs, then seeds."""
    rng, values = np.random.default_rng(0), []
    data = [name for name in arms[0] if all(name in arm for arm in arms)]
    table = {
        (k, pair): np.array([of(row) for row in seeds])
        for k, arm in enumerate(arms)
        for name in data
        for pair, seeds in arm[name].items()
    }
    pairs = {
        name: [p for p in arms[0][name] if all((k, p) in table for k in range(len(arms)))] for name in data
    }
    for _ in range(_DRAWS):
        sums = np.zeros(len(arms))
        for name in rng.choice(data, len(data)):
            drawn = rng.choice(pairs[name], len(pairs[name]))
            for k in range(len(arms)):
                seeds = [table[k, pair] for pair in drawn]
                sums[k] += np.mean([one[rng.integers(len(one), size=len(one))].mean() for one in seeds])
        values.append(compare(*(sums / len(data))))
    return [round(float(value), 2) for value in np.quantile(values, (0.05, 0.95))]


def faster(arms: dict[str, Found], arm: str, than: str, key: str) -> dict[str, Any]:
    """How many times fewer trials one arm takes than another; where it takes more."""

    def of(row: dict[str, float]) -> float:
        return max(row[key], 1.0)

    mine, other = _common(arms[arm], arms[than])
    ratios = {
        pair: float(np.mean([of(row) for row in other[name][pair]]) / np.mean([of(row) for row in seeds]))
        for name, pairs in mine.items()
        for pair, seeds in pairs.items()
    }
    worst = min(ratios, key=lambda pair: ratios[pair])
    return {
        "ratio": round(mean(other, of) / mean(mine, of), 2),
        "interval": interval([mine, other], of, lambda a, b: b / a),
        "worst": {worst: round(ratios[worst], 2)},
        "slower": round(float(np.mean([ratio < 1 for ratio in ratios.values()])), 2),
    }


def gain(arms: dict[str, Found], arm: str, than: str, key: str) -> dict[str, Any]:
    """How much more of the best gain one arm has than another."""
    mine, other = _common(arms[arm], arms[than])

    def of(row: dict[str, float]) -> float:
        return row[key]

    return {
        "difference": round(mean(mine, of) - mean(other, of), 3),
        "interval": interval([mine, other], of, lambda a, b: a - b),
    }


def _common(a: Found, b: Found) -> tuple[Found, Found]:
    pairs = {p for data in a.values() for p in data} & {p for data in b.values() for p in data}
    cut = [
        {n: {p: s for p, s in data.items() if p in pairs} for n, data in f.items() if set(data) & pairs}
        for f in (a, b)
    ]
    return cut[0], cut[1]


def catching_up(rows: Sequence[dict[str, Any]], arm: str, rivals: Sequence[str], n: int) -> dict[str, Any]:
    """Trials of an arm to the value that the better of some rivals has after n, by task; how many fewer."""
    ratios: dict[str, list[float]] = {}
    for pair in dict.fromkeys(row["pair"] for row in rows):
        curves = {
            name: [padded(row["agreement"], n) for row in rows if row["pair"] == pair and row["arm"] == name]
            for name in (arm, *rivals)
        }
        if not all(curves.values()):
            continue
        level = max(np.mean([curve[n] for curve in curves[rival]]) for rival in rivals)
        taken = [np.flatnonzero(curve[: TRIALS + 1] >= level - 1e-9) for curve in curves[arm]]
        trials = np.mean([max(int(t[0]), 1) if len(t) else TRIALS + 1 for t in taken])
        ratios.setdefault(DATA[pair], []).append(n / float(trials))
    values = [float(np.mean(v)) for v in ratios.values()]
    return {
        "times_fewer": round(float(np.exp(np.mean(np.log(values)))), 2),
        "by_data": {k: round(v, 2) for k, v in zip(ratios, values, strict=True)},
    }


def targets(rows: Sequence[dict[str, Any]], arms: dict[str, Found]) -> dict[str, Any]:
    """The figures that the targets are about."""
    found: dict[str, Any] = {}
    better = [arm for arm in ("optuna:tpe", "optuna:gp") if arm in arms]
    for mine in [arm for arm in ("structured", "structured + scouts", "prior LODO + scouts") if arm in arms]:
        if "nsga2" in arms:
            found[f"{mine} to NSGA-II at 100"] = catching_up(rows, mine, ["nsga2"], 100)
        for rival in better:
            found[f"{mine} to {rival} at 60"] = catching_up(rows, mine, [rival], 60)
            found[f"{mine} against {rival}, after 60"] = gain(arms, mine, rival, "agreement_at_60")
        if len(better) > 1:
            found[f"{mine} to the better of TPE and GP at 60"] = catching_up(rows, mine, better, 60)
    every = (*PRIORS, *WRONG, "structured + scan", "structured + portfolio", *SCOUTED)
    pairs = [(arm, base) for base in ("structured", "structured + scouts") for arm in every if arm != base]
    pairs += [("prior LODO + scouts", f"{arm} + scouts") for arm in WRONG]
    for measure in MEASURES:
        for arm, base in [(arm, base) for arm, base in pairs if arm in arms and base in arms]:
            row = {f"to_{s}": faster(arms, arm, base, f"{measure}_to_{s}") for s in (50, 80, 90)}
            row |= {f"after {s}": gain(arms, arm, base, f"{measure}_at_{s}") for s in (20, 60)}
            found[f"{arm} against {base}, by {measure}"] = row
    return found


def summary(arms: dict[str, Found]) -> dict[str, Any]:
    """Means of every figure, by arm."""
    keys = [
        f"{m}_{kind}"
        for m in MEASURES
        for kind in (*(f"to_{s}" for s in SHARES), *(f"at_{s}" for s in STOPS))
    ]
    found: dict[str, Any] = {}
    for arm in [arm for arm in ARMS if arm in arms]:
        mine = arms[arm]
        row: dict[str, Any] = {key: round(mean(mine, itemgetter(key)), 3) for key in keys}
        if any(seeds[0]["coverage"] is not None for data in mine.values() for seeds in data.values()):
            row["coverage"] = round(mean(mine, itemgetter("coverage")), 3)
        row["tasks"] = sum(len(data) for data in mine.values())
        row["searches"] = sum(len(seeds) for data in mine.values() for seeds in data.values())
        found[arm] = row
    return found


def markdown(means: dict[str, Any]) -> str:
    """The table of docs/prior.md."""
    lines = [
        "| arm | after 10 | after 20 | after 60 | to 50 % | to 80 % | to 90 % | metric after 60 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in [arm for arm in ARMS if arm in means]:
        row = means[arm]
        shares = [f"{row[f'agreement_at_{k}']:.2f}" for k in (10, 20, 60)]
        trials = [f"{row[f'agreement_to_{k}']:.0f}" for k in (50, 80, 90)]
        few = (
            "" if row["tasks"] == max(other["tasks"] for other in means.values()) else f" (on {row['tasks']})"
        )
        lines.append("| " + " | ".join([arm + few, *shares, *trials, f"{row['metric_at_60']:.2f}"]) + " |")
    return "\n".join(lines)


def report(kept: Path, is_live: bool) -> str:
    """Write transfer.json and .csv; of real evaluations transfer_live.json and .csv, and the picture.

    Returns:
        The table.
    """
    rows = [row for row in load(kept) if bool(row.get("live")) is is_live]
    flat = figures(rows)
    arms = by_arm(flat)
    means = summary(arms)
    about = {**made(), "trials": TRIALS}
    result = {**about, "targets": targets(rows, arms), "arms": means}
    path = RESULTS[is_live]
    path.write_text(re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", _on_a_line, json.dumps(result, indent=1)) + "\n")
    with path.with_suffix(".csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(flat[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(flat)
    if is_live:
        PICTURE.write_text(picture({arm: curve(rows, arm) for arm in means}))
    return markdown(means)


def _on_a_line(found: re.Match[str]) -> str:
    return "[" + " ".join(found[1].split()) + "]"


def curve(rows: Sequence[dict[str, Any]], arm: str) -> np.ndarray:
    """Share of the best gain by agreement after each trial, mean over seeds, tasks, data sets: (61,)."""
    data: dict[str, list[np.ndarray]] = {}
    for pair in dict.fromkeys(row["pair"] for row in rows):
        every = [row for row in rows if row["pair"] == pair]
        mine = [padded(row["agreement"])[: TRIALS + 1] for row in every if row["arm"] == arm]
        if mine:
            start = every[0]["agreement"][0]
            best = max(max(row["agreement"][: TRIALS + 1]) for row in every if row["arm"] not in ABLATIONS)
            data.setdefault(DATA[pair], []).append((np.mean(mine, axis=0) - start) / (best - start))
    return np.asarray(np.mean([np.mean(curves, axis=0) for curves in data.values()], axis=0))
