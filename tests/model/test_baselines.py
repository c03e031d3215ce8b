"""FNO and U-Net behind the models' interface: what they see, on which grids, and that they need no language model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.small_models import card
from ups_server.model.baselines import BASELINES
from ups_server.model.checkpoint import create, from_pretrained, save_pretrained
from ups_server.model.conditioning import Conditions, conditions
from ups_server.model.config import FNO, UNET, UPSConfig
from ups_server.model.operator import Operator
from ups_server.pde.grid import BoundaryCondition, BoundaryKind

CARDS = {"burgers": card(), "other": card("1D Advection", slots=(0,)), "gas": card("2D gas", 2, (0, 1, 2))}
SMALL = {"hidden_channels": 8, "n_layers": 3, "n_modes": 6, "resolution": 32, "families": CARDS}
CONFIGS = {"fno": FNO.changed(**SMALL), "unet": UNET.changed(**SMALL)}


def made(config: UPSConfig) -> Operator:
    torch.manual_seed(2)
    return create(config).eval()


def given(name: str, count: int, nu: float = 0.01, kind: BoundaryKind = BoundaryKind.PERIODIC) -> Conditions:
    entry = CARDS[name]
    return conditions(
        FNO,
        entry,
        {"nu": [nu] * count},
        BoundaryCondition.uniform(kind, entry.ndim),
        (0.5,) * entry.ndim,
        torch.ones(count, *(8,) * entry.ndim, 4),
    )


@torch.no_grad()
def step(model: Operator, u: Tensor, told: Conditions) -> Tensor:
    following: Tensor = model(u, model.read(u, told))
    return following


@pytest.fixture(params=sorted(BASELINES))
def model(request: pytest.FixtureRequest) -> Operator:
    return made(CONFIGS[request.param])


def state(*points: int, count: int = 2) -> Tensor:
    torch.manual_seed(5)
    return torch.randn(count, 4, *points)


@pytest.mark.parametrize("kind", [BoundaryKind.PERIODIC, BoundaryKind.NO_FLUX])
@pytest.mark.parametrize(
    ("name", "points"), [("burgers", (32,)), ("burgers", (45,)), ("gas", (32, 24)), ("gas", (17, 16))]
)
def test_any_grid_and_only_the_slots_of_the_family(
    model: Operator, name: str, points: tuple[int, ...], kind: BoundaryKind
) -> None:
    out = step(model, state(*points), given(name, 2, kind=kind))
    assert out.shape == (2, 4, *points)
    assert out.isfinite().all()
    absent = [slot for slot in range(4) if slot not in CARDS[name].slots]
    assert out[:, absent].abs().max() == 0
    assert out[:, 0].abs().max() > 0


def test_batched_equals_single(model: Operator) -> None:
    u = state(32, count=3)
    singles = [step(model, u[i : i + 1], given("burgers", 1)) for i in range(3)]
    torch.testing.assert_close(step(model, u, given("burgers", 3)), torch.cat(singles), atol=1e-5, rtol=1e-4)


def test_coefficient_family_and_boundary_are_used(model: Operator) -> None:
    u = state(32)
    base = step(model, u, given("burgers", 2))
    others = [given("burgers", 2, nu=0.3), given("other", 2), given("burgers", 2, kind=BoundaryKind.DIRICHLET)]
    assert all((step(model, u, told) - base).abs().max() > 1e-4 for told in others)


@pytest.mark.parametrize("operator", sorted(BASELINES))
def test_withheld_metadata_change_nothing(operator: str) -> None:
    model, u = made(CONFIGS[operator].changed(metadata="none")), state(32)
    base = step(model, u, given("burgers", 2))
    for told in (given("burgers", 2, nu=0.3), given("other", 2)):
        torch.testing.assert_close(step(model, u, told), base, atol=0, rtol=0)


def test_equivariant_under_shifts_of_a_periodic_box_only(model: Operator) -> None:
    u, periodic, walls = state(32), given("burgers", 2), given("burgers", 2, kind=BoundaryKind.NO_FLUX)
    # The coarsest of three levels has a quarter of the points.
    torch.testing.assert_close(
        step(model, u.roll(8, -1), periodic), step(model, u, periodic).roll(8, -1), atol=1e-5, rtol=1e-4
    )
    assert (step(model, u.roll(8, -1), walls) - step(model, u, walls).roll(8, -1)).abs().max() > 1e-3


@pytest.mark.parametrize("operator", sorted(BASELINES))
def test_a_network_without_output_is_zero_or_with_increments_persistence(operator: str) -> None:
    u, told = state(32), given("burgers", 2)
    for increment in (False, True):
        model = made(CONFIGS[operator].changed(increment=increment))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        expected = u * told.mask[..., None] * float(increment)
        torch.testing.assert_close(step(model, u, told), expected)


def test_static_fields_are_seen(model: Operator) -> None:
    u = state(32)
    told = replace(given("burgers", 2), static=torch.zeros(2, 1, 32))
    forced = replace(told, static=torch.ones(2, 1, 32))
    assert (step(model, u, told) - step(model, u, forced)).abs().max() > 1e-4


def test_checkpoint_has_no_language_model(model: Operator, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    u = state(32)
    loaded = from_pretrained(tmp_path).operator
    torch.testing.assert_close(
        step(loaded, u, given("burgers", 2)), step(model, u, given("burgers", 2)), atol=0, rtol=0
    )


def test_published_sizes() -> None:
    """PDEBench's FNO and U-Net in two dimensions have 466 thousand and 7.8 million parameters."""
    gas = {"families": {"gas": CARDS["gas"]}}
    fno, unet = (create(config.model_copy(update=gas)) for config in (FNO, UNET))
    count = [sum(p.numel() * (2 if p.is_complex() else 1) for p in m.parameters()) for m in (fno, unet)]
    assert 3e5 < count[0] < 1.5e6
    assert 4e6 < count[1] < 12e6
