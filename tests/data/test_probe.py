"""Rows are compared with the reference solver: what it says of good rows, and which cause it finds for others."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.cases import POINTS, X, heat, moving, single
from ups_server.data import probe as probe_module
from ups_server.data.check import check_file
from ups_server.data.simulate import generate
from ups_server.pde import Grid, family


def warnings(path: Path, name: str, coefficients: Mapping[str, float] | None = None) -> tuple[str, ...]:
    return check_file(path, name, coefficients, probed=True).warnings


@pytest.mark.parametrize("sample", ["burgers", "diffusion_reaction_1d", "diffusion_reaction_2d", "shallow_water"])
def test_good_rows(sample: str, repository: Path) -> None:
    assert warnings(repository / "data" / "samples" / f"{sample}.h5", sample) == ()


def test_the_distance_is_in_units_of_the_step(tmp_path: Path) -> None:
    """Waves at twice the speed, under the solver at half of it: |f(x - 2s) - f(x - s)| over |f(x - 2s) - f(x)|."""
    wave = np.sin(2 * np.pi * (X - 0.8 * np.arange(41)[:, None] * 0.05))[None].repeat(3, 0)
    single(tmp_path / "a.h5", wave.astype(np.float32), {"beta": 0.4})
    said = warnings(tmp_path / "a.h5", "advection")[-1]
    expected = abs(np.exp(0.04j * np.pi) - 1) / abs(np.exp(0.08j * np.pi) - 1)
    assert f"{expected:.2g} of the step away" in said
    assert "twice the beta" in said


def test_reaction_diffusion_that_tends_to_a_half(tmp_path: Path) -> None:
    path = generate(family("diffusion_reaction_1d"), {"nu": 0.01, "rho": 10.0}, 3, POINTS, tmp_path / "a.h5", seed=1)
    with h5py.File(path, "a") as file:
        file["tensor"][...] *= np.float32(0.5)
    (said,) = warnings(path, "diffusion_reaction_1d")
    assert "they tend to 0.5 in place of 1, as PDEBench's files do (issue #94)" in said


def test_burgers_at_twice_the_speed(tmp_path: Path) -> None:
    """u = w / 2, where w solves u_t + u u_x = (2 nu / pi) u_xx: what solving for x in (-1, 1) as if in (0, 1) gives."""
    path = generate(family("burgers"), {"nu": 0.02}, 3, POINTS, tmp_path / "a.h5", seed=1)
    with h5py.File(path, "a") as file:
        file["tensor"][...] *= np.float32(0.5)
        for name in [name for name in file.attrs if name.lower() == "nu"]:
            file.attrs[name] = 0.01
    (said,) = warnings(path, "burgers")
    assert "issue #51" in said


def test_axes_of_a_plane_that_are_swapped(tmp_path: Path) -> None:
    equation = family("compressible_ns_2d")
    path = generate(equation, {}, 2, 16, tmp_path / "a.h5", seed=1, t_final=equation.dt)
    with h5py.File(path, "a") as file:
        for name in ("Vx", "Vy", "density", "pressure"):
            file[name][...] = file[name][()].swapaxes(2, 3)
    (said,) = warnings(path, "compressible_ns_2d")
    assert "x and y are swapped in the stored array" in said


def test_the_heat_equation_taken_for_burgers(tmp_path: Path) -> None:
    heat(tmp_path / "a.h5")
    (said,) = warnings(tmp_path / "a.h5", "burgers")
    assert "they move as the heat equation u_t = nu u_xx with the nu of the file" in said


def test_advection_taken_for_burgers(tmp_path: Path) -> None:
    single(tmp_path / "a.h5", moving(speed=family("advection").complete({})["beta"]), {})
    (said,) = warnings(tmp_path / "a.h5", "burgers", {"nu": 0.01})
    assert "they move as advection" in said


def test_what_nothing_explains(tmp_path: Path) -> None:
    noise: NDArray[np.float32] = np.random.default_rng(0).normal(size=(3, 41, POINTS)).astype(np.float32)
    single(tmp_path / "a.h5", noise, {"beta": 0.4})
    (said,) = warnings(tmp_path / "a.h5", "advection")
    assert "none of the likely causes explains it" in said


def test_a_solver_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = generate(family("advection"), {"beta": 0.4}, 2, POINTS, tmp_path / "a.h5", seed=1)

    def never(*_: object) -> None:
        while True:
            pass

    monkeypatch.setattr(probe_module.RowSample, "distance", never)
    monkeypatch.setattr("ups_server.data.check.PROBE_S", 0.05)
    assert warnings(path, "advection") == ("not compared with the reference solver: it takes more than 0.05 s",)


def test_a_solver_that_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = generate(family("advection"), {"beta": 0.4}, 2, POINTS, tmp_path / "a.h5", seed=1)

    def fail(*_: object) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(probe_module.RowSample, "distance", fail)
    (said,) = warnings(path, "advection")
    assert said.startswith("not compared with the reference solver, which cannot step these states")


def test_only_where_it_is_asked_for_or_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single(tmp_path / "a.h5", moving(speed=0.8), {"beta": 0.4})
    assert check_file(tmp_path / "a.h5", "advection", probed=False).warnings == ()
    monkeypatch.setattr("ups_server.data.check.SMALL_BYTES", 100)
    assert check_file(tmp_path / "a.h5", "advection").warnings == ()
    assert len(warnings(tmp_path / "a.h5", "advection")) == 1


def test_points_that_lie_elsewhere(tmp_path: Path) -> None:
    """An integer-stride subsample, whose first point lies an eighth of a spacing inside."""
    grid = Grid((32,), ((0.0, 1.0),), (0.125,))
    single(tmp_path / "a.h5", moving(grid.axes[0]), {"beta": 0.4}, grid.axes[0])
    assert not [said for said in warnings(tmp_path / "a.h5", "advection") if "do not move" in said]
