import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.spectral_layer import NeuralopAxes
from ups_server.model.embedder import MANY, SpectralConv, mixed_modes, truncated_dft
from ups_server.model.transport import propagate


@pytest.mark.parametrize(("points", "modes"), [(32, 12), (32, 17), (33, 17), (48, 8)])
def test_agrees_with_neuraloperator(points: int, modes: int) -> None:
    from neuralop.layers.spectral_convolution import SpectralConv as Reference

    torch.manual_seed(0)
    ours = SpectralConv(channels=5, n_modes=modes, ndim=1)
    # Its n_modes counts both signs of the wave number; an odd count keeps modes 0 … (count - 1) / 2.
    reference = Reference(5, 5, (2 * modes - 1,), bias=False)
    with torch.no_grad():
        weight = torch.view_as_complex(ours.weights[0].detach().movedim(2, -1).contiguous())
        reference.weight.tensor.copy_(weight.permute(1, 2, 0)) if hasattr(
            reference.weight, "tensor"
        ) else reference.weight.copy_(weight.permute(1, 2, 0))
    x = torch.randn(3, 5, points)
    torch.testing.assert_close(ours(x.mT).mT, reference(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(24,), (24, 20)])
def test_agrees_along_every_axis_with_what_it_is_timed_against(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = SpectralConv(channels=4, n_modes=6, ndim=2)
    x, limits = torch.randn(3, *shape, 4), (6,) * len(shape)
    torch.testing.assert_close(layer(x, limits), NeuralopAxes(layer)(x, limits), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("points", [16, 17])
def test_transform_is_inverted_by_its_inverse(points: int) -> None:
    forward, inverse = truncated_dft(points, points // 2 + 1, torch.device("cpu"), torch.float64)
    x = torch.randn(4, points, dtype=torch.float64)
    torch.testing.assert_close(x @ (inverse @ forward).T, x)


def test_trains_after_inference_on_the_same_grid() -> None:
    layer = SpectralConv(channels=3, n_modes=5, ndim=1)
    x = torch.randn(1, 22, 3)
    with torch.inference_mode():
        layer(x)
    layer(x).square().sum().backward()
    assert layer.weights[0].grad is not None


def test_strip_equals_its_broadcast() -> None:
    torch.manual_seed(0)
    layer = SpectralConv(channels=4, n_modes=6, ndim=2)
    strip = torch.randn(2, 24, 4)
    broadcast = layer(strip[:, :, None].expand(-1, -1, 24, -1))
    torch.testing.assert_close(broadcast, layer(strip)[:, :, None].expand_as(broadcast), atol=1e-5, rtol=1e-4)


def joint_layer(channels: int, modes: int, joint_modes: int) -> SpectralConv:
    """With nothing along the axes."""
    torch.manual_seed(0)
    layer = SpectralConv(channels, modes, ndim=2, joint_modes=joint_modes)
    assert layer.joint is not None
    with torch.no_grad():
        layer.joint.weight.normal_()
        for weight in layer.weights:
            weight.zero_()
    return layer


@pytest.mark.parametrize("shape", [(12, 10), (9, 24), (6, 5), (40, 41)])
def test_joint_layer_is_a_matrix_for_every_wave_vector(shape: tuple[int, int]) -> None:
    """Against sums of plane waves, from NumPy's transform."""
    layer = joint_layer(channels=3, modes=4, joint_modes=3)
    x = torch.randn(2, 3, *shape)
    spectrum = np.fft.fft2(x.numpy(), norm="forward")
    assert layer.joint is not None
    weight = layer.joint.weight.detach().numpy()
    matrices = weight[:, :, :, 0] + 1j * weight[:, :, :, 1]
    i, j = (np.arange(n) / n for n in shape)
    expected = np.zeros(x.shape)
    for kx in range(3):
        for column, ky in enumerate(range(-2, 3)):
            amplitude = spectrum[:, :, kx, ky] @ matrices[kx, column]
            wave = np.exp(2j * np.pi * (kx * i[:, None] + ky * j))
            expected += (1 if kx == 0 else 2) * (amplitude[..., None, None] * wave).real
    out = layer(x.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(out, torch.from_numpy(expected).float(), atol=1e-4, rtol=1e-4)


def test_joint_layer_on_a_strip_equals_its_broadcast() -> None:
    layer = joint_layer(channels=4, modes=4, joint_modes=4)
    strip = torch.randn(2, 24, 4)
    broadcast = layer(strip[:, :, None].expand(-1, -1, 16, -1))
    torch.testing.assert_close(broadcast, layer(strip)[:, :, None].expand_as(broadcast), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, MANY, MANY + 1])
def test_modes_are_mixed_by_complex_matrices_however_many_rows_there_are(rows: int) -> None:
    torch.manual_seed(0)
    parts, weight = torch.randn(rows, 6, 2, 3, 5), torch.randn(6, 5, 2, 5)
    amplitudes, matrices = (torch.complex(real, imaginary) for real, imaginary in (parts.unbind(2), weight.unbind(2)))
    expected = torch.view_as_real(torch.einsum("rkli,kio->rklo", amplitudes, matrices)).movedim(-1, 2)
    mixed = mixed_modes(parts.flatten(1, 2), weight)
    torch.testing.assert_close(mixed.view_as(parts), expected, atol=1e-5, rtol=1e-5)


def test_modes_beyond_the_training_grid_are_left_out() -> None:
    layer = SpectralConv(channels=2, n_modes=12, ndim=1)
    x = torch.arange(64) / 64
    waves = torch.stack([torch.sin(2 * math.pi * k * x) for k in (3, 9)])[None]
    low = torch.stack([waves[0, 0], torch.zeros(64)])[None]
    torch.testing.assert_close(layer(waves.mT, (8,)), layer(low.mT), atol=1e-5, rtol=1e-4)


def test_band_limited_input_gives_the_same_function_at_every_resolution() -> None:
    layer = SpectralConv(channels=1, n_modes=5, ndim=1)
    coarse, fine = (torch.arange(n) / n for n in (16, 96))
    out = [layer((torch.sin(2 * math.pi * 3 * x) + 0.5)[None, :, None]) for x in (coarse, fine)]
    torch.testing.assert_close(out[0], out[1][:, ::6], atol=1e-5, rtol=1e-4)


@given(st.floats(-0.5, 0.5), st.floats(0.0, 0.01))
def test_propagator_is_exact_for_transport_and_diffusion(velocity: float, diffusivity: float) -> None:
    x = np.arange(64) / 64
    k = 2 * np.pi * 3
    u = torch.tensor(np.sin(k * x))[None, None]
    exact = np.exp(-diffusivity * k**2) * np.sin(k * (x - velocity))
    v, d = (torch.full((1, 1, 1), value, dtype=torch.float64) for value in (velocity, diffusivity))
    np.testing.assert_allclose(propagate(u, v, d, (True,))[0, 0], exact, atol=1e-12)


def test_propagator_composes_and_conserves_the_mean() -> None:
    torch.manual_seed(0)
    u = torch.randn(2, 3, 20, 24, dtype=torch.float64)
    v, d = 0.3 * torch.randn(2, 3, 2, dtype=torch.float64), 0.001 * torch.rand(2, 3, 2, dtype=torch.float64)
    # The sign of the highest mode of an even grid is lost; without it the halves make the whole.
    u = propagate(u, torch.zeros_like(v), torch.full_like(d, 1e-2), (True, True))
    once = propagate(u, v, d, (True, True))
    twice = propagate(propagate(u, v / 2, d / 2, (True, True)), v / 2, d / 2, (True, True))
    torch.testing.assert_close(once, twice, atol=1e-9, rtol=0)
    torch.testing.assert_close(once.mean((2, 3)), u.mean((2, 3)))


def test_axes_that_do_not_wrap_are_left_alone() -> None:
    u = torch.randn(1, 1, 12, 16)
    rates = torch.full((1, 1, 2), 0.25), torch.zeros(1, 1, 2)
    torch.testing.assert_close(propagate(u, *rates, (False, False)), u)
    torch.testing.assert_close(propagate(u, *rates, (False, True)), u.roll(4, -1), atol=1e-5, rtol=1e-4)
