"""Search by a model of damage: expected hypervolume improvement over what the model believes."""

from collections.abc import Callable, Sequence

import numpy as np

from search.controllers.base import SequentialController, Yardstick
from search.controllers.sampling import StratifiedSampler
from search.controllers.structured.belief import Belief
from search.controllers.structured.calibration import Calibration
from search.controllers.structured.candidates import Candidates
from search.controllers.structured.evidence import Ledger
from search.controllers.structured.improvement import expected_improvement
from search.controllers.structured.mixture import Mixture, make_experts
from search.controllers.structured.model import Setting
from search.controllers.structured.scale import AMOUNT, RETENTION
from search.controllers.structured.scouts import Scouts
from spaces.errors import ConfigError
from spaces.fronts import non_dominated
from spaces.messages import Genome, Record
from spaces.objectives import Objective, per_case_of
from spaces.space import ChannelSpace

_COSTS = ("flops", "params", "activation_bytes", "latency_ms")
_LEAST = 3  # networks beside dense before the model is asked
_GROWN = 1.01  # times the evidence on which scales were chosen last: then they are chosen anew
_PATHS = 24
_OFFSPRING = 160
_STRANGERS = 4
_ELITE = 16


class StructuredController(SequentialController):
    """Bayesian search with a structured prior: see `DamageModel`, `Terms` and `expected_improvement`.

    Each ask maximises the expected growth of the hypervolume under the *believed* front, the posterior means
    of what was measured, so that it does not chase the luckiest measurement. Trials under way count as if
    they found what the model expects. With several costs, each ask looks at one of them in turn.

    Of amounts, as of disagreement, every network that is asked is foreseen, and the intervals of `predict`
    widen by what these forecasts missed, see `Calibration`. What is asked does not change by it: searches
    that doubt more find no more (docs/controllers.md).

    Args:
        space: Where genomes come from.
        objectives: Costs, and one measured figure.
        seed: Decides every random choice.
        first: Genomes to ask before own proposals.
        yardstick: What the measured figure means.
        beliefs: What experts expect; they are mixed by how well they foresee, with a floor for the flat one,
            which is alone by default. See `Mixture`.
        scouts: What cheap looks at candidates saw, if there were any: another expert.

    Raises:
        ConfigError: There is not exactly one measured figure, or no cost.
    """

    def __init__(
        self,
        space: ChannelSpace,
        objectives: Sequence[Objective],
        seed: int,
        first: Sequence[Genome],
        *,
        yardstick: Yardstick,
        beliefs: Sequence[Belief] = (),
        scouts: Scouts | None = None,
    ) -> None:
        super().__init__(space, objectives, seed, first)
        self._costs = [i for i, objective in enumerate(self.objectives) if objective.name in _COSTS]
        measured = [i for i in range(len(self.objectives)) if i not in self._costs]
        if len(measured) != 1 or not self._costs:
            names = ", ".join(objective.name for objective in self.objectives)
            raise ConfigError(
                f"the controller 'structured' takes costs and one measured figure, not {names}; use nsga2"
            )
        self._measured_at = measured[0]
        self._sampler = StratifiedSampler(space)
        self._experts = make_experts(space, beliefs, scouts)
        self._candidates = Candidates(space, self.genes)
        nothing = np.zeros((0, len(space.groups)), dtype=int)
        self._looked_at = nothing if scouts is None else scouts.evidence.genomes
        self._ledger = Ledger(yardstick)
        self._calibration = Calibration()
        self._settings = [Setting() for _ in self._experts]
        self._tuned_at = 0  # networks when scales were chosen last
        self._model: Mixture | None = None
        self._scale, self._unit = RETENTION, 1.0
        self._floor: float | None = None
        self._known = np.zeros((0, len(space.groups)))
        self._pending: dict[Genome, None] = {}

    def believed(self, genomes: Sequence[Genome]) -> tuple[np.ndarray, np.ndarray] | None:
        """Posterior mean and standard deviation of the damage: (n,), (n,); None before there is a model.

        What that says about the measured figure: see `Scale`.
        """
        self._read_inbox()
        model = self._current()
        if model is None:
            return None
        mean, sd = model.predict(np.array(genomes))
        return mean, self._calibration.factor * sd

    @property
    def weights(self) -> dict[str, float]:
        """What each expert counts by now; empty before there is a model."""
        self._read_inbox()
        model = self._current()
        if model is None:
            return {}
        pairs = zip(model.beliefs, model.weights, strict=True)
        return {belief.name: float(weight) for belief, weight in pairs}

    def _note(self, record: Record) -> None:
        super()._note(record)
        losses = self._losses(record)
        if record.complete and np.isfinite(losses).all():
            cases = record.outcome.per_case.get(per_case_of(self.objectives[self._measured_at]))
            shares = None if cases is None else np.asarray(cases, dtype=float)
            self._ledger.add(record.trial.genome, -float(losses[self._measured_at]), shares)

    def _learn(self, genome: Genome, losses: np.ndarray | None) -> None:
        self._pending.pop(genome, None)
        if losses is not None:
            self._model = None

    def _hand_out(self, genome: Genome) -> None:
        super()._hand_out(genome)
        if self._model is not None and self._scale == AMOUNT and genome != self.space.dense:
            (mean,), (sd,) = self._model.predict(np.array([genome]))
            self._calibration.expect(genome, float(mean), float(sd), self._unit)
        self._pending[genome] = None

    def _current(self) -> Mixture | None:
        if self._model is None:
            evidence = self._ledger.evidence(self.space.dense)
            if evidence is not None and len(evidence.genomes) >= _LEAST:
                if evidence.scale == AMOUNT:
                    self._calibration.compare(evidence)
                grown = len(evidence.genomes) >= _GROWN * self._tuned_at
                self._model = Mixture(self._experts, evidence, self._settings, tune=grown)
                self._tuned_at = len(evidence.genomes) if grown else self._tuned_at
                self._settings, self._floor = self._model.settings, evidence.floor
                self._scale, self._unit = evidence.scale, evidence.unit
                self._known = evidence.genomes
        return self._model

    def _propose(self, rng: np.random.Generator) -> Genome | None:
        model = self._current()
        if model is None or len(self._asked) >= self.space.size:
            return self._fresh(self._sampler.draw(rng), rng)
        known = self._known
        if waiting := [genome for genome in self._pending if genome != self.space.dense]:
            model = model.expecting(np.array(waiting))
            known = np.concatenate([known, np.array(waiting)])
        mixture = model
        front, octaves, worth = self._believed_front(mixture.mean, known)
        floor = float(worth.min()) if self._floor is None else self._floor

        def best(genomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Those that were never asked, the most promising first, and their expected improvement."""
            rows = dict.fromkeys(map(tuple, genomes.tolist()))
            new = np.array([genome for genome in rows if genome not in self._asked]).reshape(-1, len(known.T))
            gain = self._gains(new, mixture, octaves, worth, floor)
            order = np.argsort(-gain, kind="stable")
            return new[order], gain[order]

        children = self._candidates.offspring(front, _OFFSPRING, rng)
        strangers = np.array([self._sampler.draw(rng) for _ in range(_STRANGERS)])
        paths = self._candidates.paths(mixture.predict, _PATHS, rng)
        pool, gains = best(np.concatenate([paths, children, strangers, self._looked_at]))
        if len(pool):
            nearer, more = best(self._candidates.offspring(pool[:_ELITE], _OFFSPRING, rng))
            if len(nearer) and more[0] > gains[0]:
                pool, gains = nearer, more
            if gains[0] > 0:
                return tuple(pool[0].tolist())
        return self._fresh(self._sampler.draw(rng), rng)

    def _gains(
        self, genomes: np.ndarray, mixture: Mixture, octaves: np.ndarray, worth: np.ndarray, floor: float
    ) -> np.ndarray:
        """Expected improvement of some genomes over a front, by all experts: (n, n_groups) -> (n,)."""
        at = self._octaves(genomes)
        gains = [
            weight * expected_improvement(at, mean, sd, octaves, worth, floor, self._scale)
            for weight, mean, sd in mixture.each(genomes)
        ]
        return np.asarray(np.sum(gains, axis=0))

    def _believed_front(
        self, mean: Callable[[np.ndarray], np.ndarray], known: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Genomes, octaves, worth of networks, dense too, that nothing cheaper is believed to beat."""
        genomes = np.concatenate([np.array([self.space.dense]), known])
        octaves = self._octaves(genomes)
        worth = self._scale.worth(mean(genomes))
        front = non_dominated(np.column_stack([octaves, -worth]))
        return genomes[front], octaves[front], worth[front]

    def _octaves(self, genomes: np.ndarray) -> np.ndarray:
        """log2(cost / dense cost) by the cost of this ask: (n, n_groups) -> (n,)."""
        name = self.objectives[self._costs[self._n_asks % len(self._costs)]].name
        return np.log2(getattr(self.space.cost(genomes), name) / self._dense_costs[name])
