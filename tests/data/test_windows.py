"""Windows are indexing; augmentations are symmetries of the equation."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.data.conftest import Relaxation
from ups_server.data.simulate import CoefficientDraw, build_store
from ups_server.data.splits import Split, split_rows
from ups_server.data.store import Store
from ups_server.data.windows import LeadTimes, WindowBatch, Windows, averaged, frame_stride
from ups_server.errors import UserError
from ups_server.pde import family, registry
from ups_server.pde.family import Family, Field
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Grid


@pytest.fixture
def waves(wave: Family, tmp_path: Path) -> Store:
    return build_store(wave, {"c": CoefficientDraw(low=0.1, high=2.0)}, 30, 64, 5, tmp_path / "waves")


@pytest.fixture
def relaxing(relaxation: Family, tmp_path: Path) -> Store:
    return build_store(relaxation, {}, 30, 16, 5, tmp_path / "relaxing")


def is_window(store: Store, row: int, window: NDArray[np.float32], lag: int, stride: int) -> bool:
    view = store.view(row)[(slice(None), *(slice(None, None, stride),) * store.grid.ndim)]
    starts = range(len(view) - lag * (len(window) - 1))
    return any(np.array_equal(view[start::lag][: len(window)], window) for start in starts)


def test_windows_are_frames_of_training_trajectories(waves: Store) -> None:
    windows = Windows(waves, 0.1, 16, augment=False)
    batch = windows.sample(np.random.default_rng(0), 6, 3, unroll=4)
    assert batch.frames.shape == (6, 3, 5, 16, 2)
    train = split_rows(30, Split.TRAIN)
    for index in range(6):
        row = int(np.flatnonzero((waves.coefficients == batch.coefficients[index]).all(1))[0])
        assert row in train
        assert np.array_equal(batch.context[index], waves.view(row)[0, ::4])
        assert all(is_window(waves, row, window, 2, 4) for window in batch.frames[index])


def test_all_start_frames_are_drawn(waves: Store) -> None:
    batch = Windows(waves, 0.5, 64, augment=False).sample(np.random.default_rng(0), 20, 20, unroll=1)
    first = {float(window[0, 0, 0]) for windows in batch.frames for window in windows}
    frames = {float(value) for row in split_rows(30, Split.TRAIN) for value in waves.view(int(row))[:11, 0, 0]}
    assert first <= frames
    assert len(first) > 0.7 * len(frames)


def test_static_fields_travel_with_the_windows(relaxing: Store) -> None:
    """s is recovered from any two frames of the exact solution, under every augmentation."""
    batch = Windows(relaxing, 0.2, 8).sample(np.random.default_rng(0), 8, 4)
    assert batch.static is not None
    left = np.exp(-batch.coefficients * 0.2)[:, :, None, None, None]
    recovered = (batch.frames[:, :, 1] - left * batch.frames[:, :, 0]) / (1 - left)
    assert np.allclose(recovered, batch.static[:, None], atol=1e-3)


def test_bounded_axes_are_neither_shifted_nor_offset(relaxing: Store) -> None:
    batch = Windows(relaxing, 0.2, 8).sample(np.random.default_rng(0), 24, 1)
    known = {relaxing.view(row)[0, i, 0, 0].item() for row in range(30) for i in range(16)}
    assert all(value.item() in known for value in batch.context[:, :, 0, 0].ravel())


def advance(family: Family, batch: WindowBatch, dt: float) -> NDArray[np.float64]:
    columns = np.repeat(batch.coefficients, batch.frames.shape[1], axis=0)
    names = [coefficient.name for coefficient in family.coefficients]
    start = batch.frames[:, :, 0].reshape(-1, *batch.frames.shape[3:]).astype(np.float64)
    solution = family.solve(start, np.array([0.0, dt]), batch.grid, dict(zip(names, columns.T, strict=True)))
    return solution[:, 1].reshape(batch.frames[:, :, 1].shape)


def test_augmented_windows_still_solve_the_equation(wave: Family, waves: Store) -> None:
    """Offset, shift and reflection commute with the solution operator."""
    batch = Windows(waves, 0.1, 16).sample(np.random.default_rng(1), 20, 4)
    assert np.allclose(advance(wave, batch, 0.1), batch.frames[:, :, 1], atol=1e-5)


def test_reflections_shifts_and_offsets_all_occur(waves: Store) -> None:
    batch = Windows(waves, 0.1, 16).sample(np.random.default_rng(1), 24, 1)
    mirrored = offset = shifted = 0
    for context, coefficients in zip(batch.context, batch.coefficients, strict=True):
        row = int(np.flatnonzero((waves.coefficients == coefficients).all(1))[0])
        start = waves.view(row)[0]
        for flip, sign in ((False, (1, 1)), (True, (1, -1))):
            unflipped = np.flip(context * np.array(sign, np.float32), 0) if flip else context
            for first in range(4):
                for shift in range(16):
                    if np.array_equal(unflipped, np.roll(start[first::4], shift, 0)):
                        mirrored, offset, shifted = mirrored + flip, offset + (first > 0), shifted + (shift > 0)
    assert 4 < mirrored < 20
    assert offset > 10
    assert shifted > 15


@pytest.mark.parametrize("name", ["burgers", "diffusion_reaction_1d"])
def test_declared_reflections_commute_with_the_reference_solver(name: str) -> None:
    from ups_server.pde import family

    equation = family(name)
    grid = equation.default_grid(128)
    sign = np.array(equation.reflections[0], np.float64)
    start = equation.sample_initial(np.random.default_rng(3), 2, grid)
    columns = {c.name: np.full(2, 10 * c.default) for c in equation.coefficients}
    times = np.array([0.0, equation.dt])
    mirrored = equation.solve(np.flip(start, 1) * sign, times, grid, columns)
    assert np.allclose(mirrored, np.flip(equation.solve(start, times, grid, columns), 2) * sign, atol=1e-6)


def test_windows_of_an_odd_equation_are_negated_at_times_and_solve_it(tmp_path: Path) -> None:
    equation, drawn = registry.family("advection"), {"beta": CoefficientDraw(low=0.5, high=1.0)}
    store = build_store(equation, drawn, 30, 64, 5, tmp_path / "lines", frame_dt=0.05)
    batch = Windows(store, 0.05, 64).sample(np.random.default_rng(1), 24, 1)
    # The wave that 64 points resolve no better than by its sign has no direction: windowed states hold some of it.
    ahead, truth = (
        np.fft.rfft(part, axis=2)[:, :, :-1] for part in (advance(equation, batch, 0.05), batch.frames[:, :, 1])
    )
    assert np.allclose(ahead, truth, atol=1e-3)
    negated = 0
    for context, coefficients in zip(batch.context, batch.coefficients, strict=True):
        start = store.view(int(np.flatnonzero((store.coefficients == coefficients).all(1))[0]))[0]
        signs = [sign for sign in (1, -1) for n in range(64) if np.array_equal(context, sign * np.roll(start, n, 0))]
        assert len(signs) == 1
        negated += signs[0] < 0
    assert 4 < negated < 20


def test_trajectories_for_evaluation(waves: Store) -> None:
    windows = Windows(waves, 0.1, 16, split=Split.TEST)
    assert np.array_equal(windows.rows, split_rows(30, Split.TEST))
    assert np.array_equal(windows.trajectories(), waves.read(windows.rows)[:, ::2, ::4])
    assert np.array_equal(windows.trajectories([1]), waves.read([1])[:, ::2, ::4])


def test_few_trajectories_are_drawn_without_repetition(waves: Store) -> None:
    windows = Windows(waves, 0.1, 16)
    batch = windows.sample(np.random.default_rng(0), windows.n_trajectories, 1)
    assert len(np.unique(batch.coefficients, axis=0)) == windows.n_trajectories


def test_sampling_is_seeded(waves: Store) -> None:
    windows = Windows(waves, 0.1, 16)
    first, second = (windows.sample(np.random.default_rng(9), 4, 2) for _ in range(2))
    assert np.array_equal(first.frames, second.frames)


@pytest.mark.parametrize(
    ("dt", "n", "code"), [(0.07, 16, "dt_mismatch"), (0.0, 16, "dt_mismatch"), (0.1, 24, "resolution_mismatch")]
)
def test_mismatches(waves: Store, dt: float, n: int, code: str) -> None:
    with pytest.raises(UserError) as caught:
        Windows(waves, dt, n)
    assert caught.value.code == code


def test_windows_longer_than_the_trajectories(waves: Store) -> None:
    with pytest.raises(UserError) as caught:
        Windows(waves, 0.5, 16).sample(np.random.default_rng(0), 1, 1, unroll=3)
    assert caught.value.code == "too_few_frames"


def test_an_empty_split(wave: Family, tmp_path: Path) -> None:
    store = build_store(wave, {}, 1, 64, 5, tmp_path / "one")
    with pytest.raises(UserError) as caught:
        Windows(store, 0.1, 16).sample(np.random.default_rng(0), 1, 1)
    assert caught.value.code == "empty_split"


def test_float32_times_give_exact_strides() -> None:
    assert frame_stride(np.arange(201, dtype=np.float32).astype(np.float64) * np.float32(0.01), 0.05) == 5


def test_uneven_times_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        frame_stride(np.array([0.0, 1.0, 3.0]), 1.0)
    assert caught.value.code == "dt_mismatch"


class Stirred(Family):
    """Two components of a vector relax to those of a static one, on a square with walls: all eight symmetries."""

    id = "stirred"
    name = "Stirring"
    equation = "u_t = a (s - u)"
    coefficients = Relaxation.coefficients
    dt = 0.1
    frame_dt = 0.1
    t_final = 0.5
    n = 8
    fields = (Field("u", 0), Field("v", 1))
    static_fields = (Field("s", 0), Field("r", 1))
    extent = ((0.0, 1.0), (0.0, 1.0))
    boundary = BoundaryCondition.uniform(BoundaryKind.NO_FLUX, 2)
    reflections = ((-1, 1), (1, -1))
    static_reflections = ((-1, 1), (1, -1))
    exchange = (1, 0)
    static_exchange = (1, 0)

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return rng.normal(size=(count, *grid.n, 2))

    def sample_static(self, rng: np.random.Generator, count: int, grid: Grid) -> Array | None:
        return rng.normal(size=(count, *grid.n, 2))

    begin = Relaxation.begin


def test_static_fields_are_turned_with_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector that relaxes to a static one goes on doing so however both were mirrored and exchanged."""
    known = {**registry.families(), Stirred.id: Stirred()}
    monkeypatch.setattr(registry, "families", lambda: known)
    store = build_store(Stirred(), {}, 20, 8, 0, tmp_path / "stirred")
    batch = Windows(store, 0.1, 8).sample(np.random.default_rng(0), 16, 2)
    assert batch.static is not None
    left = np.exp(-0.1 * batch.coefficients[:, 0])[:, None, None, None, None]
    expected = batch.frames[:, :, 0] * left + batch.static[:, None] * (1 - left)
    np.testing.assert_allclose(batch.frames[:, :, 1], expected, atol=1e-5)
    starts = {store.view(row)[0].tobytes() for row in range(20)}
    assert sum(context.tobytes() in starts for context in batch.context) < 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path: Path = tmp_path_factory.mktemp("pairs") / "advection"
    return build_store(family("advection"), {"beta": 1.0}, 40, 128, 1, path, frame_dt=0.05, t_final=1.0)


def test_states_are_those_of_their_times(store: Store) -> None:
    """Advection by 1: the state at t + tau is that at t, moved by tau, whatever symmetry was drawn."""
    drawn = LeadTimes(store, 0.5, np.arange(len(store))).draw(np.random.default_rng(0), 16, 128)
    leads = np.diff(drawn.times, axis=1)
    assert (leads > 0).any(axis=1).all()
    assert leads.max() <= 0.5 + 1e-9
    k = 2 * np.pi * np.fft.rfftfreq(128, 1 / 128)
    for states, (first, _) in zip(drawn.states[..., 0], leads, strict=True):
        spectrum = np.fft.rfft(states[0].astype(np.float64))
        spectrum[-1] = 0  # the Nyquist mode has no direction
        moved = [np.fft.irfft(spectrum * np.exp(sign * 1j * k * first)) for sign in (-1, 1)]
        # A reflection turns the direction.
        assert min(np.abs(states[1] - wave).max() for wave in moved) < 0.05


def test_rows_are_of_the_split(store: Store) -> None:
    training = LeadTimes(store, 0.5, split_rows(len(store), Split.TRAIN))
    assert set(training.draw(np.random.default_rng(1), 30, 64).coefficients.ravel()) == {1.0}
    again = training.draw(np.random.default_rng(1), 30, 64)
    np.testing.assert_array_equal(again.states, training.draw(np.random.default_rng(1), 30, 64).states)


def test_cells_are_means_and_strided_points_are_points(store: Store) -> None:
    cells = LeadTimes(store, 0.5, np.arange(len(store))).draw(np.random.default_rng(2), 4, 32, "cells")
    strided = LeadTimes(store, 0.5, np.arange(len(store))).draw(np.random.default_rng(2), 4, 32, "strided")
    assert cells.grid.offset == (0.5,)
    assert strided.grid.offset == (0.125,)
    assert cells.states.shape == strided.states.shape == (4, 3, 32, 1)


def test_averaged() -> None:
    values = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    np.testing.assert_allclose(averaged(values, 2)[..., 0], [[2.5, 4.5], [10.5, 12.5]])
