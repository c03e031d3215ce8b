"""Ensembles: perturbations with the size and the sides they claim; statistics of what became of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rollout.planning import observed, planned, write_card
from ups_server.errors import UserError
from ups_server.pde import families, family
from ups_server.rollout.diagnostics import Diagnosis
from ups_server.rollout.ensemble import PINNED, Ensemble, perturbed, random_functions
from ups_server.rollout.plan import Plan
from ups_server.rollout.reference import reference_spec, states_at
from ups_server.specs import EnsembleSpec


def ensemble_of(tmp_path: Path, members: int = 5, **changes: Any) -> Plan:
    wanted = {"members": members, "seed": 1, "amplitude": 0.1}
    return planned(tmp_path, **{"model": "numerical", "family": "advection", "ensemble": wanted, **changes})


@pytest.mark.parametrize("name", sorted(families()))
def test_perturbations_have_the_asked_size_and_keep_the_mean(name: str) -> None:
    entry = family(name)
    grid = entry.default_grid(48)
    functions = random_functions(np.random.default_rng(0), 3, entry, grid)
    space = tuple(range(1, functions.ndim - 1))
    assert functions.shape == (3, *grid.n, len(entry.fields))
    if not any(side in PINNED for sides in entry.boundary.sides for side in sides):
        np.testing.assert_allclose(functions.mean(space), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.square(functions).mean(space), 1.0)
    state = entry.sample_initial(np.random.default_rng(1), 1, grid).astype(np.float32)
    found = perturbed(state, EnsembleSpec(members=3, amplitude=0.01), entry, grid)
    np.testing.assert_array_equal(found[0], state[0])
    spread, mean = state.std(space, dtype=np.float64)[0], np.abs(state.mean(space, dtype=np.float64))[0]
    size = 0.01 * np.where(spread > 0, spread, mean)
    moved = np.sqrt(np.square(found[1:].astype(np.float64) - state).mean(space))
    np.testing.assert_allclose(moved, np.broadcast_to(size, moved.shape), rtol=0.6, atol=1e-7)


def test_the_same_seed_is_the_same_function_on_every_grid_and_in_larger_ensembles() -> None:
    entry = family("burgers")
    coarse, fine = (random_functions(np.random.default_rng(7), 4, entry, entry.default_grid(n)) for n in (64, 192))
    np.testing.assert_allclose(coarse, fine[:, 1::3], atol=1e-10)
    more = random_functions(np.random.default_rng(7), 6, entry, entry.default_grid(64))
    np.testing.assert_allclose(coarse, more[:4], atol=1e-12)


def test_prescribed_sides_stay_where_they_are() -> None:
    """No slip: nothing at the walls, in proportion to the distance; diffusion-sorption: at its prescribed end alone."""
    entry = family("incompressible_ns_2d")
    functions = random_functions(np.random.default_rng(0), 2, entry, entry.default_grid(256))
    np.testing.assert_allclose(functions[:, 0] * 3, functions[:, 1], atol=0.02)
    entry = family("diffusion_sorption")
    functions = random_functions(np.random.default_rng(0), 8, entry, entry.default_grid(512))
    np.testing.assert_allclose(functions[:, 0] * 3, functions[:, 1], atol=0.01)
    assert np.sqrt(np.square(functions[:, -1]).mean()) > 0.3


def test_positive_fields_stay_positive() -> None:
    entry = family("compressible_ns_1d")
    grid = entry.default_grid(64)
    state = entry.sample_initial(np.random.default_rng(1), 1, grid).astype(np.float32)
    found = perturbed(state, EnsembleSpec(members=8, amplitude=1.0), entry, grid)
    positive = [field.positive for field in entry.fields]
    assert (found[..., positive] > 0).all()


def test_statistics_are_those_of_the_members() -> None:
    rng = np.random.default_rng(0)
    states = rng.standard_normal((6, 9, 2)).astype(np.float32)
    found = Ensemble(EnsembleSpec(members=5, quantiles=(0.5,))).reduce(states)
    np.testing.assert_array_equal(found[0], states[0])
    np.testing.assert_allclose(found[1], states[1:].mean(0), atol=1e-6)
    np.testing.assert_allclose(found[2], states[1:].std(0, ddof=1), atol=1e-6)
    np.testing.assert_allclose(found[3], np.median(states[1:], axis=0), atol=1e-6)


def test_members_are_rows_of_one_rollout_that_the_equation_moves(tmp_path: Path) -> None:
    """Advection moves perturbations and does not change them: the spread travels, its mean square stays."""
    todo = ensemble_of(tmp_path, coefficients={"beta": 1.0}, grid={"n": [64]}, n_steps=5)
    assert todo.initial.shape == (6, 64, 1)
    assert todo.shape == (6, 6, 64, 1)
    answer = np.stack([todo.answer_values(values) for values in observed(todo)[0]], axis=1)
    spread = answer[2]
    np.testing.assert_allclose(np.square(spread).mean((1, 2)), np.square(spread[0]).mean(), rtol=2e-3)
    # Five steps of 0.05 at speed 1 are 16 of 64 cells.
    np.testing.assert_allclose(spread[5], np.roll(spread[0], 16, axis=0), atol=2e-3 * spread.max())


def test_what_is_said_beside_it_is_about_the_control(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = ensemble_of(tmp_path, model="small", family="burgers", reference=True)
    diagnosis = Diagnosis(todo)
    step = diagnosis.add(todo.initial)
    assert step["energy"]["u"] == pytest.approx(float(np.square(todo.initial[0]).mean()), rel=1e-5)
    assert states_at(todo, 1)[0].shape == (1, 32, 1)
    assert reference_spec(todo).n_steps == 3
    assert todo.attributes([])["ensemble"]["statistics"][:3] == ["control", "mean", "spread"]


def test_it_can_be_on_a_finer_grid(tmp_path: Path) -> None:
    for method in ("resolution-free", "interpolation"):
        todo = ensemble_of(
            tmp_path, model="persistence", grid={"n": [32]}, output_resolution=[80], method=method, reference=True
        )
        assert todo.answer_values(todo.initial).shape == (6, 80, 1)
        assert states_at(todo, 1)[0].shape == (1, 80, 1)


def test_one_state_and_a_bounded_size(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        ensemble_of(tmp_path, initial_condition={"sample": {"count": 2}})
    assert caught.value.code == "wrong_shape"
    with pytest.raises(UserError) as caught:
        ensemble_of(tmp_path, members=200, grid={"n": [2**12]}, n_steps=100)
    assert caught.value.code == "too_many_points"
