"""What a page tells about one campaign: the input of `reports.page`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from reports.table import failed_frame, headline, history_frame, ladder_hypervolume, trials_frame
from spaces.messages import Genome, Record

TOLERANCE = 0.02
"""How far below dense counts as keeping the metric, in the page's sentence."""

_NAMES = {"auc": "AUC", "dice": "Dice", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}


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
        trials: `trials_frame`.
        failed: `failed_frame`.
        history: `history_frame`.
        ladder_hypervolume: Hypervolume of dense and ladder alone.
        groups: The channel groups along the network: name, units, channels, flops_share (of the dense
            network's FLOPs that the group takes part in; NaN if unknown).
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
    trials: pd.DataFrame
    failed: pd.DataFrame
    history: pd.DataFrame
    ladder_hypervolume: float
    groups: pd.DataFrame
    provenance: Mapping[str, str] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)
    objectives: tuple[str, ...] = ("flops",)

    @property
    def metric_name(self) -> str:
        """The metric in words."""
        return _NAMES.get(self.metric, self.metric.replace("_", " "))

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
    def replicate_sd(self) -> float:
        """Spread of the metric between repeats of one network; NaN if nothing was repeated."""
        return float(self.trials.attrs["replicate_sd"])

    @property
    def n_trials(self) -> int:
        """Trials finished, failed ones included."""
        return int(self.trials["replicates"].sum()) + len(self.failed)


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
    value: str = "metric",
) -> CampaignReport:
    """A campaign's report from its records and a few words about it; see `CampaignReport`.

    Raises:
        InputError: Dense has not been measured.
    """
    trials = trials_frame(
        records, metric=metric, dense=dense, ladder=ladder, patients=patients, rung=rung, value=value
    )
    return CampaignReport(
        id=id,
        name=name,
        network=network,
        data=data,
        controller=controller,
        metric=metric,
        chance=chance,
        cases=int(trials.attrs["cases"]),
        trials=trials,
        failed=failed_frame(records),
        history=history_frame(records, metric=metric, dense=dense, chance=chance, rung=rung),
        ladder_hypervolume=ladder_hypervolume(trials, chance),
        groups=groups,
        provenance=dict(provenance),
    )
