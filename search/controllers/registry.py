"""Controllers by name. Light: DEAP and Optuna load when one of theirs is made."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search.controllers.base import Controller, Yardstick
from search.controllers.structured.belief import Belief
from search.controllers.structured.scouts import Scouts
from spaces.errors import ConfigError, did_you_mean
from spaces.messages import Genome
from spaces.objectives import Objective
from spaces.space import ChannelSpace

OPTUNA = "optuna:"

_OWN = {
    "ladder": "search.controllers.ladder:LadderController",
    "random": "search.controllers.random_search:RandomController",
    "nsga2": "search.controllers.nsga2:Nsga2Controller",
    "nsga3": "search.controllers.nsga2:Nsga3Controller",
    "structured": "search.controllers.structured.controller:StructuredController",
    "local": "search.controllers.local:LocalController",
}
_MODELLING = {"structured"}  # these take what _TOLD names
_TOLD = ("yardstick", "beliefs", "scouts")
_OPTUNA_HOME = "search.controllers.samplers:OptunaController"
_SAMPLERS = {  # Optuna's multi-objective samplers: name here -> class there
    "gp": "GPSampler",
    "nsgaii": "NSGAIISampler",
    "nsgaiii": "NSGAIIISampler",
    "qmc": "QMCSampler",
    "random": "RandomSampler",
    "tpe": "TPESampler",
}
_REFUSED = {
    "cmaes": "CMA-ES knows one objective only",
    "grid": "a grid over all channel groups has no end",
    "bruteforce": "trying everything has no end",
    "partialfixed": "it wraps another sampler",
}


def controller_names() -> list[str]:
    """The names that `make_controller` knows."""
    return [*_OWN, *(OPTUNA + name for name in _SAMPLERS)]


def check_controller(name: str, options: Mapping[str, Any] | None = None) -> None:
    """Refuse a name or an option that no controller has.

    Raises:
        ConfigError: With the way out.
    """
    _resolve(name, options or {})


def make_controller(
    name: str,
    space: ChannelSpace,
    objectives: Sequence[Objective],
    seed: int,
    first: Sequence[Genome],
    options: Mapping[str, Any] | None = None,
    *,
    proposals: Sequence[Genome] = (),
    yardstick: Yardstick | None = None,
    beliefs: Sequence[Belief] = (),
    scouts: Scouts | None = None,
) -> Controller:
    """The controller of that name.

    Args:
        name: One of `controller_names()`.
        space: Where genomes come from.
        objectives: What is optimised; directions and names as records have them.
        seed: Decides every random choice.
        first: Genomes to ask before own proposals, in this order; duplicates are asked once.
        options: Settings of its own, as `population` of `nsga2` or Optuna's of its samplers.
        proposals: Genomes to ask right after the first ones, say from a prior. Every controller learns from
            what becomes of them as from its own: they join populations and enqueued trials.
        yardstick: What the measured figure means, for controllers that model it.
        beliefs: What experts expect, for controllers that model damage.
        scouts: What cheap looks at candidates saw, for the same.

    Raises:
        ConfigError: Unknown name, unknown option, or an option that cannot be used.
        InputError: A first genome or a proposal that is not legal.
    """
    make, fixed = _resolve(name, options or {})
    if name in _MODELLING:
        fixed |= dict(zip(_TOLD, (yardstick or Yardstick(), tuple(beliefs), scouts), strict=True))
    return make(space, objectives, seed, [*first, *proposals], **fixed)


def _resolve(name: str, options: Mapping[str, Any]) -> tuple[Callable[..., Controller], dict[str, Any]]:
    """The class of that name and the keyword arguments that it takes from the options."""
    if name in _OWN:
        make = _load(_OWN[name])
        known = [key for key, p in inspect.signature(make).parameters.items() if p.kind is p.KEYWORD_ONLY]
        known = [key for key in known if key not in _TOLD]
        _check_options(name, options, known)
        return make, dict(options)
    sampler = name.removeprefix(OPTUNA)
    if name.startswith(OPTUNA) and sampler in _SAMPLERS:
        make = _load(_OPTUNA_HOME)
        _check_options(name, options, make.options_of(_SAMPLERS[sampler]))
        return make, {"sampler": _SAMPLERS[sampler], "options": dict(options)}
    if name.startswith(OPTUNA) and sampler.lower() in _REFUSED:
        reason = _REFUSED[sampler.lower()]
        raise ConfigError(f"no controller {name!r}: {reason}; use one of {', '.join(controller_names())}")
    raise ConfigError(f"there is no controller {name!r}; {did_you_mean(name, controller_names())}")


def _load(home: str) -> Any:
    module, _, attribute = home.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _check_options(name: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in options:
        if key not in known:
            hint = did_you_mean(key, known) if known else "it has none"
            raise ConfigError(f"the controller {name!r} has no option {key!r}; {hint}")
