"""First and last states: what is read of a store and of a file, and the zero before a steady solution."""

import numpy as np
import pytest

from ups_server.data.composed import Subset, Thinned
from ups_server.data.horizon import EndStates, EndStatesOf, check_horizon, end_times
from ups_server.data.simulate import build_store
from ups_server.data.statistics import compute
from ups_server.data.store import Store
from ups_server.data.windows import Windows
from ups_server.errors import UserError
from ups_server.pde import family


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("waves") / "store"
    return build_store(family("burgers"), {"nu": 0.1}, 5, 32, 0, folder, frame_dt=0.05, t_final=0.5)


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build_store(family("darcy"), {}, 4, 16, 0, tmp_path_factory.mktemp("flow") / "store")


def test_of_a_trajectory_both_ends_remain(waves: Store) -> None:
    ends, whole = EndStates.of(waves), waves.read(range(5))
    np.testing.assert_array_equal(ends.times, [0.0, waves.times[-1]])
    np.testing.assert_array_equal(ends.read(range(5)), whole[:, [0, -1]])
    np.testing.assert_array_equal(ends.read([3, 1], [1], stride=2, first=1), whole[[3, 1], -1:, 1::2])
    np.testing.assert_array_equal(list(ends.frames(2, [1, 0, 1])), whole[2, [-1, 0, -1]])
    np.testing.assert_array_equal(ends.view(4), whole[4, [0, -1]])
    assert ends.manifest.fingerprint == waves.manifest.fingerprint


def test_before_a_steady_solution_there_is_nothing(flow: Store) -> None:
    ends, solutions = EndStates.of(flow), flow.read(range(4))
    assert flow.times.tolist() == [0.0]
    assert ends.times.tolist() == [0.0, family("darcy").dt]
    found = ends.read(range(4))
    assert not found[:, 0].any()
    np.testing.assert_array_equal(found[:, 1], solutions[:, 0])
    first, last = ends.frames(1, [0, 1])
    assert not first.any()
    np.testing.assert_array_equal(last, solutions[1, 0])
    np.testing.assert_array_equal(ends.read_static([2]), flow.read_static([2]))


@pytest.mark.parametrize("which", ["waves", "flow"])
def test_of_any_source_the_same_is_read(which: str, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(which)
    rows = [2, 0]
    for source in (EndStatesOf(Subset(store, rows)), Subset(EndStates.of(store), rows)):
        np.testing.assert_array_equal(source.times, end_times(store.times, store.family))
        expected = EndStates.of(store).read(rows, slice(None), 2, 1)
        np.testing.assert_array_equal(source.read([0, 1], slice(None), 2, 1), expected)
        np.testing.assert_array_equal(source.read([1], [1]), EndStates.of(store).read([0], [1]))
    again = EndStatesOf(EndStatesOf(store))
    np.testing.assert_array_equal(again.read([1]), EndStates.of(store).read([1]))


def test_windows_and_statistics_are_of_the_whole_time(waves: Store) -> None:
    ends = EndStates.of(waves)
    windows = Windows(ends, 0.5, 32, None, augment=False)
    drawn = windows.sample(np.random.default_rng(0), 5, 1)
    whole = waves.read(range(5))
    order = [int(np.flatnonzero((whole[:, 0] == first).all((1, 2)))[0]) for first in drawn.context]
    assert sorted(order) == list(range(5))
    np.testing.assert_array_equal(drawn.frames[:, 0], whole[order][:, [0, -1]])
    found = compute(ends, 0.5, 32, training=np.arange(5))
    moved = whole[:, -1] - whole[:, 0]
    assert found.increment_std[0] == pytest.approx(float(np.sqrt((moved.astype(np.float64) ** 2).mean())))


def test_what_has_no_last_state_is_refused(waves: Store) -> None:
    with pytest.raises(UserError) as caught:
        EndStatesOf(Thinned(waves, [0], 1))
    assert caught.value.code == "too_few_frames"
    with pytest.raises(UserError) as caught:
        check_horizon("final", 0.1)
    assert caught.value.code == "horizon_mismatch"
    check_horizon("step", 0.1)
    check_horizon("final", None)


def test_a_steady_file_learned_in_steps_says_what_to_do(flow: Store) -> None:
    with pytest.raises(UserError, match="one frame") as caught:
        Windows(flow, 1.0, 16)
    assert "`final`" in str(caught.value.hint)
