"""The latent operator: its spectral layer is the Fourier layer, its gains turn waves, walls are no neighbours."""

import math

import pytest
import torch
from torch import Tensor

from ups_server.model.latent import GainedSpectral, LatentOperator
from ups_server.model.lead_config import LatentConfig

PLANE = LatentConfig(ndim=2, fields=4, patches=8, channels=16, blocks=2, modes=4, groups=4, local=4, condition=12)
LINE = LatentConfig(ndim=1, fields=1, patches=16, channels=16, blocks=2, modes=6, groups=4, local=4, condition=12)


def unit_gains(layer: GainedSpectral, batch: int) -> Tensor:
    gains = torch.zeros(batch, layer.count, layer.config.groups, 2)
    gains[..., 0] = 1
    return gains


@torch.no_grad()
def test_in_the_plane_it_is_the_fourier_layer() -> None:
    torch.manual_seed(0)
    layer, m = GainedSpectral(PLANE), PLANE.modes
    h = torch.randn(3, 8, 12, 16)
    spectrum = torch.fft.fft2(h, dim=(1, 2), norm="forward")
    weight = torch.complex(layer.weight[:, :, 0], layer.weight[:, :, 1])
    full = torch.zeros(8, 12, 16, 16, dtype=torch.cfloat)
    full[:m, :m] = weight[: m * m].unflatten(0, (m, m))
    full[[-k for k in range(1, m)], :m] = weight[m * m :].unflatten(0, (m - 1, m))
    expected = 2 * torch.fft.ifft2(torch.einsum("bxyc,xycd->bxyd", spectrum, full), dim=(1, 2), norm="forward").real
    torch.testing.assert_close(layer(h, unit_gains(layer, 3), (True, True)), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_on_a_line_it_is_the_fourier_layer() -> None:
    torch.manual_seed(0)
    layer = GainedSpectral(LINE)
    h = torch.randn(3, 32, 16)
    spectrum = torch.fft.fft(h, dim=1, norm="forward")[:, : LINE.modes]
    weight = torch.complex(layer.weight[:, :, 0], layer.weight[:, :, 1])
    mixed = torch.zeros(3, 32, 16, dtype=torch.cfloat)
    mixed[:, : LINE.modes] = torch.einsum("bkc,kcd->bkd", spectrum, weight)
    expected = 2 * torch.fft.ifft(mixed, dim=1, norm="forward").real
    torch.testing.assert_close(layer(h, unit_gains(layer, 3), (True,)), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_gain_turns_the_wave_of_its_group() -> None:
    """With matrices that are one, a gain exp(-i k s) is a shift by s."""
    layer, shift = GainedSpectral(LINE), 3 / 32
    layer.weight.zero_()
    layer.weight[:, range(16), 0, range(16)] = 1.0
    k = 2 * math.pi * torch.arange(LINE.modes)
    gains = torch.stack([torch.cos(k * shift), -torch.sin(k * shift)], dim=-1)[None, :, None].expand(1, -1, 4, 2)
    x = torch.arange(32) / 32
    h = torch.sin(2 * math.pi * 2 * x)[None, :, None].expand(1, 32, 16)
    torch.testing.assert_close(layer(h, gains, (True,)), h.roll(3, dims=1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("config", [PLANE, LINE])
def test_a_shift_by_patches_of_a_periodic_box_commutes_with_it(config: LatentConfig) -> None:
    torch.manual_seed(1)
    model = trained_like(config)
    inputs = some(config, 32)
    axes = tuple(range(1, 1 + config.ndim))
    moved = {name: inputs[name].roll((8,) * config.ndim, axes) for name in ("u", "known", "static")}
    periodic, offset = (True,) * config.ndim, (0.5,) * config.ndim
    before = sum(model(**inputs, periodic=periodic, offset=offset))
    after = sum(model(**(inputs | moved), periodic=periodic, offset=offset))
    torch.testing.assert_close(after, before.roll((8,) * config.ndim, axes), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_ends_with_walls_are_no_neighbours() -> None:
    """What happens at one end of the box is not felt at the other by the local layers, as it is where it wraps."""
    torch.manual_seed(1)
    model = trained_like(LINE)
    for name, parameter in model.named_parameters():
        if name.endswith("spectral.weight"):
            parameter.zero_()
    inputs = some(LINE, 64)
    other = inputs | {"u": inputs["u"].clone()}
    other["u"][:, :2] += 1.0

    def felt(periodic: bool) -> float:
        change = sum(model(**inputs, periodic=(periodic,), offset=(0.5,))) - sum(
            model(**other, periodic=(periodic,), offset=(0.5,))
        )
        return float(change[:, -2:].abs().max())

    assert felt(False) == 0.0
    assert felt(True) > 1e-4


@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(2)
    model, inputs = trained_like(PLANE), some(PLANE, 32, batch=3)
    whole = sum(model(**inputs, periodic=(True, False), offset=(0.5, 0.5)))
    for row in range(3):
        own = {name: value if name == "place" else value[row : row + 1] for name, value in inputs.items()}
        single = sum(model(**own, periodic=(True, False), offset=(0.5, 0.5)))
        torch.testing.assert_close(whole[row : row + 1], single, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_no_time_is_no_change() -> None:
    model, inputs = trained_like(PLANE), some(PLANE, 32)
    inputs["lead"] = inputs["time"] = torch.zeros(2)
    moved, increment = model(**inputs, periodic=(True, True), offset=(0.5, 0.5))
    torch.testing.assert_close(moved, inputs["known"], atol=1e-6, rtol=0)
    assert not increment.any()


def trained_like(config: LatentConfig) -> LatentOperator:
    """Weights that are nowhere zero."""
    model = LatentOperator(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def some(config: LatentConfig, points: int, batch: int = 2) -> dict[str, Tensor]:
    shape = (points,) * config.ndim
    return {
        "u": torch.randn(batch, *shape, config.fields),
        "known": torch.randn(batch, *shape, config.fields),
        "static": torch.randn(batch, *shape, config.static),
        "place": torch.zeros(*shape, config.ndim),
        "condition": torch.randn(batch, config.condition),
        "lead": torch.full((batch,), 0.7),
        "time": torch.full((batch,), 0.2),
        "carry": torch.ones(batch),
    }
