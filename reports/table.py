"""Records as pandas frames: the numbers under every figure and page."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from reports.networks import measured_networks, pooled
from spaces.estimates import Estimates, shrunken_estimates
from spaces.fronts import front_hypervolume, hypervolume_history, non_dominated
from spaces.intervals import paired_difference, plausible_front, replicate_sd
from spaces.looks import Looks
from spaces.messages import Genome, Record

_MOST_SHRUNKEN = 1000
COSTS = ("flops", "params", "activation_bytes", "latency_ms")
"""Of records; milliseconds only where the campaign predicts them."""


def trials_frame(
    records: Sequence[Record],
    *,
    metric: str,
    dense: Genome,
    ladder: Collection[Genome] = (),
    patients: np.ndarray | None = None,
    rung: str = "finetune",
    seed: int = 0,
) -> pd.DataFrame:
    """One row a network, in the order of their first trials; failed trials are left out.

    Replicates are averaged, case by case. Columns:

    - number: of the network's first trial; genome; kept: tuple of kept units over units per group;
    - flops, params, activation_bytes, each also as `*_ratio` to dense;
    - metric; difference: paired, to dense; se: its standard error over patients and over repeats of
      training (0 for dense itself, NaN where there are fewer than two patients); low, high: the ends of
      the difference's 95 % interval; loss;
    - replicates; kind: "dense", "ladder" or "search";
    - disagreement: with the dense network on training images; NaN where it was not measured;
    - estimate: of the difference to dense, shrunken with the help of that (see `spaces.estimates`);
    - advised: what a user should take, which flatters less than the observed front: on the front of the
      estimates' lower ends;
    - front: on the observed front (FLOPs, metric); plausible: may be on the true one, see
      `spaces.intervals.plausible_front`.

    `frame.attrs["replicate_sd"]` is the spread between repeats of one network (NaN: nothing was repeated).

    Args:
        records: Of one campaign, in any order.
        metric: Name of the measured figure on the front's axis; larger is better.
        dense: The genome of the unpruned network.
        ladder: Genomes of the uniformly pruned networks.
        patients: Anonymous patient index of each validation case. Default: each case is a patient.
        rung: The fidelity to show; records of others are left out.
        seed: Of the resampling behind `plausible`.

    Raises:
        InputError: Dense has not been measured: there is nothing to compare with.
    """
    by_genome = measured_networks(records, metric=metric, dense=dense, rung=rung)
    shares = np.stack([pooled(runs) for runs in by_genome.values()])
    noise = _noise(by_genome, metric)
    rows = [_row(runs, metric, dense, ladder) for runs in by_genome.values()]
    frame = pd.DataFrame(rows)
    at_dense = frame["kind"].eq("dense").to_numpy()
    for cost in frame.columns.intersection(list(COSTS)):
        frame[f"{cost}_ratio"] = frame[cost] / frame.loc[at_dense, cost].iloc[0]
    repeats = frame["replicates"].to_numpy()
    spread = np.nan_to_num(noise) ** 2
    paired = [paired_difference(row, shares[at_dense][0], patients) for row in shares]
    frame["difference"], sampling = np.array(paired).T
    frame["se"] = np.sqrt(sampling**2 + spread * (1 / repeats + 1 / repeats[at_dense][0]))
    frame.loc[at_dense, ["difference", "se"]] = 0.0
    freedom = max(int((repeats - 1).sum()), 1)
    n_patients = shares.shape[1] if patients is None else len(np.unique(patients))
    half = frame["se"] * _student(sampling**2, frame["se"] ** 2 - sampling**2, n_patients - 1, freedom)
    frame["low"], frame["high"] = frame["difference"] - half, frame["difference"] + half
    frame["front"] = non_dominated(np.column_stack([frame["flops"], -frame["metric"]]))
    frame["plausible"] = frame["front"] | plausible_front(
        frame["flops"].to_numpy(),
        shares,
        groups=patients,
        replicate_sd=float(np.nan_to_num(noise)),
        replicate_freedom=freedom,
        replicates=repeats,
        seed=seed,
    )
    frame.attrs["replicate_sd"] = noise
    frame.attrs["cases"] = shares.shape[1]
    estimates = _estimates(
        frame, shares - shares[at_dense], patients, np.where(at_dense, 0.0, spread / repeats)
    )
    frame["estimate"] = estimates.mean
    frame["advised"] = non_dominated(np.column_stack([frame["flops"], -estimates.cautious]))
    return frame


def _estimates(
    frame: pd.DataFrame, differences: np.ndarray, patients: np.ndarray | None, training: np.ndarray
) -> Estimates:
    """Shrunken estimates of every row; beyond a thousand networks only the plausible ones are shrunken."""
    mean, se = frame["difference"].to_numpy().copy(), frame["se"].to_numpy().copy()
    rows = np.flatnonzero(frame["plausible"]) if len(frame) > _MOST_SHRUNKEN else np.arange(len(frame))
    if differences.shape[1] > 1:
        octaves = np.log2(np.maximum(frame["flops_ratio"].to_numpy()[rows], 2.0**-12))
        kept = np.array(frame["kept"].to_list())[rows]
        found = shrunken_estimates(
            differences[rows],
            octaves,
            kept,
            disagreement=frame["disagreement"].to_numpy()[rows],
            groups=patients,
            training=training[rows],
        )
        mean[rows], se[rows] = found.mean, found.se
    return Estimates(mean, np.nan_to_num(se))


def flat_until(frame: pd.DataFrame, margin: float | None = None) -> float:
    """FLOPs over dense down to which uniform pruning loses nothing; 1 where it always does.

    The cheapest network of the ladder such that neither it nor any costlier one of the ladder has a 95 %
    interval below dense: none is shown to lose anything, which few cases never show. From a `trials_frame`.

    Args:
        frame: A `trials_frame`.
        margin: Ask for proof: every interval must lie above -margin.
    """
    reached = 1.0
    for row in frame[frame["kind"].eq("ladder")].sort_values("flops", ascending=False).to_dict("records"):
        if not (row["high"] >= 0 if margin is None else row["low"] > -margin):
            break
        reached = float(row["flops_ratio"])
    return reached


def failed_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a failed trial, by number: number, genome, rung, replicate, error."""
    rows = [
        {
            "number": record.trial.number,
            "genome": record.trial.genome,
            "rung": record.trial.rung,
            "replicate": record.trial.replicate,
            "error": record.outcome.error or "no reason recorded",
        }
        for record in sorted(records, key=lambda record: record.trial.number)
        if not record.complete
    ]
    return pd.DataFrame(rows, columns=["number", "genome", "rung", "replicate", "error"])


def history_frame(
    records: Iterable[Record], *, metric: str, dense: Genome, chance: float, rung: str = "finetune"
) -> pd.DataFrame:
    """The observed front's hypervolume after each trial, by number: number, hypervolume (metric x octaves).

    Failed trials leave it as it was; a repeated network counts with what is known of it so far, a
    cross-fitted one from its last fold on. The window's metric axis is placed by what all looks at dense
    say, as in `ladder_hypervolume`: the last value is the hypervolume of the frame.
    """
    of_rung = sorted((r for r in records if r.trial.rung == rung), key=lambda record: record.trial.number)
    looks = Looks(len({r.trial.fold for r in of_rung if r.trial.genome == dense}) or 1)
    index: dict[Genome, int] = {}
    network = np.array([index.setdefault(r.trial.genome, len(index)) for r in of_rung], dtype=int)
    metrics = np.array([looks.add(r, metric) for r in of_rung])
    at_dense = network == index.get(dense, -1)
    flops = np.array([r.value("flops") for r in of_rung])
    dense_metric = float(metrics[at_dense & ~np.isnan(metrics)][-1])
    volumes = hypervolume_history(flops / flops[at_dense].mean(), metrics, dense_metric, chance, network)
    return pd.DataFrame({"number": [r.trial.number for r in of_rung], "hypervolume": volumes})


def ladder_hypervolume(frame: pd.DataFrame, chance: float) -> float:
    """Hypervolume of dense and the ladder alone, from a `trials_frame`: the level a search has to pass."""
    rows = frame[frame["kind"].ne("search")]
    dense_metric = float(frame.loc[frame["kind"].eq("dense"), "metric"].iloc[0])
    return front_hypervolume(rows["flops_ratio"].to_numpy(), rows["metric"].to_numpy(), dense_metric, chance)


def front_table(frame: pd.DataFrame, most: int | None = None) -> pd.DataFrame:
    """The front for reading, cheapest first, from a `trials_frame`.

    Columns: number, flops_percent and params_percent (of dense), metric, difference (to dense), low and
    high (its 95 % interval), estimate (of the difference, shrunken), replicates, kind, front (on the observed
    front), advised, activations_percent, and latency_ms (predicted) where the campaign has it.

    Args:
        frame: A `trials_frame`.
        most: Rows at most: dense and the advised and observed fronts, thinned evenly along the octaves of
            FLOPs, advised and better networks first. None: the whole plausible front.
    """
    if most is None:
        rows = frame[frame["plausible"] | frame["advised"]]
    else:
        rows = _thinned(frame[frame["front"] | frame["advised"] | frame["kind"].eq("dense")], most)
    rows = rows.sort_values(["flops", "metric"], ascending=[True, False])
    return pd.DataFrame(
        {
            "number": rows["number"],
            "flops_percent": 100 * rows["flops_ratio"],
            "params_percent": 100 * rows["params_ratio"],
            **{name: rows[name] for name in ("metric", "difference", "low", "high", "estimate")},
            **{name: rows[name] for name in ("replicates", "kind", "front", "advised")},
            "activations_percent": 100 * rows["activation_bytes_ratio"],
            **({"latency_ms": rows["latency_ms"]} if "latency_ms" in rows else {}),
        }
    ).reset_index(drop=True)


def _thinned(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many rows: dense, the best one of every stretch of the FLOPs axis, then the next best."""
    octaves = np.log2(rows["flops_ratio"])
    stretch = np.floor((most - 1) * (octaves - octaves.min()) / max(np.ptp(octaves), 1e-9))
    ranked = rows.assign(stretch=stretch.where(rows["kind"].ne("dense"), -1)).sort_values(
        ["advised", "estimate"], ascending=False
    )
    again = ranked.duplicated("stretch")
    chosen = ranked.assign(again=again).sort_values("again", kind="stable").head(most)
    return rows.loc[rows.index.isin(chosen.index)]


def headline(frame: pd.DataFrame, margin: float = 0.02) -> pd.Series:
    """The row that answers the campaign's question in one sentence.

    The cheapest pruned network shown to be within `margin` of dense (the paired interval's lower end is
    above -margin); where none was shown, the cheapest whose interval reaches above -margin on the observed
    front, else the best pruned one, else dense.
    """
    pruned = frame[frame["kind"].ne("dense")]
    shown = pruned[pruned["low"] > -margin]
    open_question = pruned[pruned["front"] & (pruned["difference"] > -margin)]
    for rows in (shown, open_question):
        if len(rows):
            return rows.iloc[int(rows["flops"].argmin())]
    return pruned.iloc[int(pruned["metric"].argmax())] if len(pruned) else frame.iloc[0]


def _student(sampling: np.ndarray, training: np.ndarray, *freedoms: int) -> np.ndarray:
    """Half widths of 95 % intervals in standard errors: (n,) and (n,) variances -> (n,).

    Both variances are estimates, over patients and over repeats of training; the quantile is Student's with
    the degrees of freedom of Welch and Satterthwaite (1946).
    """
    parts = np.stack([np.nan_to_num(sampling), np.maximum(np.nan_to_num(training), 0)])
    total = parts.sum(axis=0)
    weight = (parts**2 / np.maximum(freedoms, 1)[:, None]).sum(axis=0)
    freedom = np.divide(total**2, weight, out=np.ones_like(total), where=weight > 0)
    return np.asarray(stdtrit(freedom, 0.975))


def _noise(by_genome: dict[Genome, list[Record]], metric: str) -> float:
    labels: dict[tuple[Genome, int], int] = {}
    seen = [
        (record.value(metric), labels.setdefault((genome, record.trial.fold), len(labels)))
        for genome, runs in by_genome.items()
        for record in runs
    ]
    values, networks = np.array(seen).T
    return replicate_sd(values, networks)


def _mean_over_cases(runs: Sequence[Record], name: str) -> float:
    """A figure averaged over the replicates of each fold, and over folds by their cases."""
    by_fold: dict[int, list[Record]] = {}
    for record in runs:
        by_fold.setdefault(record.trial.fold, []).append(record)
    means = [np.mean([record.value(name) for record in part]) for part in by_fold.values()]
    return float(np.average(means, weights=[len(p[0].outcome.per_case["metric"]) for p in by_fold.values()]))


def _row(runs: list[Record], metric: str, dense: Genome, ladder: Collection[Genome]) -> dict[str, object]:
    first, genome = runs[0], runs[0].trial.genome
    kind = "dense" if genome == dense else "ladder" if genome in ladder else "search"
    return {
        "number": first.trial.number,
        "genome": genome,
        "kept": tuple(gene / units for gene, units in zip(genome, dense, strict=True)),
        **{cost: first.value(cost) for cost in COSTS if cost in first.costs},
        "metric": _mean_over_cases(runs, metric),
        "loss": _mean_over_cases(runs, "loss"),
        "disagreement": float(np.mean([record.value("disagreement") for record in runs])),
        "replicates": len(runs) // len({record.trial.fold for record in runs}),
        "kind": kind,
    }
