"""Readers and writers of PDEBench's layouts, and their traps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.pdebench_files import COUNT, FAMILIES, FRAMES, POINTS, grid_for, plain, static_of, times_of, values_of, write
from ups_server.data.export import write_file
from ups_server.data.formats import open_source
from ups_server.data.formats.base import Header, InMemory
from ups_server.data.source import FrameIndices, Rows, TrajectorySource, blocks, pieces
from ups_server.errors import UserError
from ups_server.pde import Grid, family
from ups_server.pde.registry import known_family


def opened(path: Path, *given: Any) -> Iterator[TrajectorySource]:
    source = open_source(path, *given)
    yield source
    source.close()


@pytest.mark.parametrize("name", FAMILIES)
def test_round_trip(tmp_path: Path, name: str) -> None:
    equation = known_family(name)
    for source in opened(write(tmp_path / "file.h5", name)):
        assert source.family == name
        assert source.fields == tuple(field.name for field in equation.fields)
        assert np.array_equal(source.read(range(COUNT)), values_of(name))
        static, expected = source.read_static(range(COUNT)), static_of(name)
        assert (static is None) == (expected is None)
        assert static is None or expected is None or np.array_equal(static, expected)
        assert np.allclose(source.times, times_of(name))
        assert source.grid == grid_for(name)
        assert source.boundary == equation.boundary
        assert np.allclose(source.coefficients, [list(equation.complete({}).values())] * COUNT)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rows", [[2, 0], range(1, 3), [1], []])
@pytest.mark.parametrize("frames", [slice(None), slice(1, None, 2), [-1, 0]])
def test_reading_is_indexing(tmp_path: Path, name: str, rows: list[int], frames: slice | list[int]) -> None:
    grid = (slice(1, None, 4),) * known_family(name).ndim
    for source in opened(write(tmp_path / "file.h5", name)):
        expected = values_of(name)[list(rows)][:, frames][slice(None), slice(None), *grid]
        assert np.array_equal(source.read(rows, frames, 4, 1), expected)
        static, whole = source.read_static(rows, 4, 1), static_of(name)
        assert static is None or whole is None or np.array_equal(static, whole[list(rows)][slice(None), *grid])


@pytest.mark.parametrize("name", FAMILIES)
def test_reading_does_not_depend_on_the_memory_it_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("ups_server.data.formats.pdebench.reading.RUN_BYTES", 1)
    for source in opened(write(tmp_path / "file.h5", name)):
        assert np.array_equal(source.read([2, 0, 1]), values_of(name)[[2, 0, 1]])
        parts = [values for _, _, values in pieces(source, 1)]
        assert {values.shape[:2] for values in parts} == {(1, 1)}
        assert np.array_equal(np.concatenate(parts, axis=1)[0], np.concatenate(values_of(name)))


def test_a_trajectory_knows_itself(tmp_path: Path) -> None:
    for source in opened(write(tmp_path / "file.h5", "burgers", nu=0.02)):
        trajectory = source.trajectory(1)
        assert trajectory.coefficients == {"nu": 0.02}
        assert np.array_equal(trajectory.values, values_of("burgers")[1])
        with pytest.raises(UserError, match="no trajectory 3"):
            source.trajectory(3)


def test_coefficients_may_differ_between_trajectories(tmp_path: Path) -> None:
    for source in opened(write(tmp_path / "file.h5", "burgers", nu=np.array([0.1, 0.2, 0.3]))):
        assert np.array_equal(source.coefficients[:, 0], [0.1, 0.2, 0.3])


def test_blocks_cover_the_file_in_order(tmp_path: Path) -> None:
    for source in opened(write(tmp_path / "file.h5", "advection")):
        parts = list(blocks(source, bytes_at_most=2 * FRAMES * POINTS * 4))
        assert [list(rows) for rows, _ in parts] == [[0, 1], [2]]
        assert np.array_equal(np.concatenate([part for _, part in parts]), values_of("advection"))


@pytest.mark.parametrize(
    ("file", "attributes", "expected", "coefficients"),
    [
        ("1D_Advection_Sols_beta0.4.hdf5", {"beta": 0.4}, "advection", [0.4]),
        ("1D_Advection_Sols_beta0.4.hdf5", {}, "advection", [0.4]),
        ("renamed.h5", {"Beta": 0.7}, "advection", [0.7]),
        ("1D_Burgers_Sols_Nu0.001.hdf5", {"Nu": 0.001}, "burgers", [0.001]),
        ("1D_Burgers_Sols_Nu1.e-3.hdf5", {}, "burgers", [0.001]),
        ("1D_Burgers_Sols_Nu1e-08.hdf5", {}, "burgers", [1e-8]),
        ("renamed.h5", {"NU": 0.5, "rho": 2.0}, "diffusion_reaction_1d", [0.5, 2.0]),
        ("ReacDiff_Nu0.5_Rho1.0.hdf5", {"nu": 0.5, "Rho": 1.0}, "diffusion_reaction_1d", [0.5, 1.0]),
        ("ReacDiff_Nu0.5_Rho1.0_nx256.hdf5", {}, "diffusion_reaction_1d", [0.5, 1.0]),
    ],
)
def test_family_and_coefficients_from_name_and_attributes(
    tmp_path: Path, file: str, attributes: dict[str, float], expected: str, coefficients: list[float]
) -> None:
    for source in opened(plain(tmp_path / file, attributes)):
        assert source.family == expected
        assert source.coefficients[0].tolist() == pytest.approx(coefficients)


def test_the_user_names_family_and_coefficients(tmp_path: Path) -> None:
    for source in opened(plain(tmp_path / "file.h5", {}), "burgers", {"Nu": 0.3}):
        assert source.family == "burgers"
        assert source.coefficients[0].tolist() == [0.3]


def test_a_subsampled_file_keeps_its_points(tmp_path: Path) -> None:
    fine = Grid((64,), ((0.0, 1.0),))
    axis = fine.axes[0][1::4].astype(np.float32)
    for source in opened(plain(tmp_path / "1D_Burgers_Sols_Nu0.1.hdf5", {}, x_coordinate=axis)):
        assert source.grid == fine.subsample(4, 1)
        assert source.grid.offset == (0.375,)


def test_times_need_not_be_one_too_many(tmp_path: Path) -> None:
    exact = np.arange(FRAMES, dtype=np.float64) * 0.01
    for source in opened(plain(tmp_path / "1D_Burgers_Sols_Nu0.1.hdf5", {}, t_coordinate=exact)):
        assert np.array_equal(source.times, exact)


def test_the_name_tells_the_family_of_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "1D_diff-sorp_NA_NA.h5", "diffusion_sorption")
    with h5py.File(path, "a") as file:
        del file.attrs["family"]
        file["0000"].attrs["config"] = "sim: {por: 0.29}"
    for source in opened(path):
        assert source.family == "diffusion_sorption"


def test_rows_of_many_groups_stay_in_order(tmp_path: Path) -> None:
    path = tmp_path / "1D_diff-sorp_NA_NA.h5"
    equation = family("diffusion_sorption")
    with h5py.File(path, "w") as file:
        for row in (9999, 10000, 998):
            group = file.create_group(f"{row:04d}")
            group["data"] = np.full((2, 4, 1), row, np.float32)
            group["grid/x"] = equation.default_grid(4).axes[0]
            group["grid/t"] = np.array([0.0, 5.0])
    for source in opened(path):
        assert source.read(range(3))[:, 0, 0, 0].tolist() == [998.0, 9999.0, 10000.0]


def test_nothing_is_left_of_a_file_that_failed(tmp_path: Path) -> None:
    equation = family("advection")
    times = np.arange(FRAMES, dtype=np.float64) * 0.01
    header = Header(equation, equation.default_grid(POINTS), times, {"beta": 1.0}, COUNT)

    class Broken(InMemory):
        def read(self, rows: Rows, frames: FrameIndices = slice(None)) -> NDArray[np.float32]:
            raise UserError("unreadable", "the data are damaged")

    for path in ("a.h5", "a.nc", "a.npz", "a.safetensors", "a.json", "a.zarr"):
        with pytest.raises(UserError) as caught:
            write_file(tmp_path / path, header, Broken(header, values_of("advection")))
        assert caught.value.code == "unreadable"
    with pytest.raises(UserError) as caught:
        InMemory(header, values_of("advection")[:2])
    assert caught.value.code == "wrong_shape"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "expected", "shape", "spacing"),
    [
        ("1D_Advection_Sols_beta0.4.hdf5", "advection", (2, 201, 1024, 1), 0.01),
        ("1D_Burgers_Sols_Nu0.001.hdf5", "burgers", (2, 201, 1024, 1), 0.01),
        ("ReacDiff_Nu0.5_Rho1.0_nx256.hdf5", "diffusion_reaction_1d", (4, 101, 256, 1), 0.01),
        ("1D_diff-sorp_NA_NA.h5", "diffusion_sorption", (4, 101, 1024, 1), 5.0),
        ("1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5", "compressible_ns_1d", (2, 101, 1024, 3), 0.01),
        (
            "2D_CFD_Rand_M0.1_Eta0.1_Zeta0.1_periodic_128_Train.hdf5",
            "compressible_ns_2d",
            (1, 21, 128, 128, 4),
            0.05,
        ),
        ("2D_rdb_NA_NA.h5", "shallow_water", (2, 101, 128, 128, 1), 0.01),
        ("2D_diff-react_NA_NA.h5", "diffusion_reaction_2d", (1, 101, 128, 128, 2), 0.05),
        ("ns_incom_inhom_2d_64-0.h5", "incompressible_ns_2d", (1, 101, 64, 64, 3), 0.005),
        ("2D_DarcyFlow_beta1.0_Train.hdf5", "darcy", (2, 1, 128, 128, 1), 0.0),
    ],
)
def test_published_files(pdebench: Path, file: str, expected: str, shape: tuple[int, ...], spacing: float) -> None:
    for source in opened(pdebench / file):
        assert source.family == expected
        values = source.read(range(source.n_trajectories))
        assert values.shape == shape
        assert np.isfinite(values).all()
        assert np.allclose(np.diff(source.times), spacing)
        assert set(source.grid.offset) == {0.5}


def test_published_advection_and_burgers_share_initial_states(pdebench: Path) -> None:
    first, second = (
        open_source(pdebench / name) for name in ("1D_Advection_Sols_beta0.4.hdf5", "1D_Burgers_Sols_Nu0.001.hdf5")
    )
    assert np.array_equal(first.read([0, 1], [0]), second.read([0, 1], [0]))
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("name", "dataset", "shape"),
    [
        ("shallow_water", "0001/data", (FRAMES, 16, 8, 1)),
        ("diffusion_reaction_2d", "0001/data", (FRAMES, 8, 16, 2)),
        ("compressible_ns_2d", "Vy", (COUNT, FRAMES, 16, 8)),
        ("compressible_ns_3d", "Vz", (COUNT, FRAMES, 16, 8, 4)),
        ("incompressible_ns_2d", "particles", (COUNT, FRAMES, 16, 8, 1)),
        ("incompressible_ns_2d", "force", (COUNT, 16, 8, 2)),
        ("darcy", "tensor", (COUNT, 1, 16, 8)),
        ("darcy", "nu", (COUNT, 16, 8)),
    ],
)
def test_values_lie_in_the_order_of_the_published_files(
    tmp_path: Path, name: str, dataset: str, shape: tuple[int, ...]
) -> None:
    with h5py.File(write(tmp_path / "file.h5", name)) as file:
        assert file[dataset].shape == shape


GAS = "1D_CFD_{}_Eta{}_Zeta{}_{}_Train.hdf5"


@pytest.mark.parametrize(
    ("name", "viscosity", "kind"),
    [
        (GAS.format("Rand", "1e-08", "1e-08", "periodic"), 1e-8, "periodic"),
        (GAS.format("Shock", "1.e-8", "1.e-8", "trans"), 1e-8, "outflow"),
        (GAS.format("Rand", "0.01", "0.01", "trans"), 0.01, "outflow"),
    ],
)
def test_names_of_gas_files_tell_viscosity_and_boundary(tmp_path: Path, name: str, viscosity: float, kind: str) -> None:
    path = write(tmp_path / "file.h5", "compressible_ns_1d", eta=viscosity, zeta=viscosity)
    with h5py.File(path, "a") as file:
        for attribute in ("family", "eta", "zeta"):
            del file.attrs[attribute]
    for source in opened(path.rename(tmp_path / name)):
        assert source.family == "compressible_ns_1d"
        assert source.coefficients[0].tolist() == [viscosity, viscosity]
        assert source.boundary.as_names() == [[kind, kind]]


def test_batches_in_several_files_are_one_source(tmp_path: Path) -> None:
    for number in (10, 2):
        write(tmp_path / f"ns_incom_inhom_2d_16-{number}.h5", "incompressible_ns_2d", nu=number * 1e-3)
    values, static = values_of("incompressible_ns_2d"), static_of("incompressible_ns_2d")
    assert static is not None
    for source in opened(tmp_path / "ns_incom_inhom_2d_16-*.h5"):
        assert source.n_trajectories == 2 * COUNT
        assert source.coefficients[:, 0].tolist() == [2e-3] * COUNT + [1e-2] * COUNT
        assert np.array_equal(source.read([5, 0, 1]), values[[2, 0, 1]])
        forces = source.read_static([3, 4])
        assert forces is not None
        assert np.array_equal(forces, static[:2])
        assert source.trajectory(4).coefficients == {"nu": 1e-2}
        with pytest.raises(UserError, match="no trajectory 6"):
            source.read([6])


def test_files_of_one_pattern_must_be_alike(tmp_path: Path) -> None:
    write(tmp_path / "a-0.h5", "incompressible_ns_2d")
    write(tmp_path / "a-1.h5", "darcy")
    with pytest.raises(UserError) as caught:
        open_source(tmp_path / "a-*.h5")
    assert caught.value.code == "ragged"


def test_published_velocity_without_divergence_tells_the_axes(pdebench: Path) -> None:
    for source in opened(pdebench / "ns_incom_inhom_2d_64-0.h5"):
        speed = source.read([0], [50])[0, 0].astype(np.float64)
        right = np.gradient(speed[..., 0], axis=0) + np.gradient(speed[..., 1], axis=1)
        wrong = np.gradient(speed[..., 0], axis=1) + np.gradient(speed[..., 1], axis=0)
        assert np.abs(right[4:-4, 4:-4]).mean() < 0.02 * np.abs(wrong[4:-4, 4:-4]).mean()
        force = source.read_static([0])
        assert force is not None
        assert force.shape == (1, 64, 64, 2)


def test_published_gas_conserves_mass_along_its_axes(pdebench: Path) -> None:
    for source in opened(pdebench / "2D_CFD_Rand_M0.1_Eta0.1_Zeta0.1_periodic_128_Train.hdf5"):
        vx, vy, density, _ = np.moveaxis(source.read([0], [12, 13])[0].astype(np.float64), -1, 0)
        outflow = sum(
            np.roll(density * speed, -1, axis) - np.roll(density * speed, 1, axis) for axis, speed in ((1, vx), (2, vy))
        )
        assert np.corrcoef((density[1] - density[0]).ravel(), -np.sum(outflow, axis=0).ravel())[0, 1] > 0.95


def test_three_dimensions_are_read_and_refused_where_something_must_be_solved(tmp_path: Path) -> None:
    for source in opened(write(tmp_path / "file.h5", "compressible_ns_3d")):
        assert source.read([1], [2]).shape == (1, 1, *grid_for("compressible_ns_3d").n, 5)
        with pytest.raises(UserError, match="at most 2 dimensions"):
            family(source.family)
    with pytest.raises(UserError) as caught:
        known_family("compressible_ns_3d").sample_initial(np.random.default_rng(), 1, grid_for("compressible_ns_3d"))
    assert caught.value.code == "no_solver"
