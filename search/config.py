"""A campaign's configuration: from TOML and `--set`, checked once, closed and frozen."""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from evaluators.settings import (
    DataSettings,
    FinaliseSettings,
    LatencySettings,
    NetworkSettings,
    ProxySettings,
    RecipeSettings,
    Settings,
    TaskSettings,
)
from spaces.errors import ConfigError, did_you_mean
from spaces.granularity import Granularity

Rung: TypeAlias = Literal["recalibrate", "shared", "finetune", "full"]

Value: TypeAlias = Literal["metric", "loss", "agreement"]

LEAST_SCOUTS = 16
"""Dense and the ladder are among them; a few more would tell nothing."""


class PruningSettings(Settings):
    """What may be pruned and which channels go first."""

    criterion: str = Field(
        "l1", description="how channels are ranked: l1, l2, bn_scale, fpgm, lamp, taylor, ..."
    )
    granularity: Granularity = Field("group", description="what one gene moves: a group, block or stage")
    depth: bool = Field(False, description="whether residual branches may fall away as a whole")
    heads: bool = Field(False, description="whether attention loses whole heads, not a part of each")
    round_to: int | None = Field(None, ge=1, description="kept channels are multiples of this")
    ignore: tuple[str, ...] = Field((), description="modules to leave alone, by name or pattern")
    only: tuple[str, ...] = Field((), description="modules to prune, by name or pattern; default all")
    drop: tuple[str, ...] = Field(
        (), description="modules that pruned networks do without, by name or pattern"
    )


class SearchSettings(Settings):
    """Who proposes candidates."""

    controller: str = Field(
        "nsga2", description="ladder, random, local, nsga2, nsga3, structured or optuna:SAMPLER"
    )
    seed: int = Field(0, ge=0, lt=2**63)
    objectives: tuple[Literal["flops", "params", "activation_bytes", "latency"], ...] = Field(
        ("flops",), description="costs to trade against the metric: flops, and others beside it"
    )
    value: Value = Field(
        "agreement",
        description="what candidates are ranked by: the metric, the mean loss per case, or the agreement "
        "with the dense network on training images; with an evaluator of your own the metric",
    )
    repeats: float = Field(
        0.0, ge=0, le=0.9, description="share of trials that measure what may be on the front again"
    )
    rungs: tuple[Rung, ...] = Field(
        (), description="successive halving through these rungs, cheapest first; default proxy.rung alone"
    )
    prior: str | None = Field(
        None, description="file of `paretoprune prior fit`: past campaigns' experience; builtin: ours"
    )
    prior_sha256: str | None = Field(None, description="hash of its content; noted when a campaign starts")
    scouts: int | None = Field(
        None,
        ge=0,
        le=1000,
        description=f"brief looks at candidates before the search, none or at least {LEAST_SCOUTS}; default "
        "as many as are worth a few evaluations with the controller structured, none with others",
    )
    lag: int = Field(8, ge=0, description="trial t is asked after exactly the records 0..t-lag-1 were told")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the controller")


class ConstraintsSettings(Settings):
    """What networks may cost, and what they must reach."""

    max_flops: float | None = Field(None, gt=0, le=1, description="share of the dense network's")
    max_params: float | None = Field(None, gt=0, le=1, description="share of the dense network's")
    max_activations: float | None = Field(
        None, gt=0, le=1, description="peak activation bytes, as a share of the dense network's"
    )
    max_latency_ms: float | None = Field(None, gt=0, description="predicted, on the target of [latency]")
    min_metric: float | None = Field(None, description="networks below are shown as not good enough")


class BudgetSettings(Settings):
    """When a campaign ends."""

    trials: int = Field(60, ge=1, description="evaluations in all, dense and ladder included")
    unit: Rung | None = Field(
        None,
        description="trials are worth an evaluation on this rung; others, joint training, scouts and "
        "calibration count by their price; only with search.rungs",
    )
    wall_s: float | None = Field(
        None, gt=0, description="seconds of the search; what is in flight is finished"
    )


class CalibrateSettings(Settings):
    """How `paretoprune calibrate` finds out how well each rung ranks."""

    networks: int = Field(16, ge=4, description="dense included; each on every rung and twice on full")
    rungs: tuple[Literal["recalibrate", "shared", "finetune"], ...] = Field(
        ("recalibrate", "shared", "finetune"), min_length=1, description="the cheap rungs to compare"
    )
    at_start: bool = Field(False, description="calibrate when a campaign starts; stop it if all is chance")


class ExecutionSettings(Settings):
    """Who computes: it changes how long a campaign takes and, deadlines apart, never what it finds."""

    executor: Literal["serial", "ray"] = "serial"
    workers: int = Field(2, ge=1, description="Ray workers; at most search.lag + 1 are busy")
    address: str | None = Field(None, description="address of a running Ray cluster; default a local one")
    gpus_per_worker: float = Field(0.0, ge=0)
    deadline_s: float | None = Field(
        None, gt=0, description="an evaluation that takes longer is lost; Ray only"
    )
    memory_gb: float | None = Field(
        None, gt=0, description="an evaluation that allocates more CPU memory is lost; Ray only"
    )
    recycle_after: int | None = Field(
        1000, ge=1, description="a Ray worker is replaced after so many evaluations"
    )

    @model_validator(mode="after")
    def _limits_need_ray(self) -> Self:
        for name in ("deadline_s", "memory_gb"):
            if self.executor == "serial" and getattr(self, name) is not None:
                raise ValueError(f"only Ray workers keep a {name}; set executor = 'ray' or leave {name} out")
        return self


class CampaignConfig(Settings):
    """Everything that decides a campaign."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="letters, digits, . _ -")
    network: NetworkSettings
    data: DataSettings
    task: TaskSettings = TaskSettings()
    recipe: RecipeSettings = RecipeSettings()
    proxy: ProxySettings = ProxySettings()
    pruning: PruningSettings = PruningSettings()
    search: SearchSettings = SearchSettings()
    constraints: ConstraintsSettings = ConstraintsSettings()
    latency: LatencySettings = LatencySettings()
    budget: BudgetSettings = BudgetSettings()
    calibrate: CalibrateSettings = CalibrateSettings()
    finalise: FinaliseSettings = FinaliseSettings()
    execution: ExecutionSettings = ExecutionSettings()

    @model_validator(mode="before")
    @classmethod
    def _own_evaluators_judge(cls, given: Any) -> Any:
        """Only such an evaluator understands the network's outputs: it knows a metric, and no agreement."""
        task, search = given.get("task", {}), given.get("search", {})
        evaluator = task.get("evaluator") if isinstance(task, dict) else task.evaluator
        if evaluator is None or not isinstance(search, dict):
            return given
        return {**given, "search": {"value": "metric", **search}}

    @model_validator(mode="after")
    def _halving_makes_sense(self) -> Self:
        order = get_args(Rung)
        places = [order.index(rung) for rung in self.search.rungs]
        if len(places) == 1 or places != sorted(set(places)):
            raise ValueError(f"search.rungs must be two or more rungs, cheapest first, of {', '.join(order)}")
        if places and self.search.repeats:
            raise ValueError(
                "search.rungs needs search.repeats = 0: halving measures again on the next rung; with "
                "data.folds the last rung sees every case"
            )
        if self.search.value == "agreement" and self.task.evaluator is not None:
            raise ValueError(
                "search.value = 'agreement' compares outputs, which only task.evaluator understands; take "
                "'metric' or 'loss'"
            )
        if 0 < (self.search.scouts or 0) < LEAST_SCOUTS:
            raise ValueError(
                f"search.scouts = {self.search.scouts} see too little to be of use; send at least "
                f"{LEAST_SCOUTS}, or none with 0"
            )
        if self.search.scouts and self.task.evaluator is not None:
            raise ValueError(
                "search.scouts compare outputs, which only task.evaluator understands; leave them out"
            )
        if self.budget.unit is not None and not places:
            raise ValueError("budget.unit needs search.rungs: with one rung every trial counts one")
        return self

    @model_validator(mode="after")
    def _objectives_make_sense(self) -> Self:
        costs = self.search.objectives
        if not costs or costs[0] != "flops" or len(set(costs)) < len(costs):
            raise ValueError(
                "search.objectives begins with flops, which fronts are drawn over, and names each cost once"
            )
        return self

    @model_validator(mode="after")
    def _hash_has_a_file(self) -> Self:
        if self.search.prior_sha256 is not None and self.search.prior is None:
            raise ValueError("search.prior_sha256 belongs to search.prior, which is not given; leave it out")
        return self

    @property
    def judging_rung(self) -> str:
        """The rung that fronts are made of: the last that candidates go through."""
        return self.search.rungs[-1] if self.search.rungs else self.proxy.rung

    def differences(self, other: "CampaignConfig") -> list[str]:
        """The settings in which two campaigns could find different things, as "a.b: old -> new".

        Budget, execution, calibration and finalising are left out: they may change when a campaign goes on.
        """
        mine, theirs = _flat(self._identity()), _flat(other._identity())
        return [
            f"{key}: {json.dumps(mine.get(key))} -> {json.dumps(theirs.get(key))}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]

    def _identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"budget", "calibrate", "finalise", "execution"})


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> CampaignConfig:
    """Read a campaign file and apply overrides of the form "table.key=value".

    Raises:
        ConfigError: The file is not there, is not TOML, or a setting is unknown, of the wrong type or out
            of range; the message names them all, one a line.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no campaign file {str(path)!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the campaign file {str(path)!r}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}") from None
    table.setdefault("name", path.stem)
    return parse_config(override(table, overrides))


def override(table: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of the nested table with settings replaced: "budget.trials=60", TOML values or bare words."""
    result = json.loads(json.dumps(dict(table), default=str))
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set takes table.key=value, as budget.trials=60; got {item!r}")
        *parents, last = key.strip().split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {item!r}: {parent!r} is a value, not a table of settings")
        try:
            place[last] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            place[last] = text  # a bare word: a string without its quotes
    return result


def parse_config(table: Mapping[str, Any]) -> CampaignConfig:
    """Check a nested table of settings.

    Raises:
        ConfigError: One line for every setting that is unknown, missing, of the wrong type or out of range.
    """
    try:
        return CampaignConfig.model_validate(table)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from None


def _explain(problem: Any) -> str:
    """One line about one problem that pydantic found."""
    if not problem["loc"]:  # what concerns several tables names them itself
        return str(problem["msg"]).removeprefix("Value error, ")
    *tables, key = [str(part) for part in problem["loc"]]
    where = f"[{'.'.join(tables)}]" if tables else "the campaign file"
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return f"{where} has no setting {key!r}; {did_you_mean(key, _settings_of(tables))}"
    if kind == "missing":
        hint = _settings_of([*tables, key])
        thing = f"table [{'.'.join([*tables, key])}] with {', '.join(hint)}" if hint else f"setting {key!r}"
        return f"{where} needs the {thing}"
    if kind == "string_pattern_mismatch" and key == "name":
        return f"{'.'.join([*tables, key])} = {_shown(value)}: use up to 64 letters, digits, dots, _ and -"
    rule = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{'.'.join([*tables, key])} = {_shown(value)}: {rule}"


def _shown(value: Any) -> str:
    """The value as it would stand in TOML, not too long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _settings_of(tables: Iterable[str]) -> list[str]:
    """The names of the settings in a (nested) table; none when there is no such table."""
    model: type[BaseModel] = CampaignConfig
    for table in tables:
        field = model.model_fields.get(table)
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
