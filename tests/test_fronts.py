"""Fronts: known answers, properties, and two independent judges (brute force and moocore)."""

import itertools
import time

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spaces.errors import InputError
from spaces.fronts import front_hypervolume, hypervolume, hypervolume_history, knee, non_dominated

# A coarse grid makes ties and duplicates common, which is where front code breaks.
GRID = st.integers(0, 6).map(lambda k: k / 4)


def points(columns: st.SearchStrategy[int]) -> st.SearchStrategy[np.ndarray]:
    return columns.flatmap(
        lambda m: hnp.arrays(float, st.tuples(st.integers(0, 12), st.just(m)), elements=GRID)
    )


def brute_front(losses: np.ndarray) -> np.ndarray:
    def dominated(row: np.ndarray) -> bool:
        return any((other <= row).all() and (other < row).any() for other in losses)

    return np.array([not dominated(row) for row in losses], dtype=bool)


def brute_volume(losses: np.ndarray, reference: np.ndarray) -> float:
    """Counts cells of the grid of all coordinates."""
    axes = [np.unique(np.append(losses[:, k][losses[:, k] < r], r)) for k, r in enumerate(reference)]
    total = 0.0
    for cell in itertools.product(*(range(len(axis) - 1) for axis in axes)):
        low = np.array([axis[i] for axis, i in zip(axes, cell, strict=True)])
        if (losses <= low).all(axis=1).any():
            total += np.prod([axis[i + 1] - axis[i] for axis, i in zip(axes, cell, strict=True)])
    return float(total)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_a_staircase_of_n_unit_steps_encloses_n_times_n_plus_1_over_2(n: int) -> None:
    steps = np.arange(n)
    assert hypervolume(np.column_stack([steps, n - 1 - steps]), [n, n]) == n * (n + 1) / 2


def test_a_cube_of_three_dimensions() -> None:
    assert hypervolume(np.zeros((1, 3)), [1, 2, 3]) == 6
    assert hypervolume(np.array([[0.0, 0, 1], [1, 1, 0]]), [2, 2, 2]) == 4 + 1
    assert hypervolume(np.array([[0.25], [0.75]]), [1]) == 0.75


def test_equal_rows_all_stay_and_nan_never_does() -> None:
    losses = np.array([[1, 2], [1, 2], [2, 1], [1, 3], [np.nan, 0], [0, np.nan]])
    assert non_dominated(losses).tolist() == [True, True, True, False, False, False]
    assert hypervolume(losses, [3, 3]) == hypervolume(losses[:3], [3, 3]) == 3


def test_infinite_losses_are_the_worst_but_one_alone_is_a_front() -> None:
    assert non_dominated(np.array([[np.inf, np.inf]])).tolist() == [True]
    assert non_dominated(np.array([[np.inf, np.inf], [0, np.inf], [0, 1]])).tolist() == [False, False, True]


@given(points(st.integers(1, 4)))
def test_the_front_agrees_with_brute_force_and_moocore(losses: np.ndarray) -> None:
    mask = non_dominated(losses)
    assert mask.tolist() == brute_front(losses).tolist()
    if len(losses):
        assert mask.tolist() == moocore.is_nondominated(losses, keep_weakly=True).tolist()


@given(points(st.integers(1, 3)))
def test_the_hypervolume_agrees_with_counting_cells(losses: np.ndarray) -> None:
    reference = np.full(losses.shape[1], 1.3)
    assert hypervolume(losses, reference) == pytest.approx(brute_volume(losses, reference), abs=1e-12)


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_the_hypervolume_agrees_with_moocore_on_many_points(columns: int) -> None:
    losses = np.random.default_rng(columns).random((60, columns))
    expected = moocore.hypervolume(losses, ref=np.ones(columns))
    assert hypervolume(losses, np.ones(columns)) == pytest.approx(expected, rel=1e-12)


@given(points(st.integers(2, 3)), st.randoms(use_true_random=False))
def test_order_does_not_matter(losses: np.ndarray, random: object) -> None:
    order = np.array(random.sample(range(len(losses)), len(losses)), dtype=int)  # type: ignore[attr-defined] # hypothesis' Random
    reference = np.full(losses.shape[1], 2.0)
    assert non_dominated(losses[order]).tolist() == non_dominated(losses)[order].tolist()
    assert hypervolume(losses[order], reference) == pytest.approx(hypervolume(losses, reference))


@given(points(st.integers(2, 3)), st.data())
def test_one_more_point_never_shrinks_the_hypervolume(losses: np.ndarray, data: st.DataObject) -> None:
    extra = data.draw(hnp.arrays(float, (1, losses.shape[1]), elements=GRID))
    reference = np.full(losses.shape[1], 1.3)
    before, after = hypervolume(losses, reference), hypervolume(np.vstack([losses, extra]), reference)
    assert after >= before - 1e-12
    inside = (extra < reference).all() and not (losses <= extra).all(axis=1).any()
    assert (after > before + 1e-12) == inside


def test_ten_thousand_points_take_milliseconds() -> None:
    losses = np.random.default_rng(0).random((10_000, 2))

    def best(function: object) -> float:
        def once() -> float:
            start = time.perf_counter()
            function()  # type: ignore[operator] # a closure over the points
            return time.perf_counter() - start

        return min(once() for _ in range(5))

    assert best(lambda: non_dominated(losses)) < 0.05
    assert best(lambda: hypervolume(losses, [1, 1])) < 0.05


def test_front_hypervolume_counts_octaves_times_metric() -> None:
    assert front_hypervolume(np.array([0.25]), np.array([0.9]), 0.9, 0.5) == pytest.approx(2 * 0.10)
    two = front_hypervolume(np.array([0.25, 0.5]), np.array([0.85, 0.9]), 0.9, 0.5)
    assert two == pytest.approx(2 * 0.05 + 1 * 0.05)


def test_front_hypervolume_keeps_to_its_window() -> None:
    assert front_hypervolume(np.array([]), np.array([]), 0.9, 0.5) == 0
    assert front_hypervolume(np.array([1.0, 1.5]), np.array([0.9, 0.99]), 0.9, 0.5) == 0, "dense and beyond"
    assert front_hypervolume(np.array([0.5]), np.array([0.79]), 0.9, 0.5) == 0, "too bad"
    assert front_hypervolume(np.array([0.5]), np.array([np.nan]), 0.9, 0.5) == 0, "failed"
    tiny = front_hypervolume(np.array([0.0, 1e-9]), np.array([0.9, 0.9]), 0.9, 0.5)
    assert tiny == pytest.approx(6 * 0.10), "cheaper than 1/64 counts as 1/64"
    assert front_hypervolume(np.array([0.5]), np.array([0.9]), 0.9, 0.86) == pytest.approx(0.04), (
        "from chance"
    )


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 1.0]), GRID | st.just(np.nan)), max_size=15))
def test_the_history_is_the_hypervolume_of_every_prefix(rows: list[tuple[float, float]]) -> None:
    ratio, metric = np.array(rows).reshape(-1, 2).T
    history = hypervolume_history(ratio, metric, 0.9, 0.2)
    expected = [front_hypervolume(ratio[: i + 1], metric[: i + 1], 0.9, 0.2) for i in range(len(rows))]
    assert history == pytest.approx(expected)
    assert (np.diff(history) >= -1e-12).all()


@given(st.lists(st.tuples(st.integers(0, 3), GRID | st.just(np.nan)), max_size=15))
def test_repeated_networks_count_with_their_latest_value(rows: list[tuple[int, float]]) -> None:
    network = np.array([row[0] for row in rows], dtype=int)
    metric = np.array([row[1] for row in rows], dtype=float)
    ratio = np.array([0.1, 0.3, 0.5, 0.7])[network]
    history = hypervolume_history(ratio, metric, 0.9, 0.2, network)
    for i in range(len(rows)):
        seen = ~np.isnan(metric[: i + 1])
        names = sorted(set(network[: i + 1][seen].tolist()))
        latest = np.array([metric[: i + 1][seen & (network[: i + 1] == k)][-1] for k in names])
        ratios = np.array([0.1, 0.3, 0.5, 0.7])[np.array(names, dtype=int)]
        assert history[i] == pytest.approx(front_hypervolume(ratios, latest, 0.9, 0.2))


def test_the_knee_is_where_the_front_bends_most() -> None:
    losses = np.array([[0, 10], [1, 2], [5, 1], [10, 0], [10, 10], [np.nan, -5]])
    assert knee(losses) == 1
    assert knee(losses * [1000, 0.001]) == 1, "the units of the axes do not matter"
    assert knee(np.array([[0, 1], [1, 0], [0.5, 0.5]])) is None, "a straight line has no knee"
    assert knee(np.array([[0, 1], [0, 1], [1, 0]])) is None
    assert knee(np.empty((0, 2))) is None


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"reference point must hold 2 numbers"):
        hypervolume(np.zeros((1, 2)), [1, 1, 1])
    with pytest.raises(InputError, match="reference point"):
        hypervolume(np.zeros((1, 2)), [1, np.nan])
    with pytest.raises(InputError, match=r"\(3,\)"):
        non_dominated(np.zeros(3))
    with pytest.raises(InputError, match="two columns"):
        knee(np.zeros((4, 3)))
