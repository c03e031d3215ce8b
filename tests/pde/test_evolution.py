"""Evolution equations against exact solutions, each term by itself and in combination."""

import numpy as np
import pytest

from ups_server.errors import UserError
from ups_server.pde import Grid, family
from ups_server.pde import evolution as solver
from ups_server.pde.equation import TERMS, Equation
from ups_server.pde.evolution import evolution_solution, solve_evolution
from ups_server.pde.families.evolution_1d import sample_states
from ups_server.pde.grid import Array

X = (np.arange(128) + 0.5) / 128
TIMES = np.array([0.0, 0.05, 0.3, 1.0])


def solve(initial: Array, times: Array = TIMES, length: float = 1.0, **coefficients: float) -> Array:
    """(T, X) of one equation."""
    given = {name: np.array([value]) for name, value in coefficients.items()}
    solution: Array = solve_evolution(initial[None], times, length, given)[0]
    return solution


def wave(periods: int, shift: float = 0.0, decay: float = 1.0) -> Array:
    result: Array = decay * np.sin(2.0 * np.pi * periods * (X - shift))
    return result


@pytest.mark.parametrize("periods", [1, 5, 20])
def test_every_linear_term_moves_or_damps_a_wave_as_it_should(periods: int) -> None:
    k = 2.0 * np.pi * periods
    for time in TIMES[1:]:
        exact = {
            ("transport", -0.7): wave(periods, 0.7 * time),
            ("diffusion", 0.01): wave(periods, decay=np.exp(-0.01 * k**2 * time)),
            # omega = d k^3 in exp(i (k x - omega t)), from u_t = d u_xxx
            ("dispersion", 1e-4): wave(periods, 1e-4 * k**2 * time),
            ("biharmonic", -1e-6): wave(periods, decay=np.exp(-1e-6 * k**4 * time)),
            ("growth", 1.5): wave(periods, decay=np.exp(1.5 * time)),
            ("decay", -1.5): wave(periods, decay=np.exp(-1.5 * time)),
        }
        for (name, value), expected in exact.items():
            found = solve_evolution(wave(periods)[None], np.array([0.0, time]), 1.0, {name: np.array([value])})[0, 1]
            np.testing.assert_allclose(found, expected, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("name", "rate", "exact"),
    [
        ("logistic", 2.0, lambda t: 0.3 * np.exp(2 * t) / (1 + 0.3 * (np.exp(2 * t) - 1))),
        ("bistable", 2.0, lambda t: 0.3 * np.exp(2 * t) / np.sqrt(1 + 0.09 * (np.exp(4 * t) - 1))),
        ("quadratic", 2.0, lambda t: 0.3 / (1 - 0.6 * t)),
        ("cubic", -2.0, lambda t: 0.3 / np.sqrt(1 + 0.36 * t)),
    ],
)
def test_every_reaction_follows_its_own_curve(name: str, rate: float, exact: object) -> None:
    assert callable(exact)
    solution = solve(np.full(128, 0.3), TIMES, 1.0, **{name: rate})
    np.testing.assert_allclose(solution, np.repeat(exact(TIMES)[:, None], 128, axis=1), rtol=1e-5)


def test_a_fixed_source_against_diffusion() -> None:
    k, nu = 4.0 * np.pi, 0.02
    given = {"diffusion": np.array([nu]), "forcing": np.array([3.0])}
    solution = solve_evolution(np.zeros((1, 128)), TIMES, 1.0, given, np.sin(k * X)[None])[0]
    amplitude = 3.0 * -np.expm1(-nu * k**2 * TIMES) / (nu * k**2)
    np.testing.assert_allclose(solution, amplitude[:, None] * np.sin(k * X), atol=1e-12)


def test_the_travelling_wave_of_burgers() -> None:
    nu, time = 0.004, 0.2

    def front(x: Array, centre: float) -> Array:
        return 0.5 * (1.0 - np.tanh((x - centre) / (4.0 * nu)))

    start = front(X, 0.5) * 0.5 * (1.0 + np.tanh((X - 0.15) / 0.01))
    found = solve(start, np.array([0.0, time]), self_advection=-1.0, diffusion=nu)[1]
    seen = (X > 0.5) & (X < 0.9)  # before it comes the fan that the rise at 0.15 opens
    np.testing.assert_allclose(found[seen], front(X, 0.5 + 0.5 * time)[seen], atol=1e-4)


def test_the_soliton_of_korteweg_and_de_vries() -> None:
    speed, dispersion = 0.5, 1e-4
    shape = np.sqrt(speed / dispersion) / 2.0

    def soliton(time: float) -> Array:
        away = (X - 0.5 - speed * time + 0.5) % 1.0 - 0.5
        result: Array = 3.0 * speed / np.cosh(shape * away) ** 2
        return result

    solution = solve(soliton(0.0), self_advection=-1.0, dispersion=-dispersion)
    np.testing.assert_allclose(solution, np.stack([soliton(time) for time in TIMES]), atol=2e-4)


def test_the_exact_front_of_fisher_kpp() -> None:
    rate, nu, time = 5.0, 1e-4, 1.0
    speed = 5.0 / np.sqrt(6.0) * np.sqrt(rate * nu)

    def front(centre: float) -> Array:
        z = (X - centre) * np.sqrt(rate / nu)
        result: Array = 1.0 / (1.0 + np.exp(z / np.sqrt(6.0))) ** 2
        return result

    rise = front(0.5)[::-1]
    start = np.where(X < 0.35, np.interp(X, X + 0.25 - 0.5, rise), front(0.6))
    found = solve(start, np.array([0.0, time]), logistic=rate, diffusion=nu)[1]
    seen = X > 0.5
    np.testing.assert_allclose(found[seen], front(0.6 + speed * time)[seen], atol=2e-3)


def test_a_steep_front_of_fisher_kpp_goes_at_its_least_speed() -> None:
    rate, nu = 5.0, 2e-4
    times = np.linspace(0.0, 3.0, 31)
    start = 0.5 * (1.0 - np.tanh((np.abs(X - 0.5) - 0.05) / 0.01))
    solution = solve(start, times, logistic=rate, diffusion=nu)
    right = np.array([0.5 + (state[64:] > 0.5).sum() / 128 for state in solution])
    measured = np.polyfit(times[15:], right[15:], 1)[0]
    # Bramson: 2 sqrt(r nu) - 3/2 sqrt(nu / r) / t, here between t = 1.5 and 3
    expected = 2.0 * np.sqrt(rate * nu) - 1.5 * np.sqrt(nu / rate) / 2.25
    assert measured == pytest.approx(expected, rel=0.06)


def test_the_layers_of_allen_and_cahn_stand_still() -> None:
    rate, nu = 5.0, 1e-3
    width = np.sqrt(2.0 * nu / rate)
    away = np.abs((X - 0.5 + 0.5) % 1.0 - 0.5)
    start = -np.tanh((away - 0.25) / width)
    solution = solve(start, bistable=rate, diffusion=nu)
    np.testing.assert_allclose(solution, np.repeat(start[None], len(TIMES), axis=0), atol=1e-4)
    # What is between the layers falls into the nearer of both states.
    later = solve(0.2 * wave(1), np.array([0.0, 3.0]), bistable=rate, diffusion=nu)[1]
    assert np.abs(np.abs(later[np.abs(wave(1)) > 0.7]) - 1.0).max() < 0.01


@pytest.mark.slow
def test_statistics_of_kuramoto_and_sivashinsky() -> None:
    length, points = 32.0 * np.pi, 128
    x = length * (np.arange(points) + 0.5) / points
    state = np.cos(x / 16.0) * (1.0 + np.sin(x / 16.0))
    kept: list[Array] = []
    for interval in range(60):
        state = solve(state, np.array([0.0, 5.0]), length, self_advection=-1.0, diffusion=-1.0, biharmonic=-1.0)[1]
        if interval >= 20:
            kept.append(state)
    states = np.stack(kept)
    power = (np.abs(np.fft.rfft(states, axis=1, norm="forward")) ** 2).mean(axis=0)
    k = 2.0 * np.pi / length * np.arange(points // 2 + 1)
    # On the attractor production and dissipation balance: <u_x^2> = <u_xx^2>.
    assert (k**2 * power).sum() == pytest.approx((k**4 * power).sum(), rel=0.05)
    assert np.sqrt((states**2).mean()) == pytest.approx(1.3, abs=0.15)
    assert 0.55 < k[power.argmax()] < 0.95
    np.testing.assert_allclose(states.mean(axis=1), states.mean(), atol=1e-9)


def test_order_of_convergence() -> None:
    given = {"self_advection": np.array([-1.0]), "diffusion": np.array([0.05]), "cubic": np.array([-2.0])}
    problem = solver._Problems.of(wave(1)[None], 1.0, given, None)

    def run(points: int, subdivision: int) -> Array:
        return problem.start(points).go(problem, np.arange(1), 0.2, points, subdivision)

    exact = run(256, 16)
    errors = [np.abs(run(256, subdivision) - exact).max() for subdivision in (1, 2)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.5)
    # In space the error falls faster than any power: the spectrum of a viscous wave ends.
    gap = np.abs(run(512, 16) - exact).max()
    assert gap < 1e-8


def test_a_batch_of_different_equations_is_its_trajectories() -> None:
    equations = [
        {"transport": -1.0},
        {"self_advection": -0.3, "diffusion": 0.01},
        {"bistable": 5.0, "diffusion": 0.002},
        {"self_advection": 0.5, "dispersion": -1e-4, "diffusion": 5e-3, "decay": -1.0},
    ]
    names = {name for equation in equations for name in equation}
    together = {name: np.array([equation.get(name, 0.0) for equation in equations]) for name in names}
    initial = sample_states(np.random.default_rng(3), 4, Grid((128,), ((0.0, 1.0),)))
    solution = solve_evolution(initial, TIMES[:3], 1.0, together)
    for row, equation in enumerate(equations):
        np.testing.assert_allclose(solution[row], solve(initial[row], TIMES[:3], **equation), atol=2e-4)


def test_stepped_resumed_and_in_one_go_are_the_same() -> None:
    """Among them one that a finer resolution takes over on the way, as its front steepens."""
    given = {"self_advection": np.array([-0.3, -1.0, 0.0]), "diffusion": np.array([0.02, 0.002, 0.01])}
    given["bistable"] = np.array([0.0, 0.0, 5.0])
    initial = np.stack([wave(1)] * 3)
    whole, again, direct = (evolution_solution(initial, 1.0, given) for _ in range(3))
    for elapsed in (0.05, 0.1):
        whole.advance(elapsed)
    again.restore(0.1, whole.saved())
    for elapsed in (0.2, 0.4):
        states = whole.advance(elapsed)
        np.testing.assert_array_equal(again.advance(elapsed), states)
    np.testing.assert_allclose(direct.advance(0.4), states, atol=2e-4)
    assert len(np.unique(whole.saved()[:, 0])) > 1, "one of them is finer"


def test_what_blows_up_in_finite_time_ends_there() -> None:
    solution = solve(np.full(128, 1.0) + 0.1 * wave(1), np.linspace(0.0, 1.0, 11), quadratic=2.0)
    finite = np.isfinite(solution).all(axis=1)
    # The largest value, 1.1, reaches infinity at 1 / (2 x 1.1).
    np.testing.assert_array_equal(finite, np.linspace(0.0, 1.0, 11) < 1 / 2.2)


def test_what_no_resolution_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "MAX_POINTS", 512)
    monkeypatch.setattr(solver, "DOUBLINGS", 2)
    with pytest.raises(UserError) as caught:
        solve(wave(1), np.array([0.0, 0.5]), self_advection=-1.0)
    assert caught.value.code == "not_resolved"


@pytest.mark.parametrize(
    ("coefficients", "well"),
    [
        ({"diffusion": -0.01}, False),
        ({"diffusion": -0.01, "biharmonic": 1e-6}, False),
        ({"biharmonic": 1e-6, "diffusion": 0.01}, False),
        ({"diffusion": -0.01, "biharmonic": -1e-6}, True),
        ({"dispersion": 1e-4, "self_advection": 1.0}, True),
        ({}, True),
    ],
)
def test_the_highest_even_order_has_to_damp(coefficients: dict[str, float], well: bool) -> None:
    equation = Equation.of(coefficients)
    entry = family("evolution_1d")
    chosen = {name: np.full(1, coefficients.get(name, 0.0)) for name in TERMS}
    if well:
        equation.check()
        assert np.isfinite(entry.solve(wave(1)[None, :, None], TIMES[:2], entry.default_grid(128), chosen)).all()
        return
    for refused in (
        equation.check,
        lambda: entry.complete(coefficients),
        lambda: entry.solve(wave(1)[None, :, None], TIMES, entry.default_grid(128), chosen),
    ):
        with pytest.raises(UserError) as caught:
            refused()
        assert caught.value.code == "ill_posed"


def test_the_canonical_form_writes_reactions_in_one_way() -> None:
    for coefficients, names in (
        ({"growth": 2.0, "quadratic": -2.0}, ("logistic",)),
        ({"growth": 2.0, "cubic": -2.0}, ("bistable",)),
        ({"logistic": 2.0, "decay": -0.5}, ("growth", "quadratic")),
        ({"logistic": 2.0, "decay": -2.0}, ("quadratic",)),
        ({"growth": 1.0, "decay": -3.0}, ("decay",)),
        ({"quadratic": -2.0, "diffusion": 0.1, "transport": -1.0}, ("transport", "diffusion", "quadratic")),
    ):
        assert Equation.of(coefficients).names == names
    assert str(Equation.of({"growth": 3.0, "quadratic": -3.0, "self_advection": -1.0})) == "u_t = -u*u_x + 3*u*(1 - u)"
    assert str(Equation.of({})) == "u_t = 0"


def test_a_longer_box_is_rescaled_into_the_coefficients() -> None:
    equation = Equation.of({"self_advection": -1.0, "dispersion": -1.0, "diffusion": 0.5, "logistic": 2.0})
    unit = equation.on_unit_box(40.0)
    assert dict(unit.coefficients) == pytest.approx(
        {"self_advection": -1 / 40, "dispersion": -1 / 40**3, "diffusion": 0.5 / 40**2, "logistic": 2.0}
    )
    start, times = wave(1) ** 2, np.array([0.0, 0.5])
    there = solve(start, times, 40.0, **dict(equation.coefficients))
    np.testing.assert_allclose(solve(start, times, **dict(unit.coefficients)), there, atol=1e-9)


def test_states_are_of_order_one_smooth_at_the_seam_and_positive_where_the_reaction_is_logistic() -> None:
    entry = family("evolution_1d")
    grid = entry.default_grid(512)
    states = entry.sample_initial(np.random.default_rng(0), 200, grid)
    assert np.abs(states).max() < 3.5
    assert np.median(np.abs(states).max(axis=1)) > 0.4
    jumps = np.abs(np.diff(states[..., 0], axis=1, append=states[:, :1, 0]))
    assert jumps[:, -1].max() <= jumps.max()
    np.testing.assert_array_equal(states[:5], entry.sample_initial(np.random.default_rng(0), 5, grid))
    chosen = {name: np.zeros(200) for name in TERMS}
    np.testing.assert_array_equal(entry.fit_initial(states, chosen), states)
    fitted = entry.fit_initial(states, {**chosen, "logistic": np.full(200, 2.0)})
    assert fitted.min() >= 0.0
    assert fitted.max() <= 1.5


def test_linear_symbols() -> None:
    k = np.array([0.0, 2.0, -3.0])
    np.testing.assert_allclose(TERMS["transport"].linear_symbol(k), 1j * k)
    np.testing.assert_allclose(TERMS["dispersion"].linear_symbol(k), -1j * k**3)
    np.testing.assert_allclose(TERMS["biharmonic"].linear_symbol(k), k**4)
    np.testing.assert_allclose(TERMS["logistic"].linear_symbol(k), np.ones(3))
    np.testing.assert_allclose(TERMS["self_advection"].linear_symbol(k), np.zeros(3))
    assert [term.order for term in TERMS.values()] == [1, 1, 2, 3, 4, *(0,) * 7]
