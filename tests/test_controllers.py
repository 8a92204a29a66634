"""One contract for every controller, and what each does beyond it."""

import json
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.controllers import registry as registry_module
from search.controllers.base import Controller
from search.controllers.local import swap
from search.controllers.registry import check_controller, controller_names, make_controller
from search.controllers.sampling import StratifiedSampler
from search.genes import Genes, octaves
from search.start import common_first, uniform_networks
from spaces.errors import ConfigError, InputError
from spaces.fronts import front_hypervolume
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.objectives import FLOPS, PARAMS, Objective
from spaces.space import ChannelSpace

AUC = Objective("auc", maximize=True)
SPACE = ChannelSpace.chain([16, 32, 32, 64, 64], round_to=8)
TINY = ChannelSpace.chain([3, 1, 4])  # 12 genomes
OPTIONS: dict[str, dict[str, Any]] = {"optuna:gp": {"startup": 4}}  # let it reach its model soon
LAG = 3


def make(name: str, space: ChannelSpace = SPACE, seed: int = 0, **options: Any) -> Controller:
    return make_controller(
        name, space, (FLOPS, AUC), seed, common_first(space), OPTIONS.get(name, {}) | options
    )


def auc(space: ChannelSpace, genome: Genome, sensitivity: np.ndarray | None = None) -> float:
    """Additive damage: each group hurts by its sensitivity times its inverse ratio less one."""
    ratio = np.array(genome) / np.array(space.dense)
    weights = np.linspace(0.2, 2.0, len(ratio)) if sensitivity is None else sensitivity
    return 0.5 + 0.4 * float(np.exp(-0.12 * np.mean(weights * (ratio**-0.8 - 1))))


def record(space: ChannelSpace, number: int, genome: Genome, **values: float) -> Record:
    outcome = Outcome(number, "complete", {"auc": auc(space, genome), "loss": 0.3} | values)
    return Record(Trial(number, genome), outcome, space.cost(genome).row(0))


def failed(space: ChannelSpace, number: int, genome: Genome) -> Record:
    outcome = Outcome(number, "failed", error="diverged")
    return Record(Trial(number, genome), outcome, space.cost(genome).row(0))


def n_trials(name: str) -> int:
    return 8 if name == "optuna:gp" else 40  # the last from its model, a second or two


def drive(
    controller: Controller,
    n: int,
    space: ChannelSpace = SPACE,
    answer: Callable[[int, Genome], Record] | None = None,
    between: Callable[[], None] = lambda: None,
) -> list[Genome]:
    """Ask n genomes, each after the records that the lag allows."""
    answer = answer or (lambda number, genome: record(space, number, genome))
    genomes: list[Genome] = []
    for number in range(n):
        if number > LAG:
            controller.tell(answer(number - LAG - 1, genomes[number - LAG - 1]))
        between()
        new = controller.ask(1)
        if not new:
            break
        genomes += new
    return genomes


every = pytest.mark.parametrize("name", controller_names())


# The contract


def test_no_controller_is_missing() -> None:
    """Every controller class of the package is registered; every Optuna sampler is, or is refused."""
    folder = Path(registry_module.__file__).parent
    classes = [
        line.split("class ")[1].split("(")[0]
        for file in folder.rglob("*.py")
        for line in file.read_text().splitlines()
        if line.startswith("class ")
        and "Controller(" in line
        and "SequentialController(" not in line
        and "Controller(Protocol)" not in line
    ]
    registered = {
        home.split(":")[1] for home in [*registry_module._OWN.values(), registry_module._OPTUNA_HOME]
    }
    assert set(classes) == registered

    import optuna

    theirs = {name for name in optuna.samplers.__all__ if name.endswith("Sampler") and "Base" not in name}
    rest = theirs - set(registry_module._SAMPLERS.values())
    assert {name.removesuffix("Sampler").lower() for name in rest} == set(registry_module._REFUSED)


@every
def test_first_trials_come_first_then_legal_unasked_genomes(name: str) -> None:
    genomes = drive(make(name), n_trials(name))
    first = common_first(SPACE)
    assert genomes[: len(first)] == first
    assert len(genomes) == (len(uniform_networks(SPACE)[0]) if name == "ladder" else n_trials(name))
    assert len(set(genomes)) == len(genomes)
    for genome in genomes:
        assert SPACE.check(genome) == genome
        assert all(type(kept) is int for kept in genome)


@every
def test_a_batch_equals_single_asks(name: str) -> None:
    one, other = make(name), make(name)
    assert other.ask(9) == [genome for _ in range(9) for genome in one.ask(1)]


@pytest.fixture(scope="module")
def asked_elsewhere() -> dict[str, list[list[int]]]:
    """What every controller asks in a process of its own, where global random state is another."""
    code = (
        f"import sys, json; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import random, numpy; random.seed(5); numpy.random.seed(5)\n"
        "from test_controllers import controller_names, drive, make, n_trials\n"
        "names = reversed(controller_names())\n"
        "print(json.dumps({name: drive(make(name), n_trials(name)) for name in names}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200
    )
    return json.loads(out.stdout.splitlines()[-1])


@every
def test_same_seed_and_tells_give_the_same_asks_in_a_fresh_process(
    name: str, asked_elsewhere: dict[str, list[list[int]]]
) -> None:
    assert [list(genome) for genome in drive(make(name), n_trials(name))] == asked_elsewhere[name]


@every
def test_global_random_state_neither_matters_nor_changes(name: str) -> None:
    seeds = iter(range(1000))

    def state() -> tuple[object, object]:
        return random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002  # the global state is tested

    def disturb() -> None:
        random.seed(next(seeds))
        np.random.seed(next(seeds))  # noqa: NPY002

    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = state()
    calm = drive(make(name), n_trials(name))
    assert state() == before
    assert drive(make(name), n_trials(name), between=disturb) == calm


@every
def test_campaigns_in_threads_do_not_disturb_each_other(name: str) -> None:
    alone = [drive(make(name, seed=seed), n_trials(name)) for seed in (0, 1)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # let them take turns often
    try:
        with ThreadPoolExecutor(2) as both:
            together = list(both.map(lambda seed: drive(make(name, seed=seed), n_trials(name)), (0, 1)))
    finally:
        sys.setswitchinterval(interval)
    assert together == alone


@every
def test_the_order_of_tells_between_two_asks_does_not_matter(name: str) -> None:
    one, other = make(name), make(name)
    for controller, order in ((one, 1), (other, -1)):
        genomes = controller.ask(12)
        for number, genome in list(enumerate(genomes))[::order]:
            controller.tell(record(SPACE, number, genome))
    assert one.ask(2) == other.ask(2)


@every
def test_telling_leaves_the_record_alone(name: str) -> None:
    told: list[tuple[Record, Record]] = []

    def answer(number: int, genome: Genome) -> Record:
        mine = record(SPACE, number, genome)
        told.append((mine, replace(mine, outcome=replace(mine.outcome, values=dict(mine.outcome.values)))))
        return mine

    drive(make(name), n_trials(name), answer=answer)
    assert all(given_away.agrees_with(copy) for given_away, copy in told)


@every
def test_failures_nans_and_replicates_are_survived(name: str) -> None:
    def answer(number: int, genome: Genome) -> Record:
        if number % 4 == 1:
            return failed(SPACE, number, genome)
        values = {2: {"auc": float("nan")}, 3: {"auc": float("inf")}}
        return record(SPACE, number, genome, **values.get(number % 4, {}))

    controller = make(name)
    genomes = drive(controller, n_trials(name), answer=answer)
    for number, genome in enumerate(genomes[:3]):
        controller.tell(record(SPACE, 100 + number, genome, auc=0.7))  # a failure that succeeds at last, too
        controller.tell(record(SPACE, 100 + number, genome, auc=0.7))  # told twice
    more = controller.ask(2)
    assert len(more) == 2 or name == "ladder"
    assert not set(more) & set(genomes)


@every
def test_only_failures_are_survived(name: str) -> None:
    genomes = drive(make(name), 16, answer=lambda number, genome: failed(SPACE, number, genome))
    assert len(set(genomes)) == (len(uniform_networks(SPACE)[0]) if name == "ladder" else 16)


@every
def test_genomes_told_but_never_asked_are_not_asked(name: str) -> None:
    controller = make(name)
    foreign = uniform_networks(SPACE)[0][3]
    controller.tell(record(SPACE, 0, foreign))
    genomes = controller.ask(12)
    assert foreign not in genomes


@every
def test_a_small_space_is_exhausted_without_repeats(name: str) -> None:
    controller = make(name, TINY)
    genomes: list[Genome] = []
    while new := controller.ask(5):
        for genome in new:
            controller.tell(record(TINY, len(genomes), genome))
            genomes.append(genome)
    assert len(set(genomes)) == len(genomes)
    assert set(genomes) == (
        set(uniform_networks(TINY)[0]) if name == "ladder" else set(Genes(TINY).everything())
    )
    assert controller.ask(3) == []


@every
def test_a_space_of_one_genome(name: str) -> None:
    space = ChannelSpace.chain([1, 1])
    controller = make(name, space)
    assert controller.ask(4) == [(1, 1)]
    controller.tell(record(space, 0, (1, 1)))
    assert controller.ask(4) == []


@every
def test_three_objectives(name: str) -> None:
    first = common_first(SPACE)
    controller = make_controller(name, SPACE, (FLOPS, PARAMS, AUC), 0, first, OPTIONS.get(name))
    assert len(set(drive(controller, 8))) == 8


@every
def test_other_seeds_propose_other_genomes(name: str) -> None:
    if name != "ladder":
        n = len(common_first(SPACE)) + 2
        assert drive(make(name, seed=1), n) != drive(make(name, seed=2), n)


@every
def test_first_genomes_must_be_legal_and_are_asked_once(name: str) -> None:
    with pytest.raises(InputError, match="conv0"):
        make_controller(name, SPACE, (FLOPS, AUC), 0, [(15, 32, 32, 64, 64)])
    controller = make_controller(name, SPACE, (FLOPS, AUC), 0, [SPACE.dense, SPACE.dense])
    assert len(set(controller.ask(2))) == 2


@every
def test_proposals_come_right_after_the_first_ones(name: str) -> None:
    first = common_first(SPACE)
    proposals = [(8, 32, 24, 64, 8), first[1], (16, 8, 32, 8, 64)]
    objectives = (FLOPS, AUC)
    warm = make_controller(name, SPACE, objectives, 0, first, OPTIONS.get(name), proposals=proposals)
    genomes = drive(warm, len(first) + 3)
    assert genomes[: len(first) + 2] == [*first, proposals[0], proposals[2]]
    assert len(set(genomes)) == len(first) + 3
    with pytest.raises(InputError, match="conv1"):
        make_controller(name, SPACE, objectives, 0, first, OPTIONS.get(name), proposals=[(16, 31, 32, 8, 8)])


@pytest.mark.parametrize("name", ["nsga2", "local", "optuna:tpe", "optuna:nsgaii"])
def test_what_becomes_of_a_proposal_is_learnt_from(name: str) -> None:
    proposal = (16, 8, 8, 64, 64)
    options = {"nsga2": {"population": 8}, "optuna:nsgaii": {"population_size": 8, "startup": 8}}

    def after(value: float) -> list[Genome]:
        first = common_first(SPACE)
        warm = make_controller(name, SPACE, (FLOPS, AUC), 0, first, options.get(name), proposals=[proposal])

        def answer(number: int, genome: Genome) -> Record:
            return record(SPACE, number, genome, auc=value if genome == proposal else auc(SPACE, genome))

        return drive(warm, 40, answer=answer)

    assert after(0.95) != after(0.5)


# Replicates are averaged


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nsga2", {"population": 8}),
        ("optuna:tpe", {"startup": 5}),
        ("optuna:nsgaii", {"startup": 5, "population_size": 6}),
        ("optuna:nsgaiii", {"startup": 5, "population_size": 6}),
    ],
)
def test_replicates_count_as_one_genome_with_their_mean(name: str, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    mean, noise = rng.integers(600, 800, 12) / 1024, rng.integers(-90, 90, 12) / 1024  # their sums are exact

    def then(*replicates: np.ndarray) -> list[Genome]:
        controller = make(name, **options)
        genomes = controller.ask(12)
        for r, values in enumerate(replicates):
            for i, (genome, value) in enumerate(zip(genomes, values, strict=True)):
                controller.tell(record(SPACE, 12 * r + i, genome, auc=float(value)))
            controller.ask(0)  # learns of it, proposes nothing
        return controller.ask(5)

    assert then(mean + noise, mean - noise) == then(mean)
    assert then(mean + noise) != then(mean)


# Names and options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nsg2", {}, "there is no controller 'nsg2'; did you mean 'nsga2'?"),
        ("optuna:tp", {}, "did you mean 'optuna:tpe'?"),
        ("optuna:", {}, "there is no controller 'optuna:'"),
        ("xyzzy", {}, "known: ladder, local, nsga2"),
        ("optuna:cmaes", {}, "CMA-ES knows one objective only; use one of"),
        ("optuna:GRID", {}, "a grid over all channel groups"),
        ("nsga2", {"populaton": 8}, "no option 'populaton'; did you mean 'population'?"),
        ("random", {"population": 8}, "the controller 'random' has no option 'population'; it has none"),
        ("optuna:tpe", {"gama": 1}, "no option 'gama'; did you mean 'gamma'?"),
        ("optuna:tpe", {"seed": 1}, "no option 'seed'"),
    ],
)
def test_wrong_names_and_options(name: str, options: dict[str, Any], message: str) -> None:
    for act in (
        lambda: check_controller(name, options),
        lambda: make_controller(name, SPACE, (FLOPS, AUC), 0, [], options),
    ):
        with pytest.raises(ConfigError) as caught:
            act()
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "nsga2",
            {"population": 2},
            "search.options.population = 2: it must be a whole number of at least 8",
        ),
        ("optuna:tpe", {"startup": "ten"}, "search.options.startup = 'ten'"),
        (
            "optuna:nsgaii",
            {"population_size": 1},
            "Optuna's NSGAIISampler cannot use its options (population_size = 1)",
        ),
        # Optuna itself sees these only when its startup is over:
        ("optuna:tpe", {"n_ei_candidates": 0}, "Optuna's TPESampler cannot use its options (n_ei_candidates"),
        ("optuna:gp", {"n_startup_trials": "few"}, "Optuna's GPSampler cannot use its options"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(name, **options)
    assert message in str(caught.value)


def test_options_reach_their_controller() -> None:
    assert drive(make("nsga2", population=8), 40) != drive(make("nsga2"), 40)
    assert drive(make("optuna:tpe", n_ei_candidates=2), 40) != drive(make("optuna:tpe"), 40)


def test_making_one_of_our_controllers_loads_no_other_library() -> None:
    code = (
        "import sys\n"
        "from search.controllers import check_controller, controller_names\n"
        "controller_names(); check_controller('random'); check_controller('ladder')\n"
        "print(sorted({'torch', 'optuna', 'deap', 'ray', 'pandas', 'plotly'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"


def test_optuna_is_quiet_and_its_settings_come_back(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for name in ("optuna:tpe", "optuna:qmc", "optuna:nsgaiii"):
                drive(make(name), 25)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)
    assert capfd.readouterr() == ("", "")


# Where searches start


def test_common_first_steps_down_the_flops_axis() -> None:
    space = ChannelSpace.chain([64, 64, 128, 128, 256], round_to=8)
    first = common_first(space)
    assert first[0] == space.dense
    ratios = 2 ** octaves(space, np.array(first))
    assert ratios[1:] == pytest.approx([0.50, 0.25, 0.12, 0.06, 0.03], rel=0.15)
    assert all(genome in uniform_networks(space)[0] for genome in first)


def test_common_first_drops_what_cannot_be_reached() -> None:
    coarse = ChannelSpace.chain(
        [16, 16], round_to=8
    )  # half of the channels at least: nothing below a quarter
    first = common_first(coarse)
    assert first == [(16, 16), (8, 8)]
    assert common_first(ChannelSpace.chain([1])) == [(1,)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.sampled_from([1, 4, 8]), st.data())
@settings(max_examples=60)
def test_uniform_networks_are_all_that_uniform_gives(
    widths: list[int], round_to: int, data: st.DataObject
) -> None:
    space = ChannelSpace.chain(widths, round_to=round_to)
    genomes, levels = uniform_networks(space)
    assert genomes[-1] == space.dense
    assert levels[-1] == 0
    assert (np.diff(levels) >= 0).all()
    for ratio in data.draw(st.lists(st.floats(0, 1), min_size=5, max_size=5)):
        assert space.uniform(ratio) in genomes


@given(st.integers(0, 2**32), st.lists(st.floats(0, 64), min_size=5, max_size=5))
def test_rounding_equals_the_spaces_own(seed: int, kept: list[float]) -> None:
    genes = Genes(SPACE)
    assert tuple(genes.nearest(np.array([kept]))[0].tolist()) == SPACE.clip(kept)
    genome = SPACE.sample(np.random.default_rng(seed))
    mutant = genes.mutate(genome, np.random.default_rng(seed))
    assert SPACE.check(mutant) == mutant != genome


def test_the_ladder_halves_the_widest_gap() -> None:
    space = ChannelSpace.chain([64, 64, 128, 128], round_to=4)
    controller = make("ladder", space)
    genomes = drive(controller, 14, space)
    levels = octaves(space, np.array(genomes))
    before = np.sort(levels[: len(common_first(space))])
    after = np.sort(levels[levels >= -6])
    assert np.diff(after).max() < 0.75 * np.diff(before).max()


def test_random_genomes_cover_the_flops_axis_evenly() -> None:
    space = ChannelSpace.chain([64, 64, 128, 128, 256, 256], round_to=4)
    sampler = StratifiedSampler(space)
    genomes = [sampler.draw(np.random.default_rng(i)) for i in range(600)]
    levels = octaves(space, np.array(genomes))
    counts, _ = np.histogram(levels, bins=6, range=(-6, 0.001))
    assert counts.min() > 70  # 100 expected in each octave
    spread = np.std(np.log(np.array(genomes) / np.array(space.dense)), axis=1)
    assert np.quantile(spread, 0.1) < 0.2 < 0.5 < np.quantile(spread, 0.9)


# Quality

WIDE = ChannelSpace.chain([32] * 4 + [64] * 6 + [128] * 5 + [256] * 5, round_to=8)


def hypervolumes(name: str, n: int = 150, seeds: Sequence[int] = (0, 1, 2)) -> float:
    """Mean hypervolume on a problem whose groups differ in sensitivity by orders of magnitude."""
    sensitivity = np.exp(np.random.default_rng(7).normal(0, 1.2, len(WIDE.groups)))
    sensitivity /= sensitivity.mean()
    found = []
    for seed in seeds:
        genomes = drive(
            make(name, WIDE, seed),
            n,
            WIDE,
            lambda number, genome: record(WIDE, number, genome, auc=auc(WIDE, genome, sensitivity)),
        )
        ratio = 2 ** octaves(WIDE, np.array(genomes))
        metric = np.array([auc(WIDE, genome, sensitivity) for genome in genomes])
        found.append(front_hypervolume(ratio, metric, 0.9, 0.5))
    return float(np.mean(found))


def test_searching_beats_chance_and_chance_beats_the_ladder() -> None:
    ladder, chance = hypervolumes("ladder", seeds=[0]), hypervolumes("random", seeds=range(8))
    assert chance > 1.02 * ladder
    assert hypervolumes("nsga2", seeds=range(8)) > 1.05 * chance
    assert hypervolumes("local", seeds=range(8)) > 1.05 * chance
    assert hypervolumes("optuna:tpe", seeds=(0, 1)) > 1.05 * chance


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_an_ask_costs_the_same_however_large_the_front(name: str) -> None:
    controller, genomes = make(name, WIDE), Genes(WIDE)
    rng = np.random.default_rng(0)
    dense = WIDE.cost(WIDE.dense).flops[0]

    def median_s(numbers: range) -> float:
        """Of the last asks, where nothing that was told dominates anything else."""
        spent = []
        for number in numbers:
            genome = genomes.mutate(WIDE.uniform(float(rng.uniform(0.05, 1.0))), rng)
            flops = float(WIDE.cost(genome).flops[0])
            controller.tell(record(WIDE, number, genome, auc=0.5 + 0.1 * flops / dense))
            if number >= numbers.stop - 40:
                began = time.thread_time()
                controller.ask(1)
                spent.append(time.thread_time() - began)
        return float(np.median(spent))

    early = median_s(range(200))
    assert median_s(range(200, 3000)) < 3 * early


def test_a_swap_keeps_the_flops() -> None:
    genes = Genes(WIDE)
    apart = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        genome = StratifiedSampler(WIDE).draw(rng)
        swapped = swap(WIDE, genes, genome, rng)
        if swapped is not None:
            assert WIDE.check(swapped) == swapped
            assert sum(a != b for a, b in zip(genome, swapped, strict=True)) == 2
            apart.append(np.ptp(octaves(WIDE, np.array([genome, swapped]))))
    assert len(apart) > 100
    assert np.median(apart) < 0.05
