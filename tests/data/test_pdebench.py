"""Readers and writers of PDEBench's layouts, their traps, and files that are broken."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ups_server.data.pdebench.card import CARDS
from ups_server.data.pdebench.writing import write_pdebench
from ups_server.data.source import TrajectorySource, blocks, open_source
from ups_server.errors import UserError
from ups_server.pde import Grid, family

COUNT, FRAMES, POINTS = 3, 5, 16
FAMILIES = [card.family for card in CARDS]


def values_of(name: str, count: int = COUNT) -> NDArray[np.float32]:
    equation = family(name)
    grid = (POINTS,) * equation.ndim
    shape = (count, FRAMES, *grid, len(equation.fields))
    return np.random.default_rng(1).random(shape).astype(np.float32) + np.float32(0.5)


def write(path: Path, name: str, grid: Grid | None = None, **coefficients: Any) -> Path:
    equation = family(name)
    values = values_of(name)
    times = np.arange(FRAMES, dtype=np.float64) * equation.frame_dt
    complete = {**equation.complete({}), **coefficients}
    batches = [values[:2], values[2:]]
    write_pdebench(path, equation, complete, batches, times, grid or equation.default_grid(POINTS), COUNT)
    return path


def opened(path: Path, *given: Any) -> Iterator[TrajectorySource]:
    source = open_source(path, *given)
    yield source
    source.close()


@pytest.mark.parametrize("name", FAMILIES)
def test_round_trip(tmp_path: Path, name: str) -> None:
    equation = family(name)
    for source in opened(write(tmp_path / "file.h5", name)):
        assert source.family == name
        assert source.fields == tuple(field.name for field in equation.fields)
        assert np.array_equal(source.read(range(COUNT)), values_of(name))
        assert np.allclose(source.times, np.arange(FRAMES, dtype=np.float64) * equation.frame_dt)
        assert source.grid == equation.default_grid(POINTS)
        assert source.boundary == equation.boundary
        assert np.allclose(source.coefficients, [list(equation.complete({}).values())] * COUNT)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rows", [[2, 0], range(1, 3), [1], []])
@pytest.mark.parametrize("frames", [slice(None), slice(1, None, 2), [4, 0]])
def test_reading_is_indexing(tmp_path: Path, name: str, rows: list[int], frames: slice | list[int]) -> None:
    space = (slice(None), slice(None), *(slice(1, None, 4),) * family(name).ndim)
    for source in opened(write(tmp_path / "file.h5", name)):
        expected = values_of(name)[list(rows)][:, frames][space]
        assert np.array_equal(source.read(rows, frames, 4, 1), expected)


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


def plain(path: Path, attributes: dict[str, float], name: str = "tensor", **changes: Any) -> Path:
    """A file of the single layout as PDEBench writes it, with changes."""
    datasets: dict[str, Any] = {
        name: values_of("advection")[..., 0],
        "x-coordinate": ((np.arange(POINTS) + 0.5) / POINTS).astype(np.float32),
        "t-coordinate": (np.arange(FRAMES + 1) * 0.01).astype(np.float32),
        **{key.replace("_", "-"): value for key, value in changes.items()},
    }
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            if value is not None:
                file[key] = value
        file.attrs.update(attributes)
    return path


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


AXIS = np.linspace(0.0, 1.0, POINTS)
MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "no values": ({"tensor": None}, "missing_dataset"),
    "no x": ({"x_coordinate": None}, "missing_dataset"),
    "no t": ({"t_coordinate": None}, "missing_dataset"),
    "x too short": ({"x_coordinate": AXIS[:-1]}, "wrong_axis"),
    "x not over the extent": ({"x_coordinate": 2 * AXIS}, "wrong_axis"),
    "x with both ends": ({"x_coordinate": AXIS}, "wrong_axis"),
    "x not uniform": ({"x_coordinate": AXIS**2}, "wrong_axis"),
    "x not finite": ({"x_coordinate": AXIS * np.nan}, "wrong_axis"),
    "x in 2-D": ({"x_coordinate": AXIS[None]}, "wrong_axis"),
    "t too long": ({"t_coordinate": np.arange(FRAMES + 2.0)}, "wrong_axis"),
    "t falls": ({"t_coordinate": -np.arange(FRAMES + 1.0)}, "wrong_axis"),
    "integers": ({"tensor": np.ones((COUNT, FRAMES, POINTS), np.int32)}, "wrong_dtype"),
    "text": ({"tensor": np.full((COUNT, FRAMES, POINTS), b"a")}, "wrong_dtype"),
    "one axis more": ({"tensor": np.ones((COUNT, FRAMES, POINTS, 1), np.float32)}, "wrong_shape"),
    "no trajectory": ({"tensor": np.ones((0, FRAMES, POINTS), np.float32)}, "empty_file"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_single_files(tmp_path: Path, case: str) -> None:
    changes, code = MALFORMED[case]
    refused(plain(tmp_path / "1D_Advection_Sols_beta0.4.hdf5", {"beta": 0.4}, **changes), code)


def read_all(path: Path, *given: Any) -> None:
    for source in opened(path, *given):
        for _ in blocks(source):
            pass


def refused(path: Path, code: str, *given: Any) -> None:
    """Opening or reading fails with one sentence and that code."""
    with pytest.raises(UserError) as caught:
        read_all(path, *given)
    assert caught.value.code == code
    assert caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "attributes", "given", "code"),
    [
        ("file.h5", {}, (), "family_unknown"),
        ("file.h5", {"Nu": 0.1, "other": 2.0}, (), "family_unknown"),
        ("file.h5", {}, ("burgers",), "coefficient_missing"),
        ("file.h5", {}, ("no_such",), "family_mismatch"),
        ("file.h5", {}, ("diffusion_sorption",), "family_mismatch"),
        ("1D_Burgers_Sols_Nu0.1.hdf5", {}, ("advection",), "family_mismatch"),
        ("1D_Burgers_Sols_Nu0.1.hdf5", {"Nu": 0.2}, (), "coefficient_mismatch"),
        ("1D_Burgers_Sols_Nu0.1.hdf5", {}, ("burgers", {"nu": 0.2}), "coefficient_mismatch"),
        ("1D_Burgers_Sols_Nu0.1.hdf5", {}, ("burgers", {"beta": 0.2}), "unknown_coefficient"),
        ("1D_Burgers_Sols_Nu0.0.hdf5", {}, (), "coefficient_out_of_domain"),
    ],
)
def test_contradictions(tmp_path: Path, file: str, attributes: dict[str, float], given: Any, code: str) -> None:
    refused(plain(tmp_path / file, attributes), code, *given)


def no_file(path: Path) -> None:
    """Nothing at all."""


def empty_bytes(path: Path) -> None:
    path.write_bytes(b"")


def other_format(path: Path) -> None:
    path.write_bytes(b"x,y\n1,2\n" * 100)


def empty_hdf5(path: Path) -> None:
    h5py.File(path, "w").close()


def unknown_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weights"] = np.ones(3)


def truncated(path: Path) -> None:
    write(path, "advection")
    path.write_bytes(path.read_bytes()[:-500])


def damaged(path: Path) -> None:
    with h5py.File(plain(path, {"beta": 0.4}, tensor=None), "a") as file:
        file.create_dataset("tensor", data=values_of("advection")[..., 0], chunks=True, compression="gzip")
        offset = file["tensor"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 20] = b"\xff" * 20
    path.write_bytes(content)


def external_values(path: Path) -> None:
    with h5py.File(plain(path, {"beta": 0.4}, tensor=None), "a") as file:
        file.create_dataset("tensor", (COUNT, FRAMES, POINTS), "f4", external=[("/etc/hostname", 0, 960)])


def linked_values(path: Path) -> None:
    other = plain(path.with_name("other.h5"), {})
    with h5py.File(plain(path, {"beta": 0.4}, tensor=None), "a") as file:
        file["tensor"] = h5py.ExternalLink(str(other), "/tensor")


def virtual_values(path: Path) -> None:
    layout = h5py.VirtualLayout((COUNT, FRAMES, POINTS), "f4")
    layout[:] = h5py.VirtualSource("missing.h5", "tensor", (COUNT, FRAMES, POINTS))
    with h5py.File(plain(path, {"beta": 0.4}, tensor=None), "a") as file:
        file.create_virtual_dataset("tensor", layout)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (no_file, "not_found"),
        (empty_bytes, "not_hdf5"),
        (other_format, "not_hdf5"),
        (truncated, "not_hdf5"),
        (empty_hdf5, "unknown_layout"),
        (unknown_hdf5, "unknown_layout"),
        (damaged, "unreadable"),
        (external_values, "unsupported_storage"),
        (linked_values, "missing_dataset"),
        (virtual_values, "unsupported_storage"),
    ],
)
def test_files_that_are_none(tmp_path: Path, make: Callable[[Path], None], code: str) -> None:
    path = tmp_path / "1D_Advection_Sols_beta0.4.hdf5"
    make(path)
    refused(path, code)


def change_group(path: Path, change: Callable[[h5py.Group], None], name: str = "0001") -> Path:
    with h5py.File(write(path, "diffusion_sorption"), "a") as file:
        change(file[name])
    return path


def replaced(name: str, value: Any) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        del group[name]
        if value is not None:
            group[name] = value

    return change


def config(text: str) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        group.attrs["config"] = text

    return change


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("0001", replaced("data", None), "missing_dataset"),
        ("0001", replaced("data", np.ones((FRAMES, POINTS + 1, 1), np.float32)), "ragged"),
        ("0001", replaced("data", np.ones((FRAMES, POINTS, 1), np.int16)), "wrong_dtype"),
        ("0001", replaced("data", np.ones((FRAMES, POINTS), np.float32)), "wrong_shape"),
        ("0000", replaced("data", None), "missing_dataset"),
        ("0000", replaced("data", np.ones((FRAMES, POINTS, 2), np.float32)), "wrong_shape"),
        ("0000", replaced("data", np.ones((FRAMES, POINTS + 1, 1), np.float32)), "wrong_axis"),
        ("0000", replaced("grid/x", None), "wrong_axis"),
        ("0000", replaced("grid/t", None), "missing_dataset"),
        ("0000", replaced("grid/x", AXIS), "wrong_axis"),
        ("0000", config("name: [unclosed"), "wrong_attribute"),
        ("0000", config("just text"), "wrong_attribute"),
        ("0000", config("name: 1d_diff-sorp\nsim: {D: much}"), "wrong_attribute"),
        ("0000", config("name: 1d_diff-sorp\nsim: {por: 0.5}"), "coefficient_mismatch"),
        ("0000", config("sim: {por: 0.29}"), "family_unknown"),
    ],
)
def test_malformed_grouped_files(tmp_path: Path, name: str, change: Callable[[h5py.Group], None], code: str) -> None:
    refused(change_group(tmp_path / "file.h5", change, name), code)


def test_the_name_tells_the_family_of_groups(tmp_path: Path) -> None:
    path = change_group(tmp_path / "1D_diff-sorp_NA_NA.h5", config("sim: {por: 0.29}"), "0000")
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
    batches = [values_of("advection")[:2]]
    grid = equation.default_grid(POINTS)
    with pytest.raises(UserError) as caught:
        write_pdebench(
            tmp_path / "a.h5", equation, {"beta": 1.0}, batches, np.arange(FRAMES, dtype=np.float64) * 0.01, grid, COUNT
        )
    assert caught.value.code == "wrong_shape"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "expected", "shape", "spacing"),
    [
        ("1D_Advection_Sols_beta0.4.hdf5", "advection", (2, 201, 1024, 1), 0.01),
        ("1D_Burgers_Sols_Nu0.001.hdf5", "burgers", (2, 201, 1024, 1), 0.01),
        ("ReacDiff_Nu0.5_Rho1.0_nx256.hdf5", "diffusion_reaction_1d", (4, 101, 256, 1), 0.01),
        ("1D_diff-sorp_NA_NA.h5", "diffusion_sorption", (4, 101, 1024, 1), 5.0),
    ],
)
def test_published_files(pdebench: Path, file: str, expected: str, shape: tuple[int, ...], spacing: float) -> None:
    for source in opened(pdebench / file):
        assert source.family == expected
        values = source.read(range(source.n_trajectories))
        assert values.shape == shape
        assert np.isfinite(values).all()
        assert np.allclose(np.diff(source.times), spacing)
        assert source.grid.offset == (0.5,)


def test_published_advection_and_burgers_share_initial_states(pdebench: Path) -> None:
    first, second = (
        open_source(pdebench / name) for name in ("1D_Advection_Sols_beta0.4.hdf5", "1D_Burgers_Sols_Nu0.001.hdf5")
    )
    assert np.array_equal(first.read([0, 1], [0]), second.read([0, 1], [0]))
    first.close()
    second.close()
