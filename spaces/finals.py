"""Finalised networks as store, artefact folder and reports know them: plain data, no torch, no paths."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from spaces.messages import Genome

FINAL = "final"
"""The rung of stored trials that finalise measured; no search asks for it, so none finds them."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval, simultaneous over the networks tested together."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ClassResult:
    """How a network does on one class of the test cases.

    Attributes:
        name: Of the class, label or region.
        measure: Of what: "recall", "auc" or "dice".
        cases: Test cases of the class (with the label; that show the region).
        value: Of the measure.
        difference: Paired, to dense; None for dense itself.
    """

    name: str
    measure: str
    cases: int
    value: Estimate
    difference: Estimate | None


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far stated probabilities can be believed (Guo et al. 2017), of the most probable class.

    Attributes:
        error: |confidence - accuracy| of each bin, weighted by its cases (pixels): the expected one.
        confidence: Mean in each bin, low to high; empty bins are left out.
        accuracy: In the same bins.
        share: Of the cases in each bin.
    """

    error: float
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    share: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a class's drawn border lies from the true one: the 95 % Hausdorff distance, HD95.

    Attributes:
        name: Of the class or region.
        unit: "mm" or "pixels".
        mean: Over the cases that show the class and where it was drawn; None where there is no such case.
        median: Likewise.
        cases: How many these are.
        missed: Cases that show it, where nothing was drawn.
        invented: Cases that do not show it, where something was drawn.
    """

    name: str
    unit: str
    mean: float | None
    median: float | None
    cases: int
    missed: int
    invented: int


@dataclass(frozen=True, slots=True)
class TestResult:
    """What the test split says about a network.

    Attributes:
        values: All measured figures by name, as in `Outcome.values`.
        metric: The campaign's metric.
        difference: Of the metric, paired, to dense; None for dense itself.
        classes: By class, the rarest first; empty where there are none.
        reliability: None where the network states no probabilities.
        table: "confusion": rows are true, columns predicted classes, in cases. "labels": rows are labels,
            columns true positives, false positives, false negatives, true negatives at one half. "dice": rows
            are classes, columns mean, standard deviation, 5th, 25th, 50th, 75th and 95th percentile over
            cases. "none" for a regression.
        table_rows: What the rows of the table are.
        table_columns: What its columns are.
        table_values: One row after the other.
        distances: HD95 by class, of a segmentation; reported only.
    """

    __test__ = False  # no test of pytest's

    values: Mapping[str, float]
    metric: Estimate
    difference: Estimate | None
    classes: tuple[ClassResult, ...] = ()
    reliability: Reliability | None = None
    table: Literal["confusion", "labels", "dice", "none"] = "none"
    table_rows: tuple[str, ...] = ()
    table_columns: tuple[str, ...] = ()
    table_values: tuple[tuple[float, ...], ...] = ()
    distances: tuple[Distance, ...] = ()


@dataclass(frozen=True, slots=True)
class FinalNetwork:
    """One finalised network.

    Attributes:
        point: Number of its first trial in the campaign, as in `front`.
        dense: Whether it is the unpruned network, tuned for the same steps.
        folder: Of its files, below the campaign's artefact folder: "dense" or "point-N".
        genome: Kept units of every channel group.
        metric: Name of the campaign's metric.
        costs: "flops", "params", "activation_bytes".
        ratios: The same costs over dense's.
        recipe: How it was tuned; with a search, what was found for this network.
        group: Networks of the same group were tuned alike, and by the same search; dense is among them.
        val: Measured figures on the validation cases by name, after the last step.
        seconds: That the tuning took, restarts included.
        weights: Fingerprint of the tuned weights.
        test: None until the test split is opened.
        cases: Test cases; 0: not opened.
        patients: Known patients among them; None: unknown, so each case counts as one.
        tested_together: Networks whose intervals hold at once, dense included.
        openings: How often these test images were opened in this store by then.
        opened: When this network was tested, ISO 8601, UTC.
        tried: Where learning rate, weight decay and distillation were searched: one row a run, with its
            settings, its epochs and its value on val.
    """

    point: int
    dense: bool
    folder: str
    genome: Genome
    metric: str
    costs: Mapping[str, float]
    ratios: Mapping[str, float]
    recipe: Mapping[str, Any]
    group: str
    val: Mapping[str, float]
    seconds: float
    weights: str
    test: TestResult | None = None
    cases: int = 0
    patients: int | None = None
    tested_together: int = 0
    openings: int = 0
    opened: str | None = None
    tried: tuple[Mapping[str, Any], ...] = field(default=())
