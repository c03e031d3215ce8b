"""Characteristic scales: they give a state back, and what an equation lets be rescaled leaves the model alone."""

import pytest
import torch
from torch import Tensor

from ups_server.model.conservation import CONSERVED
from ups_server.model.latent import LatentConfig
from ups_server.model.lead import NUMBERS, TERMS, Equations, LeadModel, equations
from ups_server.model.scales import SCALES
from ups_server.pde import Family, family
from ups_server.pde.euler import GAMMA


def gas(points: int = 32, batch: int = 2) -> Tensor:
    """(B, X, X, 4): velocities, density and pressure, in double precision."""
    generator = torch.Generator().manual_seed(3)
    fields = torch.randn(batch, points, points, 4, generator=generator, dtype=torch.float64)
    return torch.cat([0.3 * fields[..., :2], (0.2 * fields[..., 2:]).exp() * torch.tensor([2.0, 30.0])], dim=-1)


def model_of(equation: Family) -> LeadModel:
    torch.manual_seed(0)
    texts = {text: torch.randn(8) for text in (*NUMBERS, *TERMS[equation.id])}
    small = LatentConfig(equation.ndim, 4, patches=8, channels=16, blocks=1, modes=3, groups=4, local=4, condition=16)
    model = LeadModel(small, texts).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def given(equation: Family, numbers: dict[str, float], batch: int, static: Tensor | None = None) -> Equations:
    rows = {name: torch.full((batch,), value, dtype=torch.float64) for name, value in numbers.items()}
    like = torch.empty(batch, dtype=torch.float64)
    return equations(equation, rows, equation.boundary, (0.5,) * equation.ndim, like, static)


@pytest.mark.parametrize("family_id", sorted(SCALES))
def test_a_scaled_state_comes_back(family_id: str) -> None:
    equation = family(family_id)
    shape = (2, *(16,) * equation.ndim, len(equation.fields))
    torch.manual_seed(1)
    state = torch.rand(shape, dtype=torch.float64) + 0.5
    scaled = SCALES[family_id].scaled(state, None)
    assert scaled.fields.shape == state.shape
    torch.testing.assert_close(SCALES[family_id].physical(scaled.fields, scaled), state)


@torch.no_grad()
def test_a_gas_in_other_units_moves_alike() -> None:
    """Density by r, velocities by s, pressure by r s^2, times by 1 / s and viscosities by s: the same solution."""
    equation = family("compressible_ns_2d")
    model, state, lead = model_of(equation), gas(), torch.full((2,), 0.05, dtype=torch.float64)
    r, s = 7.0, 3.0
    units = torch.tensor([s, s, r, r * s * s], dtype=torch.float64)
    after = model(state, lead, given(equation, {"eta": 0.02, "zeta": 0.01}, 2))
    other = model(state * units, lead / s, given(equation, {"eta": 0.02 * s, "zeta": 0.01 * s}, 2))
    torch.testing.assert_close(other / units, after)


@torch.no_grad()
def test_mass_momentum_and_energy_of_a_gas_are_kept() -> None:
    equation = family("compressible_ns_2d")
    model, state = model_of(equation), gas()
    after = model(state, torch.full((2,), 0.3, dtype=torch.float64), given(equation, {"eta": 0.02, "zeta": 0.01}, 2))
    assert (after - state).abs().max() > 1e-3

    def conserved(u: Tensor) -> Tensor:
        velocity, density, pressure = u[..., :2], u[..., 2:3], u[..., 3:]
        energy = pressure / (GAMMA - 1) + density * velocity.square().sum(-1, keepdim=True) / 2
        return torch.cat([density, density * velocity, energy], dim=-1).mean((1, 2))

    torch.testing.assert_close(conserved(after), conserved(state), rtol=1e-12, atol=1e-12)
    assert (after[..., 2:] > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("family_id", ["advection", "burgers"])
def test_the_mean_of_a_scalar_is_kept(family_id: str) -> None:
    equation = family(family_id)
    torch.manual_seed(1)
    state = torch.randn(2, 32, 1, dtype=torch.float64)
    numbers = {c.name: 0.1 for c in equation.coefficients}
    after = model_of(equation)(state, torch.full((2,), 0.05, dtype=torch.float64), given(equation, numbers, 2))
    assert (after - state).abs().max() > 1e-3
    torch.testing.assert_close(after.mean(1), state.mean(1))
    assert family_id in CONSERVED
