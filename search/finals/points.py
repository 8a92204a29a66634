"""Which networks of a campaign to finalise: by number, by a bound on the FLOPs, or spread along the front."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spaces.errors import InputError
from spaces.fronts import knee
from spaces.messages import Genome, Record

if TYPE_CHECKING:
    from reports.campaign import CampaignReport

Row: TypeAlias = dict[Any, Any]
"""Of a `trials_frame`."""


@dataclass(frozen=True)
class Choice:
    """What was asked for; nothing at all means the knee of the advised front and the cheapest safe network.

    Attributes:
        points: Trial numbers.
        max_flops: Largest share of dense's FLOPs.
        top: So many advised networks, spread along the FLOPs (by their logarithm).
    """

    points: tuple[int, ...] = ()
    max_flops: float | None = None
    top: int | None = None

    def __post_init__(self) -> None:
        if self.points and (self.max_flops is not None or self.top is not None):
            raise InputError("--points names the networks; leave --max-flops and --top out")
        if self.max_flops is not None and not 0 < self.max_flops <= 1:
            raise InputError(
                f"--max-flops {self.max_flops:g}: it is a share of the dense network's FLOPs, as 0.5 for half"
            )
        if self.top is not None and self.top < 1:
            raise InputError(f"--top {self.top}: at least one network")


@dataclass(frozen=True)
class Point:
    """A network to finalise.

    Attributes:
        number: Of its first trial, as `front` shows it.
        genome: What it keeps.
        flops_ratio: Its FLOPs over dense's.
    """

    number: int
    genome: Genome
    flops_ratio: float


def choose(report: "CampaignReport", records: Sequence[Record], choice: Choice) -> list[Point]:
    """The networks that the choice means, cheapest first, without dense.

    Args:
        report: Of the campaign.
        records: Of its search, for numbers that are on no front.
        choice: What was asked for.

    Raises:
        InputError: No trial of such a number, one that failed, no network within the bound (the message names
            the nearest), or nothing but dense was measured.
    """
    rows: list[Row] = [dict(row) for row in report.trials.to_dict("records")]
    dense = next(row for row in rows if row["kind"] == "dense")
    if choice.points:
        points = _numbered(report.id, rows, records, choice.points)
    else:
        pruned = [row for row in rows if row["kind"] != "dense"]
        if not pruned:
            more = " --set budget.trials=40" if report.status == "complete" else ""
            raise InputError(
                f"campaign {report.id} has measured dense only: there is no pruned network to finalise; "
                f"`paretoprune resume {report.id}{more}` goes on searching"
            )
        points = [_point(row) for row in _fitting(pruned, choice, report)]
    unique = {point.genome: point for point in points if point.genome != tuple(dense["genome"])}
    return sorted(unique.values(), key=lambda point: point.flops_ratio)


def _point(row: Row) -> Point:
    return Point(int(row["number"]), tuple(row["genome"]), float(row["flops_ratio"]))


def _fitting(pruned: list[Row], choice: Choice, report: "CampaignReport") -> list[Row]:
    """Of the pruned networks, those that the bound and the number of them ask for."""
    within = pruned
    if choice.max_flops is not None:
        within = [row for row in pruned if row["flops_ratio"] <= choice.max_flops]
        if not within:
            nearest = min(pruned, key=lambda row: row["flops_ratio"])
            enough = np.ceil(1000 * nearest["flops_ratio"]) / 1000
            raise InputError(
                f"no network of this campaign has at most {100 * choice.max_flops:g} % of the FLOPs; the "
                f"nearest is point {nearest['number']}, within --max-flops {enough:g}"
            )
    advised = [row for row in within if row["advised"]] or within
    if choice.top is not None:
        return _spread(advised, choice.top)
    if choice.max_flops is not None:  # what is left of its difference without its noise
        return [max(advised, key=lambda row: row["estimate"])]
    return _sensible(advised, report)


def _sensible(advised: list[Row], report: "CampaignReport") -> list[Row]:
    """The knee of the advised front, and the network that answers the campaign's question."""
    from reports.table import headline

    at = knee(np.array([[np.log2(row["flops_ratio"]), -row["estimate"]] for row in advised]))
    bend = max(advised, key=lambda row: row["estimate"]) if at is None else advised[at]
    return [bend, dict(headline(report.trials))]


def _spread(rows: list[Row], n: int) -> list[Row]:
    """At most n of the rows, evenly along log FLOPs from end to end; where n is 1, the best."""
    if n == 1:
        return [max(rows, key=lambda row: row["estimate"])]
    left = sorted(rows, key=lambda row: row["flops"])
    if len(left) <= n:
        return left
    levels = np.linspace(np.log2(left[0]["flops_ratio"]), np.log2(left[-1]["flops_ratio"]), n)
    chosen = []
    for level in levels:
        chosen.append(min(left, key=lambda row: abs(np.log2(row["flops_ratio"]) - level)))
        left.remove(chosen[-1])
    return chosen


def _numbered(
    campaign_id: str, rows: list[Row], records: Sequence[Record], asked: Sequence[int]
) -> list[Point]:
    """The networks of these trials, under the numbers by which the front shows them."""
    known = {record.trial.number: record for record in records}
    shown = {tuple(row["genome"]): row for row in rows}
    dense_flops = next(row["flops"] for row in rows if row["kind"] == "dense")
    see = f"`paretoprune front {campaign_id} --all` shows what there is"
    found = []
    for number in asked:
        record = known.get(number)
        if record is None:
            raise InputError(f"campaign {campaign_id} has no trial {number}, only 0 to {max(known)}; {see}")
        if not record.complete:
            how = "was lost to the machines" if record.outcome.status == "lost" else "failed"
            raise InputError(
                f"trial {number} of campaign {campaign_id} {how} ({record.outcome.error}); {see}"
            )
        genome = record.trial.genome
        row = shown.get(genome)
        found.append(_point(row) if row else Point(number, genome, record.value("flops") / dense_flops))
    return found
