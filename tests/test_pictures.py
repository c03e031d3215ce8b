"""Pictures show what the trajectory holds."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, Family, Field, Grid, Trajectory, family
from ups_server.pde.grid import Array
from ups_server.pde.solution import Exact, Solution
from ups_server.pictures import GIF_FRAMES, draw_diagnostics, save_picture, time_edges


def travelling_wave(steps: int = 9, n: int = 64) -> Trajectory:
    equation = family("advection")
    grid = equation.default_grid(n)
    times = np.linspace(0, equation.dt * (steps - 1), steps)
    values = np.sin(2 * np.pi * (grid.axes[0][None] - 0.4 * times[:, None]))[..., None]
    return Trajectory("advection", values, times, grid, equation.boundary, {"beta": 0.4})


def test_png_is_a_picture_of_sensible_size(tmp_path: Path) -> None:
    save_picture(travelling_wave(), tmp_path / "wave.png")
    with Image.open(tmp_path / "wave.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert len(set(picture.convert("RGB").resize((200, 80)).get_flattened_data())) > 100


@pytest.mark.parametrize(("steps", "frames"), [(9, 9), (400, GIF_FRAMES)])
def test_gif_has_one_frame_a_step_up_to_a_limit(tmp_path: Path, steps: int, frames: int) -> None:
    save_picture(travelling_wave(steps, 16), tmp_path / "wave.gif")
    with Image.open(tmp_path / "wave.gif") as picture:
        assert (picture.format, picture.n_frames) == ("GIF", frames)  # type: ignore[attr-defined]


@pytest.mark.parametrize("steps", [9, 400])
def test_a_video_has_the_same_frames(tmp_path: Path, steps: int) -> None:
    from imageio_ffmpeg import count_frames_and_secs

    save_picture(travelling_wave(steps, 16), tmp_path / "wave.mp4")
    frames, seconds = count_frames_and_secs(str(tmp_path / "wave.mp4"))
    assert frames == min(steps, GIF_FRAMES)
    assert seconds == pytest.approx(frames / 12, abs=0.1)


def test_colours_diverge_from_zero_where_a_field_changes_sign() -> None:
    from ups_server.pictures import COLOUR_MAP, DIVERGING_MAP, _colours

    assert _colours(-1.0, 3.0) == {"cmap": DIVERGING_MAP, "vmin": -3.0, "vmax": 3.0}
    assert _colours(0.0, 3.0) == {"cmap": COLOUR_MAP, "vmin": 0.0, "vmax": 3.0}


def test_a_picture_names_its_model() -> None:
    from ups_server.pictures import _figure, _name

    figure, _, _ = _figure(8, 3, travelling_wave(), family("advection"))
    _name(figure, "ups-mini")
    assert figure.get_suptitle().startswith("ups-mini: 1D Advection")


def test_the_diagnostics_show_spectra_and_drift_and_follow_the_step() -> None:
    from matplotlib.figure import Figure

    wave = travelling_wave()
    wave.values[-1] += 0.25
    figure = Figure()
    follow = draw_diagnostics(figure.subfigures(1, 1, squeeze=False)[0, 0], wave, family("advection"), animated=True)
    spectral, means = figure.axes
    dotted, drawn = spectral.lines
    follow(3)
    power = np.asarray(drawn.get_ydata())
    assert power[0] == pytest.approx(0.5)
    assert np.asarray(dotted.get_ydata())[1:].max() < 1e-15
    drift = np.asarray(means.lines[0].get_ydata())
    assert np.abs(drift[:-1]).max() < 1e-12
    assert drift[-1] == pytest.approx(0.25)
    assert list(means.lines[1].get_xdata()) == [wave.times[3]] * 2  # type: ignore[arg-type]


def test_a_title_leaves_out_terms_that_an_equation_lacks(tmp_path: Path) -> None:
    from ups_server.pictures import TITLE, _figure

    equation = family("evolution_1d")
    grid = equation.default_grid(16)
    given = {entry.name: 0.0 for entry in equation.coefficients} | {"self_advection": -1.0, "dispersion": -0.0005}
    flat = Trajectory(equation.id, np.ones((1, 16, 1)), np.zeros(1), grid, equation.boundary, given)
    title = _figure(8, 3, flat, equation)[0].get_suptitle()
    assert " ".join(title.split()) == f"{equation.name} self_advection = -1, dispersion = -0.0005"
    assert max(map(len, title.splitlines())) <= TITLE
    wave = travelling_wave()
    still = Trajectory("advection", wave.values, wave.times, wave.grid, wave.boundary, {"beta": 0.0})
    assert _figure(8, 3, still, family("advection"))[0].get_suptitle().endswith("beta = 0")


class TwoFields(Family):
    """A family that exists for its pictures."""

    id = "two_fields"
    name = "Two fields"
    equation = "u_t = 0"
    fields = (Field("u", slot=0, unit="m/s"), Field("v", slot=1))
    extent = ((0.0, 2.0), (0.0, 1.0))
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 2)
    dt = frame_dt = t_final = 1.0
    n = 16

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return rng.normal(size=(count, *grid.n, 2))

    def begin(
        self, initial: Array, grid: Grid, coefficients: Mapping[str, Array], static: Array | None = None
    ) -> Solution:
        return Exact(initial, lambda _: initial)


def test_a_map_shows_every_frame_at_its_time() -> None:
    """A band reaches halfway to its neighbours, and as far beyond the ends."""
    np.testing.assert_allclose(time_edges(np.array([0.0, 0.1, 0.2, 0.4])), [-0.05, 0.05, 0.15, 0.3, 0.5])
    np.testing.assert_allclose(time_edges(np.arange(3.0)), [-0.5, 0.5, 1.5, 2.5])
    assert time_edges(np.array([2.0])).tolist() == [1.5, 2.5]


def test_two_dimensions_are_drawn_as_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equation = TwoFields()
    monkeypatch.setattr("ups_server.pictures.known_family", lambda _: equation)
    grid, times = Grid((24, 12), equation.extent), np.linspace(0.0, 3.0, 4)
    values = equation.solve(equation.sample_initial(np.random.default_rng(0), 1, grid), times, grid, {})[0]
    solution = Trajectory(equation.id, values, times, grid, equation.boundary)
    for suffix, frames in ((".png", 1), (".gif", 4)):
        save_picture(solution, tmp_path / f"maps{suffix}")
        with Image.open(tmp_path / f"maps{suffix}") as picture:
            assert getattr(picture, "n_frames", 1) <= frames
            assert min(picture.size) > 150


def test_a_single_or_constant_frame_can_be_drawn(tmp_path: Path) -> None:
    wave = travelling_wave(1)
    flat = Trajectory(wave.family, np.ones_like(wave.values), wave.times, wave.grid, wave.boundary)
    save_picture(flat, tmp_path / "flat.png")
    assert (tmp_path / "flat.png").stat().st_size > 1000


def test_a_diverged_rollout_is_drawn_up_to_its_last_finite_step(tmp_path: Path) -> None:
    wave = travelling_wave()
    wave.values[5:] = np.nan
    save_picture(wave, tmp_path / "diverged.png")
    wave.values[:] = np.nan
    with pytest.raises(UserError, match="no finite value"):
        save_picture(wave, tmp_path / "nothing.png")


def test_what_cannot_be_drawn_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError) as unknown:
        save_picture(travelling_wave(), tmp_path / "wave.jpg")
    assert unknown.value.code == "unknown_format"
    box = Grid((2, 2, 2), ((0.0, 1.0),) * 3)
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 3)
    cube = Trajectory("advection", np.zeros((1, 2, 2, 2, 1)), np.zeros(1), box, boundary)
    with pytest.raises(UserError) as solid:
        save_picture(cube, tmp_path / "cube.png")
    assert solid.value.code == "picture_not_available"
