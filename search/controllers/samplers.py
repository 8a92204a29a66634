"""Optuna's multi-objective samplers behind our protocol. The only file that knows Optuna."""

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from search.controllers.base import SequentialController, at_least
from search.controllers.sampling import StratifiedSampler
from spaces.errors import ConfigError
from spaces.messages import Genome
from spaces.objectives import Objective
from spaces.space import ChannelSpace

_TRIES = 3  # proposals that were asked before, until one near the last is taken instead
_STARTUP = 10
_REHEARSED = 200  # a longer startup than that is not waited for before the search
_DEFAULTS: dict[str, dict[str, Any]] = {  # where ours differ from Optuna's
    "GPSampler": {"n_startup_trials": 2},  # the startup here is longer and better spread
    "TPESampler": {"n_startup_trials": 2, "constant_liar": True},
    "NSGAIISampler": {"population_size": 24},
    "NSGAIIISampler": {"population_size": 24},
    "QMCSampler": {"scramble": True, "warn_asynchronous_seeding": False},
}
_UNINFORMED = {"QMCSampler", "RandomSampler"}  # these learn nothing, so they need no startup
_NOT_FROM_TOML = {"self", "seed", "constraints_func", "independent_sampler"}


class OptunaController(SequentialController):
    """An Optuna sampler, asked and told in memory; resuming replays it.

    A gene is an integer parameter, the index into its group's choices. Until ten genomes have succeeded
    (`startup`; none for samplers that learn nothing), proposals are random and evenly spread along the FLOPs
    axis, and enqueued, so that the sampler learns from them as from its own. The sampler is seeded once: its
    state follows from the asks and tells.

    Args:
        space: Where genomes come from.
        objectives: What is optimised.
        seed: Decides every random choice.
        first: Genomes to ask before own proposals.
        sampler: Name of a class in `optuna.samplers`.
        options: Its keyword arguments, and `startup`.
    """

    def __init__(
        self,
        space: ChannelSpace,
        objectives: Sequence[Objective],
        seed: int,
        first: Sequence[Genome],
        *,
        sampler: str,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(space, objectives, seed, first)
        own = dict(options)
        default = 0 if sampler in _UNINFORMED else _STARTUP
        self._startup = at_least("startup", own.pop("startup", default), 0)
        self._random = StratifiedSampler(space)
        self._distributions: dict[str, BaseDistribution] = {
            group.name: IntDistribution(0, len(group.choices) - 1) for group in space.groups
        }
        self._sampler = _make_sampler(sampler, own, seed)
        if own:
            _rehearse(sampler, own, len(self.objectives))
        with _quiet():
            self._study = self._new_study()
        self._number: dict[Genome, int] = {}  # Optuna's number of each genome's trial
        self._changed: dict[int, np.ndarray] = {}  # finished trials whose mean has moved since

    @staticmethod
    def options_of(sampler: str) -> list[str]:
        """Names of the options of a sampler."""
        arguments = inspect.signature(getattr(optuna.samplers, sampler).__init__).parameters
        return ["startup", *(name for name in arguments if name not in _NOT_FROM_TOML)]

    def _propose(self, rng: np.random.Generator) -> Genome | None:
        if len(self._asked) >= self.space.size:
            return None
        n_succeeded = sum(bool(measured) for measured in self._measured.values())
        if n_succeeded < self._startup:
            return self._fresh(self._random.draw(rng), rng)
        with _quiet():
            if self._changed:
                self._replay()
            for _ in range(_TRIES):
                trial = self._study.ask(self._distributions)
                genome = self._genome(trial.params)
                if genome not in self._asked:
                    self._number[genome] = trial.number
                    return genome
                self._study.tell(trial.number, state=TrialState.FAIL)
        return self._fresh(genome, rng)

    def _hand_out(self, genome: Genome) -> None:
        super()._hand_out(genome)
        if genome not in self._number:
            self._enqueue(genome)

    def _learn(self, genome: Genome, losses: np.ndarray | None) -> None:
        if genome not in self._number:  # told, but never asked here
            self._enqueue(genome)
        number = self._number[genome]
        running = self._study.get_trials(deepcopy=False)[number].state == TrialState.RUNNING
        with _quiet():
            if not running and losses is not None:
                self._changed[number] = losses
            elif running and losses is None:
                self._study.tell(number, state=TrialState.FAIL)
            elif running and losses is not None:
                self._study.tell(number, losses.tolist())

    def _enqueue(self, genome: Genome) -> None:
        """Give the sampler a trial that it did not choose."""
        choices = [group.choices.index(kept) for group, kept in zip(self.space.groups, genome, strict=True)]
        with _quiet():
            self._study.enqueue_trial(dict(zip(self._distributions, choices, strict=True)))
            number = self._study.ask(self._distributions).number
            if isinstance(self._sampler, optuna.samplers.BaseGASampler):
                # Optuna skips this where every parameter is given; without a generation, no parenthood.
                self._sampler.get_trial_generation(
                    self._study, self._study.get_trials(deepcopy=False)[number]
                )
        self._number[genome] = number

    def _genome(self, params: Mapping[str, Any]) -> Genome:
        return self.space.check([group.choices[params[group.name]] for group in self.space.groups])

    def _new_study(self) -> optuna.Study:
        directions = [StudyDirection.MINIMIZE] * len(self.objectives)
        return optuna.create_study(sampler=self._sampler, directions=directions)

    def _replay(self) -> None:
        """A new study of the same trials with the means as they are now; in the old one they are final."""
        old = self._study.get_trials(deepcopy=False)
        self._study = self._new_study()
        for trial in old:
            if trial.number not in self._changed:
                self._study.add_trial(trial)
                continue
            losses = self._changed[trial.number].tolist()
            self._study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    values=losses,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs=trial.user_attrs,
                    system_attrs=trial.system_attrs,
                )
            )
        self._changed.clear()


def _make_sampler(name: str, options: Mapping[str, Any], seed: int) -> optuna.samplers.BaseSampler:
    arguments = _DEFAULTS.get(name, {}) | dict(options)
    seed = int(np.random.default_rng([seed, 0]).integers(2**31))
    try:
        with _quiet():
            sampler: optuna.samplers.BaseSampler = getattr(optuna.samplers, name)(seed=seed, **arguments)
    except (TypeError, ValueError) as error:
        raise _refusal(name, options, error) from None
    return sampler


def _rehearse(name: str, options: Mapping[str, Any], n_objectives: int) -> None:
    """Ask and tell a sampler of these options until it leaves its startup, on a toy problem.

    Optuna looks at many options only then, which may be hours into a campaign.

    Raises:
        ConfigError: It cannot work with them.
    """
    sampler = _make_sampler(name, options, seed=0)
    sizes = [options.get(key, 0) for key in ("n_startup_trials", "population_size")]
    until = min(max([size for size in sizes if isinstance(size, int)]), _REHEARSED)
    toy: dict[str, BaseDistribution] = {name: IntDistribution(0, 7) for name in ("a", "b")}
    try:
        with _quiet():
            study = optuna.create_study(sampler=sampler, directions=["minimize"] * n_objectives)
            for turn in range(until + 3):
                trial = study.ask(toy)
                study.tell(trial, [float(turn * k % 5) for k in range(1, n_objectives + 1)])
    except Exception as error:  # whatever it is, the options are all that can be wrong here
        raise _refusal(name, options, error) from None


def _refusal(name: str, options: Mapping[str, Any], error: Exception) -> ConfigError:
    shown = ", ".join(f"{key} = {value!r}" for key, value in options.items())
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return ConfigError(f"Optuna's {name} cannot use its options ({shown}): {reason}; see search.options")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's log and its notes on experimental classes; the caller's settings come back."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
