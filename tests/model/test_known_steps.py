"""What the operator of lead times starts from: exact for small disturbances, of second order, never without limit."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ups_server.model import flow_steps as known_flow
from ups_server.model import gas_steps as known
from ups_server.model.flow_steps import LEVEL, Axis, FlowStep, flow_steps, splined
from ups_server.model.gas_steps import exponential, gas_steps
from ups_server.model.wave_steps import wave_steps
from ups_server.pde import Grid, family
from ups_server.pde.equation import TERMS
from ups_server.pde.gas import GAMMA
from ups_server.pde.incompressible import to_faces

FLOAT = torch.float64


def smooth(points: int, ndim: int, size: float, batch: int = 1) -> Tensor:
    """(B, d + 2, X...): a few waves in every field."""
    generator = torch.Generator().manual_seed(4)
    x = (torch.arange(points, dtype=FLOAT) + 0.5) / points * 2 * torch.pi
    grids = torch.meshgrid(*[x] * ndim, indexing="ij")
    rows = torch.zeros(batch, ndim + 2, *[points] * ndim, dtype=FLOAT)
    for b in range(batch):
        for field in range(ndim + 2):
            for _ in range(3):
                numbers = torch.randint(-2, 3, (ndim,), generator=generator)
                phase = 6.28 * torch.rand(1, generator=generator, dtype=FLOAT)
                rows[b, field] += torch.cos(sum(k * g for k, g in zip(numbers, grids, strict=True)) + phase)
    return size * rows


def column(value: float, count: int = 1) -> Tensor:
    return torch.full((count,), value, dtype=FLOAT)


@pytest.mark.parametrize(("ndim", "points"), [(1, 128), (2, 48)])
def test_steps_follow_sound_where_its_speed_varies(ndim: int, points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gas at rest whose pressure varies tenfold, against steps that are far shorter."""
    own = smooth(points, ndim, 0.3).float()
    own[:, :ndim], own[:, -1] = 0, 2 * own[:, -1]
    viscosity = torch.full((1,), 3e-3)
    given = own, torch.full((1,), 0.3), viscosity, viscosity, torch.ones(1, ndim)
    found = gas_steps(*given)
    monkeypatch.setattr(known, "LONGEST", 1e-3)
    monkeypatch.setitem(known.FINEST, ndim, 10)
    fine = gas_steps(*given)
    error = (found - fine)[:, :ndim].norm() / fine[:, :ndim].norm()
    assert error < 0.03


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_a_sound_wave_turns_and_decays_as_it_must(shift: float) -> None:
    """Along one axis, with friction: v = a exp(-D s / 2) (...), against the exact exponential of the 2 x 2 system."""
    n, k, time, along = 32, 2 * np.pi * 3, 0.27, 0.02 + 4 / 3 * 0.01
    x = (np.arange(n) + 0.5) / n
    size = 1e-4
    own = np.zeros((1, 3, n))
    own[0, 0], own[0, 2] = size * np.sin(k * x) + shift, size * np.cos(k * x) * 0.4
    found = gas_steps(torch.from_numpy(own), column(time), column(0.01), column(0.02), torch.ones(1, 1, dtype=FLOAT))
    from scipy.linalg import expm

    # v = A sin(k (x - shift s)), P = B cos(...): A' = k B / gamma - along k^2 A, B' = -gamma k A.
    a, b = expm(time * np.array([[-along * k**2, k / GAMMA], [-GAMMA * k, 0.0]])) @ [size, 0.4 * size]
    moved = x - shift * time
    np.testing.assert_allclose(found[0, 0], a * np.sin(k * moved) + shift, atol=2e-3 * size)
    np.testing.assert_allclose(found[0, 2], b * np.cos(k * moved), atol=2e-3 * size)
    np.testing.assert_allclose(found[0, 1], (b - 0.4 * size) / GAMMA * np.cos(k * moved), atol=2e-3 * size)


@pytest.mark.parametrize("ndim", [1, 2])
def test_the_steps_approach_the_solver_at_second_order(ndim: int) -> None:
    id_, n = f"compressible_ns_{ndim}d", 64
    gas, size = family(id_), 2.0 if ndim == 1 else 1.0
    grid = Grid((n,) * ndim, ((0.0, size),) * ndim)
    own = smooth(n, ndim, 0.03)
    density, pressure = 1.5, 4.0
    speed = (GAMMA * pressure / density) ** 0.5
    state = torch.cat([own[:, :ndim] * speed, density * own[:, -2:-1].exp(), pressure * own[:, -1:].exp()], 1)
    numbers = {"eta": np.array([0.02]), "zeta": np.array([0.02])} | ({"M": np.array([0.1])} if ndim == 2 else {})
    time = 0.15 / speed
    solved = gas.solve(state.movedim(1, -1).numpy(), np.array([0.0, time]), grid, numbers)[0, 1]
    levels = state[:, -2:].flatten(2).mean(2)
    own = torch.cat([own[:, :ndim], (state[:, -2:] / levels.reshape(1, 2, *[1] * ndim)).log()], 1)
    speed = float((GAMMA * levels[0, 1] / levels[0, 0]) ** 0.5)
    own[:, :ndim] *= (GAMMA * pressure / density) ** 0.5 / speed
    lengths = torch.full((1, ndim), size, dtype=FLOAT)

    def after(pieces: int) -> Tensor:
        u = own
        for _ in range(pieces):
            u = gas_steps(u, column(time * speed / pieces), column(0.02 / speed), column(0.02 / speed), lengths)
        return u

    once, twice, often = after(1), after(16), after(64)
    # Halving the step divides the error by four.
    assert (twice - after(32)).norm() / (after(32) - often).norm() > 2.8
    truth = torch.from_numpy(solved).movedim(-1, 0)
    physical = torch.cat([often[0, :ndim] * speed, often[0, -2:].exp() * levels[0].reshape(2, *[1] * ndim)])
    change = (truth - state[0]).flatten(1).norm(dim=1)
    assert ((physical - truth).flatten(1).norm(dim=1) / change).max() < 0.02
    assert ((once - often).flatten(2).norm(dim=2) / (own - often).flatten(2).norm(dim=2)).max() < 0.2


def test_a_violent_gas_stays_finite_and_a_bad_row_is_alone() -> None:
    own = smooth(32, 2, 0.1, batch=4)
    own[1] = 1.5 * torch.randn(4, 32, 32, dtype=FLOAT, generator=torch.Generator().manual_seed(0))
    numbers = column(0.01, 4), torch.ones(4, 2, dtype=FLOAT)
    time = torch.tensor([0.1, 0.5, 0.2, 0.05], dtype=FLOAT)
    found = gas_steps(own, time, numbers[0], numbers[0], numbers[1])
    assert found.isfinite().all()
    own[1] = torch.nan
    beside = gas_steps(own, time, numbers[0], numbers[0], numbers[1])
    assert beside[1].isnan().any()
    for row in (0, 2, 3):
        part = slice(row, row + 1)
        alone = gas_steps(own[part], time[part], numbers[0][part], numbers[0][part], numbers[1][part])
        torch.testing.assert_close(beside[row], found[row])
        torch.testing.assert_close(alone[0], found[row])


def test_the_exponential_is_that_of_scipy() -> None:
    from scipy.linalg import expm

    matrix = 6 * torch.randn(5, 3, 3, dtype=FLOAT, generator=torch.Generator().manual_seed(2))
    np.testing.assert_allclose(
        exponential(matrix), expm(matrix.numpy()), rtol=1e-6, atol=1e-6 * expm(matrix.numpy()).max()
    )


def test_waves_between_walls_are_orthonormal() -> None:
    axis = Axis(16, torch.device("cpu"))
    for waves in (axis.through, axis.along, axis.level):
        torch.testing.assert_close(waves @ waves.T, torch.eye(16))


def test_particles_at_rest_stay_and_a_gradient_moves_nothing() -> None:
    n, nu, time = 64, torch.tensor([0.05]), torch.tensor([0.4])
    x = (torch.arange(n) + 0.5) / n
    own, force = torch.zeros(1, 3, n, n), torch.zeros(1, 2, n, n)
    own[0, 2] = 0.3
    torch.testing.assert_close(flow_steps(own, force, time, nu), own, atol=1e-6, rtol=0)
    # A force that is a gradient, zero at the walls, is taken up by the pressure.
    wave, slope = torch.sin(torch.pi * x) ** 2, torch.pi * torch.sin(2 * torch.pi * x)
    force[0, 0], force[0, 1] = slope[:, None] * wave[None], wave[:, None] * slope[None]
    moved = flow_steps(own, force, time, nu)[0, :2].abs().max()
    assert moved < 0.02 * float(time) * 0.3 * force.abs().max()


def test_a_slow_shear_between_walls_decays_as_a_sine_wave() -> None:
    """v_x = a sin(3 pi y) sin(pi x) is not free of divergence; its part that is decays nearly like the wave it is."""
    n, nu, time = 64, 0.02, 0.1
    x = (torch.arange(n) + 0.5) / n
    wave = torch.sin(torch.pi * x)
    stream = (wave**2)[:, None] * (wave**2)[None]
    v = torch.stack([torch.gradient(stream, spacing=1 / n, dim=1)[0], -torch.gradient(stream, spacing=1 / n, dim=0)[0]])
    own = torch.cat([1e-3 * v, torch.zeros(1, n, n)])[None]
    found = flow_steps(own, torch.zeros(1, 2, n, n), torch.tensor([time]), torch.tensor([nu]))
    energy = found[0, :2].square().sum() / own[0, :2].square().sum()
    # Of v: -(d/dt) log E = 2 nu |grad v|^2 / |v|^2, between the slowest wave's rate and three times it.
    rate = -energy.log() / (2 * nu * time)
    assert 2 * torch.pi**2 < rate < 8 * torch.pi**2


def test_the_steps_are_near_the_familys_solver() -> None:
    flow, rng, grid = family("incompressible_ns_2d"), np.random.default_rng(3), Grid((64, 64), ((0.0, 1.0),) * 2)
    initial, fixed = flow.sample_initial(rng, 2, grid), flow.sample_static(rng, 2, grid)
    assert fixed is not None
    times = np.array([0.0, 0.2, 0.25])
    solved = flow.solve(initial, times, grid, {"nu": np.array([0.02, 0.02])}, fixed)
    u, force, truth = (
        torch.from_numpy(np.moveaxis(a, -1, 1).astype(np.float32)) for a in (solved[:, 1], fixed, solved[:, 2])
    )
    found = flow_steps(u, force, torch.full((2,), 0.05), torch.full((2,), 0.02))
    share = (found - truth).flatten(2).norm(dim=2) / (u - truth).flatten(2).norm(dim=2)
    assert share.max() < 0.12


def test_shorter_steps_of_a_flow_are_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against steps that are far shorter, without force or friction, where what is carried is not blurred."""
    flow, rng, grid = family("incompressible_ns_2d"), np.random.default_rng(3), Grid((48, 48), ((0.0, 1.0),) * 2)
    initial, fixed = flow.sample_initial(rng, 1, grid), flow.sample_static(rng, 1, grid)
    solved = flow.solve(initial, np.array([0.0, 0.4]), grid, {"nu": np.array([0.05])}, fixed)
    u = torch.from_numpy(np.moveaxis(solved[:, 1], -1, 1).astype(np.float32))
    monkeypatch.setattr(known_flow, "BLURS", 1)
    monkeypatch.setattr(known_flow, "MOST_BLURRED", 0.0)
    monkeypatch.setattr(known_flow, "STEPS", 100)
    found = []
    for step in (0.1, 0.05, 0.00625):
        monkeypatch.setattr(known_flow, "STEP", step)
        found.append(flow_steps(u, torch.zeros(1, 2, 48, 48), torch.tensor([0.399]), torch.zeros(1)))
    coarse, fine = ((each - found[-1]).norm() for each in found[:2])
    assert coarse / fine > 1.4


def test_linear_terms_are_exact_and_growth_is_held() -> None:
    """u_t = -c u_x + D u_xx + g u of a wave on a box of length two: moved, damped or grown, by e^1.5 at most."""
    n, k, time = 64, np.pi * 3, 0.3
    x = (np.arange(n) + 0.5) / n * 2
    u = torch.from_numpy(np.cos(k * x)).float()[None].expand(3, -1)
    shares = torch.tensor([[-0.7, 0.01, -0.2], [-0.7, 0.0, 0.4], [-0.7, 0.0, 9.0]])
    found = wave_steps(u, torch.full((3,), time), shares, (1, 2, 0), torch.full((3,), 2.0))
    moved = np.cos(k * (x - 0.7 * time))
    for row, growth in zip(found, (-(0.01 * k**2 + 0.2) * time, 0.4 * time, 1.5), strict=True):
        np.testing.assert_allclose(row, np.exp(growth) * moved, atol=1e-5)


def test_a_source_is_exact() -> None:
    """u_t = D u_xx + a + b cos(k x) from zero: a t + b cos(k x) (1 - e^{-D k^2 t}) / (D k^2)."""
    n, k, time, nu = 64, 2 * np.pi * 2, 0.4, 0.02
    wave = np.cos(k * (np.arange(n) + 0.5) / n)
    source = torch.from_numpy(0.3 + 0.8 * wave).float()[None]
    one = torch.ones(1)
    found = wave_steps(torch.zeros(1, n), time * one, nu * one[:, None], (2,), one, source)
    expected = 0.3 * time + 0.8 * wave * (1 - np.exp(-nu * k**2 * time)) / (nu * k**2)
    np.testing.assert_allclose(found[0], expected, atol=2e-6)


def test_self_advection_is_that_of_the_familys_solver() -> None:
    """Three equations in a batch: one that carries itself and is forced, one the other way, one that does not."""
    entry, n, time = family("evolution_1d"), 128, 0.3
    grid, rng = entry.default_grid(n), np.random.default_rng(5)
    carrying, nu = np.array([-0.8, 0.5, 0.0]), np.array([0.02, 0.03, 0.01])
    named = {name: np.zeros(3) for name in TERMS}
    named |= {"self_advection": carrying, "diffusion": nu, "transport": np.array([0.3, -0.4, 0.2])}
    named["forcing"] = np.array([1.5, 0.0, 0.0])
    initial, force = entry.sample_initial(rng, 3, grid), entry.sample_static(rng, 3, grid)
    assert force is not None
    expected = entry.solve(initial, np.array([0.0, time]), grid, named, force)[:, 1, :, 0]
    shares = torch.from_numpy(np.stack([named["transport"], nu], axis=1)).float()
    found = wave_steps(
        torch.from_numpy(initial[..., 0]).float(), torch.full((3,), time), shares, (1, 2), torch.ones(3),
        torch.from_numpy(named["forcing"][:, None] * force[..., 0]).float(), torch.from_numpy(carrying).float(),
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_splines_carry_a_field_at_fourth_order() -> None:
    errors = []
    for n in (32, 64):
        x = (torch.arange(n) + 0.5) / n
        cosine = torch.cos(3 * torch.pi * x)
        field = cosine[:, None] * torch.cos(2 * torch.pi * x)[None]
        shift = torch.stack([0.02 * torch.sin(torch.pi * x)[:, None] * torch.ones(n), 0.013 * torch.ones(n, n)])
        exact = torch.cos(3 * torch.pi * (x[:, None] + shift[0])) * torch.cos(2 * torch.pi * (x + shift[1]))
        through = Axis(n, field.device).splines[LEVEL]
        coefficients = (through @ field @ through.T)[None, None]
        errors.append(float((splined(coefficients, shift[None], (n, n))[0, 0] - exact).abs().max()))
    assert errors[0] / errors[1] > 10
    assert errors[1] < 1e-5


def test_a_projected_velocity_has_no_divergence_on_the_faces() -> None:
    v = torch.randn(2, 2, 32, 48, generator=torch.Generator().manual_seed(3)).double()
    one = torch.ones(2)
    step = FlowStep((32, 48), torch.zeros(2, 2, 32, 48), one, one)
    free = step.projected(v.float())
    u, w = to_faces(free[:, 0].double().numpy(), 1), to_faces(free[:, 1].double().numpy(), 2)
    along_x = np.diff(np.pad(u, ((0, 0), (1, 1), (0, 0))), axis=1) * 32
    along_y = np.diff(np.pad(w, ((0, 0), (0, 0), (1, 1))), axis=2) * 48
    # Amplified by the way from centres to faces, see `pde.incompressible`.
    assert np.abs(along_x + along_y).max() < 2e-3 * np.abs(along_x).max()
    torch.testing.assert_close(step.projected(free), free, atol=1e-5, rtol=0)
