"""What every family promises."""

from pathlib import Path

import numpy as np
import pytest

from ups_server.errors import UserError
from ups_server.pde import Family, families, family
from ups_server.pde.family import MOST_NAMED
from ups_server.pde.grid import Array

ALL = pytest.mark.parametrize("entry", families().values(), ids=families())


def defaults(entry: Family, count: int) -> dict[str, Array]:
    return {name: np.full(count, value) for name, value in entry.complete(None).items()}


def start(entry: Family, seed: int, count: int, n: int) -> Array:
    return entry.sample_initial(np.random.default_rng(seed), count, entry.default_grid(n))


def fixed(entry: Family, seed: int, count: int, n: int) -> Array | None:
    return entry.sample_static(np.random.default_rng(seed), count, entry.default_grid(n))


@ALL
def test_the_description_is_complete(entry: Family) -> None:
    assert family(entry.id) is entry
    assert len({field.slot for field in entry.fields}) == len(entry.fields)
    assert len(entry.boundary.sides) == entry.ndim
    assert all(len(signs) == len(entry.fields) for signs in entry.reflections)
    assert all(len(signs) == len(entry.static_fields) for signs in entry.static_reflections)
    assert sorted(entry.exchange) in ([], list(range(len(entry.fields))))
    assert sorted(entry.static_exchange) == (list(range(len(entry.static_fields))) if entry.exchange else [])
    assert set(entry.conserved) <= {field.name for field in entry.fields}
    assert (entry.dt / entry.frame_dt) % 1.0 == pytest.approx(0.0, abs=1e-9)
    assert entry.frame_times()[-1] == pytest.approx(entry.t_final)


@ALL
def test_sampled_states_are_reproducible(entry: Family) -> None:
    n = entry.default_grid(64).n
    states = start(entry, 7, 3, 64)
    assert states.shape == (3, *n, len(entry.fields))
    assert states.dtype == np.float64
    np.testing.assert_array_equal(states, start(entry, 7, 3, 64))
    # A steady family is its static fields: all its initial states are the same.
    assert np.array_equal(states, start(entry, 8, 3, 64)) == (entry.t_final == 0.0)


@pytest.mark.parametrize("name", ["burgers", "compressible_ns_1d", "compressible_ns_2d"])
def test_sampled_averages_are_means_over_cells(name: str) -> None:
    entry = family(name)
    grid = entry.default_grid(32)
    fine = start(entry, 3, 4, 256).reshape(4, *(32, 8) * entry.ndim, -1)
    expected = fine.mean(axis=tuple(range(2, fine.ndim, 2)))
    averages = entry.sample_averages(np.random.default_rng(3), 4, grid, parts=8)
    np.testing.assert_allclose(averages, expected, atol=1e-12 * np.abs(expected).max())


KINDS = [(entry, kind.name) for entry in families().values() for kind in entry.kinds]


@pytest.mark.parametrize(("entry", "kind"), KINDS, ids=lambda value: getattr(value, "id", value))
def test_further_kinds_are_reproducible_and_solved(entry: Family, kind: str) -> None:
    """The first states of a larger count are those of a smaller one, and all are ones that the solver takes."""
    found = next(known for known in entry.kinds if known.name == kind)
    equation, grid = entry.under(found.boundaries[0]), entry.default_grid(32)
    few, many = (
        equation.draw_initial(np.random.default_rng(7), count, grid, defaults(entry, count), kind) for count in (2, 5)
    )
    assert many.shape == (5, *grid.n, len(entry.fields))
    np.testing.assert_array_equal(few, many[:2])
    assert len({state.tobytes() for state in many}) == 5
    assert not np.array_equal(many, start(entry, 7, 5, 32))
    static = equation.draw_static(np.random.default_rng(8), 2, grid, kind)
    assert (static is None) == (not entry.static_fields)
    if static is not None:
        longer = equation.draw_static(np.random.default_rng(8), 5, grid, kind)
        assert longer is not None
        np.testing.assert_array_equal(static, longer[:2])
    positive = np.array([field.positive for field in entry.fields])
    solution = equation.begin(few, grid, defaults(entry, 2), static).advance(entry.frame_dt)
    assert np.isfinite(solution).all()
    assert (solution[..., positive] >= 0.0).all()


@ALL
def test_sampled_static_fields_are_reproducible(entry: Family) -> None:
    static, again, other = (fixed(entry, seed, 3, 64) for seed in (7, 7, 8))
    assert (static is None) == (not entry.static_fields)
    if static is not None and again is not None and other is not None:
        assert static.shape == (3, *entry.default_grid(64).n, len(entry.static_fields))
        np.testing.assert_array_equal(static, again)
        assert not np.array_equal(static, other)
        assert all((static[..., i] > 0.0).all() for i, field in enumerate(entry.static_fields) if field.positive)


@ALL
def test_a_batch_is_its_trajectories(entry: Family) -> None:
    n, times = 64, np.unique([0.0, entry.frame_dt, entry.dt])
    initial, static, grid = start(entry, 0, 5, n), fixed(entry, 1, 5, n), entry.default_grid(n)
    coefficients = {name: value * np.linspace(1.0, 3.0, 5) for name, value in defaults(entry, 5).items()}
    together = entry.solve(initial, times, grid, coefficients, static)
    assert together.shape == (5, len(times), *initial.shape[1:])
    if entry.t_final:
        np.testing.assert_array_equal(together[:, 0], initial)
    for row in range(5):
        one = slice(row, row + 1)
        given = {name: values[one] for name, values in coefficients.items()}
        alone = entry.solve(initial[one], times, grid, given, None if static is None else static[one])
        np.testing.assert_allclose(alone[0], together[row], atol=2e-5)


@ALL
def test_any_increasing_times_will_do(entry: Family) -> None:
    initial, static, grid, chosen = (
        start(entry, 1, 2, 64),
        fixed(entry, 2, 2, 64),
        entry.default_grid(64),
        defaults(entry, 2),
    )
    times = entry.dt * np.array([1.0, 1.3, 2.7, 3.0])
    whole = entry.solve(initial, times, grid, chosen, static)
    scale = np.maximum(1.0, np.abs(whole).max(axis=tuple(range(whole.ndim - 1))))
    again = entry.solve(initial, times[[0, 3]], grid, chosen, static)[:, 1]
    # Steps are fitted to the frames.
    np.testing.assert_allclose(again / scale, whole[:, 3] / scale, atol=2e-4)
    first = entry.solve(initial, times[:1], grid, chosen, static)[:, 0]
    np.testing.assert_array_equal(first, initial if entry.t_final else whole[:, 0])


@ALL
def test_conserved_fields_are(entry: Family) -> None:
    # A coarse subsample of a shock does not show its mass.
    n, count = (2 * entry.n, 4) if entry.ndim == 1 else (64, 2)
    initial, grid = start(entry, 2, count, n), entry.default_grid(n)
    times, static = np.array([0.0, entry.dt, 3.0 * entry.dt]), fixed(entry, 3, count, n)
    solution = entry.solve(initial, times, grid, defaults(entry, count), static)
    total = solution.mean(axis=tuple(range(2, solution.ndim - 1)))
    for index, field in enumerate(entry.fields):
        if field.name in entry.conserved:
            np.testing.assert_allclose(total[..., index], total[:, :1, index].repeat(3, axis=1), atol=1e-10)


@ALL
def test_coefficients_are_completed_and_checked(entry: Family) -> None:
    with pytest.raises(UserError) as caught:
        entry.complete({"no such thing": 1.0})
    assert caught.value.code == "unknown_coefficient"
    for coefficient in entry.coefficients:
        for spelling in (coefficient.symbol, *coefficient.aliases, coefficient.name.upper()):
            assert entry.complete({spelling: coefficient.default})[coefficient.name] == coefficient.default
            if spelling != coefficient.name:
                with pytest.raises(UserError) as caught:
                    entry.complete({coefficient.name: coefficient.default, spelling: coefficient.default})
                assert caught.value.code == "coefficient_given_twice"
        with pytest.raises(UserError) as caught:
            entry.complete({coefficient.name: float("nan")})
        assert caught.value.code == "coefficient_out_of_domain"
    text = entry.metadata_text(entry.complete(None))
    assert text.startswith(entry.name)
    many = len(entry.coefficients) > MOST_NAMED  # then those that are zero are left out
    assert all(f"{c.symbol}={c.default:g}" in text for c in entry.coefficients if c.default or not many)


def test_metadata_reads_as_in_the_paper() -> None:
    assert family("burgers").metadata_text({"nu": 0.001}) == "1D Burgers' Equation Nu=0.001"


def test_advection_and_burgers_share_their_initial_states() -> None:
    np.testing.assert_array_equal(start(family("advection"), 3, 4, 128), start(family("burgers"), 3, 4, 128))


def test_families_is_the_function_whatever_was_imported() -> None:
    import ups_server.pde.families.burgers

    assert callable(families)
    assert ups_server.pde.families is families


def test_unknown_families_are_the_users_mistake() -> None:
    with pytest.raises(UserError) as caught:
        family("heat")
    assert caught.value.code == "unknown_family"


FILES = {
    "1D_Advection_Sols_beta0.4.hdf5": ("advection", {"beta": 0.4}, 0.005),
    "1D_Burgers_Sols_Nu0.001.hdf5": ("burgers", {"nu": 0.001}, 0.002),
    "ReacDiff_Nu0.5_Rho1.0_nx256.hdf5": ("diffusion_reaction_1d", {"nu": 0.5, "rho": 1.0}, 0.0005),
    "1D_diff-sorp_NA_NA.h5": ("diffusion_sorption", {}, 0.002),
}


@pytest.mark.parametrize("name", FILES)
def test_solutions_agree_with_pdebench(name: str, pdebench: Path) -> None:
    import h5py

    family_id, coefficients, bar = FILES[name]
    entry = family(family_id)
    with h5py.File(pdebench / name, "r") as file:
        grouped = [file[group]["data"][:] for group in file if group.isdigit()]
        truth = np.stack(grouped) if grouped else file["tensor"][:][..., None]
    truth = truth[:2].astype(np.float64)
    grid = entry.default_grid(truth.shape[2])
    chosen = {key: np.full(len(truth), value) for key, value in coefficients.items()}
    ours = entry.solve(truth[:, 0], entry.frame_times(), grid, chosen)
    error = np.linalg.norm((ours - truth).reshape(len(truth), -1), axis=1)
    assert (error < bar * np.linalg.norm(truth.reshape(len(truth), -1), axis=1)).all()


EXCHANGED = pytest.mark.parametrize(
    "entry", [entry for entry in families().values() if entry.exchange], ids=lambda entry: entry.id
)


def solved(entry: Family, initial: Array, static: Array | None) -> Array:
    times, grid = np.array([0.0, 2 * entry.frame_dt]), entry.default_grid(initial.shape[1])
    return entry.solve(initial, times, grid, defaults(entry, len(initial)), static)[:, 1]


@EXCHANGED
def test_the_exchange_of_axes_commutes_with_the_solver(entry: Family) -> None:
    initial, static = start(entry, 4, 1, 24), fixed(entry, 5, 1, 24)
    turned = initial.swapaxes(1, 2)[..., list(entry.exchange)]
    turned_static = None if static is None else static.swapaxes(1, 2)[..., list(entry.static_exchange)]
    expected = solved(entry, initial, static).swapaxes(1, 2)[..., list(entry.exchange)]
    np.testing.assert_allclose(solved(entry, turned, turned_static), expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("axis", [0, 1])
@EXCHANGED
def test_reflections_of_the_plane_commute_with_the_solver(entry: Family, axis: int) -> None:
    initial, static = start(entry, 4, 1, 24), fixed(entry, 5, 1, 24)
    signs = np.array(entry.reflections[axis], np.float64)
    mirrored_static = None
    if static is not None:
        mirrored_static = np.flip(static, 1 + axis) * np.array(entry.static_reflections[axis], np.float64)
    expected = np.flip(solved(entry, initial, static), 1 + axis) * signs
    mirrored = solved(entry, np.flip(initial, 1 + axis) * signs, mirrored_static)
    np.testing.assert_allclose(mirrored, expected, atol=1e-6 * np.abs(expected).max())
