"""Characteristic scales: they give a state back, and what an equation lets be rescaled leaves the model alone."""

import pytest
import torch
from torch import Tensor

from ups_server.model.lead import LeadModel, Problems, problems
from ups_server.model.lead_config import EQUATIONS, LatentConfig
from ups_server.model.scales import scales_of
from ups_server.pde import BoundaryCondition, BoundaryKind, Grid
from ups_server.pde.gas import GAMMA

FLOAT = torch.float64
TEXT = 8


def gas(points: int = 32, batch: int = 2) -> Tensor:
    """(B, X, X, 4): velocities, density and pressure, in double precision."""
    generator = torch.Generator().manual_seed(3)
    fields = torch.randn(batch, points, points, 4, generator=generator, dtype=FLOAT)
    return torch.cat([0.3 * fields[..., :2], (0.2 * fields[..., 2:]).exp() * torch.tensor([2.0, 30.0])], dim=-1)


def scalar(points: int = 32, batch: int = 2) -> Tensor:
    """(B, X, 4): a field in the first slot."""
    torch.manual_seed(1)
    return torch.cat([torch.randn(batch, points, 1, dtype=FLOAT), torch.zeros(batch, points, 3, dtype=FLOAT)], dim=-1)


def model_of(ndim: int) -> LeadModel:
    torch.manual_seed(0)
    small = LatentConfig(
        ndim=ndim, fields=4, patches=8, channels=16, blocks=1, modes=3, groups=4, local=4, condition=16
    )
    model = LeadModel(small, TEXT).double().eval()
    with torch.no_grad():
        model.number_names.copy_(torch.randn_like(model.number_names))
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def given(family_id: str, numbers: dict[str, float], state: Tensor, static: Tensor | None = None) -> Problems:
    equation, ndim = EQUATIONS[family_id], state.ndim - 2
    torch.manual_seed(2)
    features = {term.text: torch.randn(TEXT, dtype=FLOAT) for term in equation.terms}
    rows = {name: torch.full((len(state),), value, dtype=FLOAT) for name, value in numbers.items()}
    slots = (0, 1, 2, 3) if equation.scales.kind == "gas" else (0,)
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, ndim)
    return problems(
        equation, features, rows, slots, boundary, Grid(tuple(state.shape[1:-1]), ((0.0, 1.0),) * ndim), state, static
    )


@pytest.mark.parametrize("family_id", sorted(EQUATIONS))
def test_a_scaled_state_comes_back(family_id: str) -> None:
    torch.manual_seed(1)
    state = torch.rand(2, 16, 4, dtype=FLOAT) + 0.5
    scaled = scales_of(EQUATIONS[family_id].scales).scaled(state, torch.zeros(2, 16, 2, dtype=FLOAT))
    assert scaled.fields.shape == state.shape
    torch.testing.assert_close(scaled.physical(scaled.fields), state)


@torch.no_grad()
def test_a_gas_in_other_units_moves_alike() -> None:
    """Density by r, velocities by s, pressure by r s^2, times by 1 / s and viscosities by s: the same solution."""
    model, state, lead = model_of(2), gas(), torch.full((2,), 0.05, dtype=FLOAT)
    r, s = 7.0, 3.0
    units = torch.tensor([s, s, r, r * s * s], dtype=FLOAT)
    after = model(state, lead, given("compressible_ns_2d", {"eta": 0.02, "zeta": 0.01}, state))
    other = model(state * units, lead / s, given("compressible_ns_2d", {"eta": 0.02 * s, "zeta": 0.01 * s}, state))
    torch.testing.assert_close(other / units, after)


@torch.no_grad()
def test_a_velocity_in_other_units_moves_alike() -> None:
    """u_t + u u_x = D u_xx: u by s, times by 1 / s, D by s."""
    model, state, lead = model_of(1), scalar(), torch.full((2,), 0.05, dtype=FLOAT)
    after = model(state, lead, given("burgers", {"nu": 0.02}, state))
    other = model(state * 3, lead / 3, given("burgers", {"nu": 0.06}, state))
    torch.testing.assert_close(other / 3, after)


@torch.no_grad()
def test_mass_momentum_and_energy_of_a_gas_are_kept() -> None:
    model, state = model_of(2), gas()
    after = model(
        state, torch.full((2,), 0.3, dtype=FLOAT), given("compressible_ns_2d", {"eta": 0.02, "zeta": 0.01}, state)
    )
    assert (after - state).abs().max() > 1e-3

    def conserved(u: Tensor) -> Tensor:
        velocity, density, pressure = u[..., :2], u[..., 2:3], u[..., 3:]
        energy = pressure / (GAMMA - 1) + density * velocity.square().sum(-1, keepdim=True) / 2
        return torch.cat([density, density * velocity, energy], dim=-1).mean((1, 2))

    torch.testing.assert_close(conserved(after), conserved(state), rtol=1e-12, atol=1e-12)
    assert (after[..., 2:] > 0).all()


@torch.no_grad()
@pytest.mark.parametrize(("family_id", "numbers"), [("advection", {"beta": 0.4}), ("burgers", {"nu": 0.01})])
def test_the_mean_of_a_scalar_is_kept(family_id: str, numbers: dict[str, float]) -> None:
    state = scalar()
    after = model_of(1)(state, torch.full((2,), 0.05, dtype=FLOAT), given(family_id, numbers, state))
    assert (after - state).abs().max() > 1e-3
    assert not after[..., 1:].any()
    torch.testing.assert_close(after.mean(1), state.mean(1))


@torch.no_grad()
def test_problems_of_different_equations_share_a_batch() -> None:
    model, state = model_of(1), scalar(batch=4)
    lead = torch.tensor([0.05, 0.1, 0.2, 0.3], dtype=FLOAT)
    one, two = given("burgers", {"nu": 0.01}, state[:2]), given("advection", {"beta": 0.4}, state[2:])
    both = Problems.joined([one, two])
    assert len(both.equations) == 2
    together = model(state, lead, both)
    torch.testing.assert_close(together[:2], model(state[:2], lead[:2], one))
    torch.testing.assert_close(together[2:], model(state[2:], lead[2:], two))
