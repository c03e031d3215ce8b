"""Triples of states: of the times they say, turned alike, at the points they say."""

from pathlib import Path

import numpy as np
import pytest

from ups_server.data.simulate import build_store
from ups_server.data.splits import Split
from ups_server.data.store import Store
from ups_server.data.windows import LeadTimes, averaged
from ups_server.pde import family


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path: Path = tmp_path_factory.mktemp("pairs") / "advection"
    return build_store(family("advection"), {"beta": 1.0}, 40, 128, 1, path, frame_dt=0.05, t_final=1.0)


def test_states_are_those_of_their_times(store: Store) -> None:
    """Advection by 1: the state at t + tau is that at t, moved by tau, whatever symmetry was drawn."""
    drawn = LeadTimes(store, 0.05, 0.5).draw(np.random.default_rng(0), 16, 128)
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
    training = LeadTimes(store, 0.05, 0.5, Split.TRAIN)
    assert set(training.draw(np.random.default_rng(1), 30, 64).coefficients.ravel()) == {1.0}
    again = training.draw(np.random.default_rng(1), 30, 64)
    np.testing.assert_array_equal(again.states, training.draw(np.random.default_rng(1), 30, 64).states)


def test_cells_are_means_and_strided_points_are_points(store: Store) -> None:
    cells = LeadTimes(store, 0.05, 0.5).draw(np.random.default_rng(2), 4, 32, "cells")
    strided = LeadTimes(store, 0.05, 0.5).draw(np.random.default_rng(2), 4, 32, "strided")
    assert cells.grid.offset == (0.5,)
    assert strided.grid.offset == (0.125,)
    assert cells.states.shape == strided.states.shape == (4, 3, 32, 1)


def test_averaged() -> None:
    values = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    np.testing.assert_allclose(averaged(values, 2)[..., 0], [[2.5, 4.5], [10.5, 12.5]])
