"""The test split: opened once for all networks together, counted, and what it says about each."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from evaluators.data.splits import Subset
from evaluators.data.volumes import Volumes
from evaluators.evaluation import NetworkEvaluator
from evaluators.identity import fingerprint_of
from evaluators.metrics import find_metric
from evaluators.pools.threads import pinned_threads
from evaluators.tasks.factory import DATA_FOR
from evaluators.verdict import Extras, Table, cases_of_classes, class_columns, extras_of
from search.finals.artefacts import kept_network
from search.finals.finalised import finalised, keep_finalised
from search.monitor import Monitor
from search.problem import Problem
from search.store.archive import Store
from spaces.finals import FINAL, ClassResult, Estimate, FinalNetwork, TestResult
from spaces.intervals import simultaneous_intervals
from spaces.messages import Outcome, Record, Trial


def judge_on_test(
    store: Store,
    campaign_id: str,
    problem: Problem,
    folder: Path,
    networks: Sequence[FinalNetwork],
    wanted: Collection[str],
    monitor: Monitor,
) -> None:
    """Measure those networks on the test cases that were not yet; give all new, simultaneous intervals.

    The opening is in the store before any network sees an image. Networks tested before are not measured
    again, but share the intervals, which grow wider the more networks were looked at.

    Raises:
        DataError: There are no test images, or too few of a class.
    """
    new = [network for network in networks if network.folder in wanted and network.test is None]
    if not new:
        openings = max((network.openings for network in networks), default=0)
        monitor.say(f"tested before: the test split stays closed ({_openings(openings)})")
        return
    subset = _test_cases(problem)
    known = subset.fingerprint
    openings = store.open_test(campaign_id, [network.point for network in new], known)
    monitor.say(
        f"test split opened: {len(subset)} cases for {len(new)} network{'s' * (len(new) > 1)} "
        f"({_openings(openings)})"
    )
    stage = f"test-{fingerprint_of([new[0].group, known])[:11]}"
    opened = datetime.now(UTC).isoformat(timespec="seconds")
    extras: dict[int, Extras] = {}
    with monitor.stage("testing") as advance, pinned_threads(problem.workload.proxy.threads):
        evaluator = NetworkEvaluator(problem.workload)
        device = evaluator.bench.train.images.device
        data = subset if isinstance(subset, Volumes) else problem.splits.normalisation.apply(subset, device)
        for i, network in enumerate(new):
            module = kept_network(folder / network.folder, problem).to(device)
            values, per_case = evaluator.measured(module, "test", 0, data)
            targets = None if isinstance(subset, Volumes) else subset.targets
            spacing = problem.config.data.spacing
            extras[network.point] = extras_of(evaluator, module, data, per_case, targets, spacing)
            outcome = Outcome(network.point, "complete", values, per_case)
            record = Record(Trial(network.point, network.genome, FINAL), outcome, network.costs)
            store.append(campaign_id, record, stage=stage)
            advance(i + 1, len(new))
    records = {record.trial.number: record for record in store.records(campaign_id, stage=stage)}
    tested = [network for network in networks if network.point in records]
    results = _results(tested, [records[network.point] for network in tested], problem, subset, extras)
    patients = None if subset.groups is None else len(np.unique(subset.groups))
    done = {
        network.folder: replace(
            network,
            test=result,
            cases=len(subset),
            patients=patients,
            tested_together=len(tested),
            openings=openings,
            opened=opened if network.test is None else network.opened,
        )
        for network, result in zip(tested, results, strict=True)
    }
    everything = finalised(store, campaign_id)
    keep_finalised(store, campaign_id, [done.get(network.folder, network) for network in everything])


def _openings(n: int) -> str:
    return f"{n} opening{'s' * (n != 1)} of these images in this store so far"


def _test_cases(problem: Problem) -> Subset | Volumes:
    """The test images or whole volumes; refused where the metric is not defined, before they are used up."""
    splits, task = problem.splits, problem.task
    if problem.workload.whole is not None and splits.open_whole is not None:
        return splits.open_whole("test")
    subset = splits.open_test()
    kind = DATA_FOR.get(task.kind, task.kind)
    if kind not in {"custom", "segmentation"}:
        find_metric(task.metric.name, kind).check(subset.targets, splits.classes, "test")
    return subset


def _results(
    networks: Sequence[FinalNetwork],
    records: Sequence[Record],
    problem: Problem,
    subset: Subset | Volumes,
    extras: dict[int, Extras],
) -> list[TestResult]:
    """Figures and intervals of all networks, dense first among them."""
    task, groups = problem.task, subset.groups
    at_dense = next(i for i, network in enumerate(networks) if network.dense)
    shares = np.stack([record.outcome.per_case["metric"] for record in records]).astype(float)
    n = len(shares)
    metric = _estimates(shares, groups, np.full(n, len(subset)))
    difference = _estimates(shares - shares[at_dense], groups, np.full(n, len(subset)), centred=True)
    columns = [class_columns(task, r.outcome.per_case, r.outcome.values) for r in records]
    by_class: list[list[ClassResult]] = [[] for _ in networks]
    if all(columns):
        known = [column for column in columns if column is not None]
        measure, names, _ = known[0]
        targets = [mask for _, mask in subset] if isinstance(subset, Volumes) else subset.targets
        cases = cases_of_classes(task, names, targets)
        rows = np.stack([column[2] for column in known]).astype(float)  # (networks, cases, classes)
        flat = rows.transpose(0, 2, 1).reshape(n * len(names), -1)
        paired = (rows - rows[at_dense]).transpose(0, 2, 1).reshape(n * len(names), -1)
        counts = np.tile(cases, n)
        values = _estimates(flat, groups, counts, least=0.0)  # shares, all of them
        changes = _estimates(paired, groups, counts, centred=True)
        for i in range(n):
            for c in np.argsort(cases, kind="stable"):
                row = i * len(names) + int(c)
                if np.isnan(values[row].value):  # too few cases of it
                    continue
                change = None if i == at_dense else changes[row]
                by_class[i].append(ClassResult(names[c], measure, cases[c], values[row], change))
    found = []
    for i, (network, record) in enumerate(zip(networks, records, strict=True)):
        extra = extras.get(network.point) or _as_before(network)
        found.append(
            TestResult(
                dict(record.outcome.values),
                metric[i],
                None if i == at_dense else difference[i],
                tuple(by_class[i]),
                extra.reliability,
                extra.table.kind,
                extra.table.rows,
                extra.table.columns,
                extra.table.values,
                extra.distances,
            )
        )
    return found


def _as_before(network: FinalNetwork) -> Extras:
    test = network.test
    if test is None:
        return Extras()
    counted = Table(test.table, test.table_rows, test.table_columns, test.table_values)
    return Extras(test.reliability, counted, test.distances)


def _estimates(
    shares: np.ndarray,
    groups: np.ndarray | None,
    cases: np.ndarray,
    *,
    centred: bool = False,
    least: float = -np.inf,
) -> list[Estimate]:
    """Rows with their intervals, cut at 1 and `least`; where nothing spreads, as wide as so many cases allow.

    All right or all wrong on m cases says that the share of the others is below a^(1/m) from the end (Clopper
    and Pearson 1934), here with Bonferroni's a.
    """
    means, low, high = simultaneous_intervals(shares, groups)
    level = 0.05 / max(1, len(shares))  # Bonferroni: there is no spread to resample
    slack = 1 - level ** (1 / np.maximum(cases, 1))
    flat = np.isnan(low) & np.isfinite(means)
    low = np.where(flat, means - slack, low)
    high = np.where(flat, means + slack, high)
    top, bottom = 1.0, -1.0 if centred else least
    return [
        Estimate(float(m), float(max(a, bottom)), float(min(b, top)))
        for m, a, b in zip(means, low, high, strict=True)
    ]
