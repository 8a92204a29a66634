"""What a page tells about one campaign: the input of `reports.page`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from reports.details import (
    PRIOR_COLUMNS,
    WEIGHT_COLUMNS,
    calibration_frame,
    class_frame,
    final_class_frame,
    finalised_frame,
    latency_frame,
    replicates_frame,
)
from reports.table import failed_frame, headline, history_frame, ladder_hypervolume, trials_frame
from spaces.finals import FinalNetwork
from spaces.fronts import MARGIN
from spaces.intervals import smallest_difference
from spaces.messages import Genome, Record
from spaces.objectives import in_words

TOLERANCE = 0.02
"""How far below dense counts as keeping the metric, in the page's sentence."""

MOST_CLASSES = 400
"""Networks whose classes are looked at: the fronts first."""


@dataclass(frozen=True, eq=False)
class CampaignReport:
    """One campaign as numbers and words; everything comes from the store, nothing from data or networks.

    Attributes:
        id: Of the campaign.
        name: As people call it.
        network: What was pruned, in words.
        data: Of what it was judged on, in words: no paths, no patients.
        controller: What searched.
        metric: Name of the measured figure.
        chance: Its value for a network that knows nothing.
        cases: Number of validation cases (or patients) behind every metric.
        status: "complete", or how the campaign stands.
        trials: `trials_frame`.
        failed: `failed_frame`.
        history: `history_frame`.
        ladder_hypervolume: Hypervolume of dense and ladder alone.
        groups: The channel groups along the network: name, units, channels, flops_share (of the dense
            network's FLOPs that the group takes part in; NaN if unknown).
        classes: `class_frame` of the networks that may matter.
        replicates: `replicates_frame`.
        calibration: `calibration_frame`.
        finalised: `finalised_frame`.
        final_classes: `final_class_frame`.
        latency: `latency_frame`.
        prior_outcome: Damage of keeping a quarter of one group alone, one row a group along the network:
            group; what each expert foresaw, a column each, named as the expert; observed and
            sd, mean and standard deviation of what the campaign's own model found. Empty where no expert was.
        prior_weights: What each expert counted as measurements came in: networks (measured so far), expert,
            weight (from 0 to 1). Empty likewise.
        provenance: Label -> text: versions, seed, command, dates, fingerprint and whatever else an auditor
            asks for; shown in this order. Absolute paths are cut to their last component.
        constraints: Those of the campaign, by their settings' names; see `reports.constraints`.
        objectives: The costs that were traded against the metric, as `search.objectives` names them.
    """

    id: str
    name: str
    network: str
    data: str
    controller: str
    metric: str
    chance: float
    cases: int
    status: str
    trials: pd.DataFrame
    failed: pd.DataFrame
    history: pd.DataFrame
    ladder_hypervolume: float
    groups: pd.DataFrame
    classes: pd.DataFrame
    replicates: pd.DataFrame
    calibration: pd.DataFrame
    finalised: pd.DataFrame
    final_classes: pd.DataFrame
    latency: pd.DataFrame
    prior_outcome: pd.DataFrame
    prior_weights: pd.DataFrame
    provenance: Mapping[str, str] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)
    objectives: tuple[str, ...] = ("flops",)

    @property
    def metric_name(self) -> str:
        """The metric in words."""
        return in_words(self.metric)

    @property
    def network_name(self) -> str:
        """The network without its arguments."""
        return self.network.partition("(")[0]

    @property
    def data_name(self) -> str:
        """The data without their sizes."""
        return self.data.partition(",")[0].partition(" (")[0]

    @property
    def dense(self) -> pd.Series:
        """The dense network's row."""
        return self.trials[self.trials["kind"].eq("dense")].iloc[0]

    @property
    def headline(self) -> pd.Series:
        """The row that the answer speaks of."""
        return headline(self.trials, TOLERANCE)

    @property
    def hypervolume(self) -> float:
        """Of the observed front after the last trial."""
        return float(self.history["hypervolume"].iloc[-1])

    @property
    def reference(self) -> float:
        """Where the hypervolume begins on the metric's axis: `MARGIN` below dense, or at chance if higher."""
        return max(float(self.dense["metric"]) - MARGIN, self.chance)

    @property
    def out_of_reach(self) -> str:
        """Why there is no hypervolume, and what to do about it; empty where there is some."""
        pruned = self.trials[self.trials["kind"].ne("dense")]
        if self.hypervolume > 0 or not len(pruned):
            return ""
        metric, best = self.metric_name, float(pruned["metric"].max())
        why = f"{MARGIN:.2f} below dense" if self.reference > self.chance else "chance"
        return (
            f"Nothing counts for the hypervolume: that begins at {metric} {self.reference:.3f} ({why}), and "
            f"the best pruned network reaches {best:.3f}. Train candidates longer in a new campaign "
            "(proxy.epochs), or take another rung: paretoprune calibrate compares them."
        )

    @property
    def replicate_sd(self) -> float:
        """Spread of the metric between repeats of one network; NaN if nothing was repeated."""
        return float(self.trials.attrs["replicate_sd"])

    @property
    def n_fronts(self) -> int:
        """Networks on the observed or the advised front, dense included."""
        trials = self.trials
        return int((trials["front"] | trials["advised"] | trials["kind"].eq("dense")).sum())

    @property
    def smallest_difference(self) -> float:
        """The smallest difference to dense that these cases show with a power of 80 %; NaN if unknown."""
        return smallest_difference(self.trials["se"].to_numpy())

    @property
    def n_trials(self) -> int:
        """Trials finished, failed ones included."""
        return int(self.trials["replicates"].sum()) + len(self.failed)

    @property
    def tested(self) -> pd.DataFrame:
        """The finalised networks that the test split was opened for."""
        return self.finalised[self.finalised["metric"].notna()]


def campaign_report(
    records: Sequence[Record],
    *,
    id: str,
    name: str,
    network: str,
    data: str,
    controller: str,
    metric: str,
    chance: float,
    dense: Genome,
    ladder: Collection[Genome],
    groups: pd.DataFrame,
    provenance: Mapping[str, str],
    patients: np.ndarray | None = None,
    rung: str = "finetune",
    status: str = "complete",
    class_cases: Mapping[str, int] | None = None,
    finalised: Sequence[FinalNetwork] = (),
    latency: Sequence[Mapping[str, Any]] = (),
    calibration: Mapping[str, Any] | None = None,
    prior_outcome: pd.DataFrame | None = None,
    prior_weights: pd.DataFrame | None = None,
) -> CampaignReport:
    """A campaign's report from its records and a few words about it; see `CampaignReport`.

    Beside words as in `CampaignReport`: `dense` and `ladder` are genomes; `patients` the anonymous patient
    index of each validation case; `rung` the fidelity to show; `class_cases` the validation cases by class;
    `finalised` what `search.finals.finalised.finalised` lists; `latency` the rows of `latency.json`;
    `calibration` what the campaign's description holds under that name.

    Raises:
        InputError: Dense has not been measured.
    """
    trials = trials_frame(records, metric=metric, dense=dense, ladder=ladder, patients=patients, rung=rung)
    return CampaignReport(
        id=id,
        name=name,
        network=network,
        data=data,
        controller=controller,
        metric=metric,
        chance=chance,
        cases=int(trials.attrs["cases"]),
        status=status,
        trials=trials,
        failed=failed_frame(records),
        history=history_frame(records, metric=metric, dense=dense, chance=chance, rung=rung),
        ladder_hypervolume=ladder_hypervolume(trials, chance),
        groups=groups,
        classes=class_frame(
            records,
            _worth_a_look(trials),
            metric=metric,
            dense=dense,
            cases=class_cases,
            patients=patients,
            rung=rung,
        ),
        replicates=replicates_frame(records, metric=metric, dense=dense, rung=rung),
        calibration=calibration_frame(calibration),
        finalised=finalised_frame(finalised),
        final_classes=final_class_frame(finalised),
        latency=latency_frame(latency, trials),
        prior_outcome=pd.DataFrame(columns=list(PRIOR_COLUMNS)) if prior_outcome is None else prior_outcome,
        prior_weights=pd.DataFrame(columns=list(WEIGHT_COLUMNS)) if prior_weights is None else prior_weights,
        provenance=dict(provenance),
    )


def _worth_a_look(trials: pd.DataFrame) -> list[int]:
    """Numbers of dense, the ladder, both fronts, and of the best plausible networks besides."""
    rank = trials["kind"].ne("search") * 4 + trials["advised"] * 2 + trials["front"] * 2 + trials["plausible"]
    ordered = trials.assign(rank=rank).sort_values(["rank", "estimate"], ascending=False)
    return [int(number) for number in ordered["number"].head(MOST_CLASSES)]
