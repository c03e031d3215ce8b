"""Every format gives back what went in."""

import itertools
import json
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from zarr.storage import ZipStore

from tests.pdebench_files import COUNT, FAMILIES, static_of, values_of, write
from ups_server.cli import main
from ups_server.data.export import convert, encode, export, exporter_of, media_types, suffixes
from ups_server.data.formats import open_source
from ups_server.data.formats.netcdf import to_dataset
from ups_server.data.source import TrajectorySource
from ups_server.errors import UserError
from ups_server.pde import Trajectory, family
from ups_server.pde.registry import known_family

FORMATS = list(media_types().values())
BURGERS = family("burgers")
GRID = BURGERS.default_grid(8)
TIMES = np.arange(4, dtype=np.float64) * 0.05
NU = np.array([0.1, 0.2])
VALUES = np.random.default_rng(0).normal(size=(2, 4, 8, 1)).astype(np.float32)


def trajectory(row: int) -> Trajectory:
    return Trajectory("burgers", VALUES[row], TIMES, GRID, BURGERS.boundary, {"nu": float(NU[row])})


def data_of(format: str, content: bytes) -> NDArray[np.float32]:
    if format == "json":
        return np.array(json.loads(content)["data"], np.float32)
    if format == "npz":
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            assert json.loads(str(arrays["header"]))["family"] == "burgers"
            return np.asarray(arrays["data"])
    if format == "safetensors":
        from safetensors.numpy import load

        return np.asarray(load(content)["data"])
    if format == "zarr_zip":
        with TemporaryDirectory() as folder:
            (path := Path(folder) / "file.zip").write_bytes(content)
            with ZipStore(path, mode="r") as store, xr.open_zarr(store, consolidated=False) as dataset:
                return np.asarray(dataset["u"].values[..., None])
    if format == "netcdf":
        with xr.open_dataset(BytesIO(content), engine="h5netcdf") as dataset:
            return np.asarray(dataset["u"].values[..., None])
    with h5py.File(BytesIO(content)) as file:
        return np.asarray(file["t0_fields/u" if format == "the_well" else "tensor"][:][..., None])


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_round_trip(format: str) -> None:
    content = encode(format, VALUES, TIMES, BURGERS, GRID, {"nu": NU})
    assert np.array_equal(data_of(format, content), VALUES)


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in ("hdf5", "the_well")])
def test_one_trajectory_without_the_trajectory_axis(format: str) -> None:
    content = encode(format, VALUES[:1], TIMES, BURGERS, GRID, {"nu": 0.1}, batched=False)
    assert np.array_equal(data_of(format, content), VALUES[0])


@pytest.mark.parametrize("suffix", [name for name, exporter in suffixes().items() if exporter.media_type])
def test_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    export([trajectory(0), trajectory(1)], path, attributes={"source": "test", "flags": ["a"]})
    assert np.array_equal(data_of(exporter_of(path).format, path.read_bytes()), VALUES)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_long_texts_are_kept(tmp_path: Path) -> None:
    long = "ab" * 2**16
    for name in ("file.nc", "file.h5", "file.npz"):
        export(trajectory(0), tmp_path / name, attributes={"note": long})
    with xr.open_dataset(tmp_path / "file.nc", engine="h5netcdf") as dataset:
        assert dataset["note"].item() == long
    with h5py.File(tmp_path / "file.h5") as file:
        assert file["about/note"].asstr()[()] == long
    with np.load(tmp_path / "file.npz") as arrays:
        assert json.loads(str(arrays["header"]))["note"] == long


def test_hdf5_is_read_by_our_own_reader(tmp_path: Path) -> None:
    export([trajectory(0), trajectory(1)], tmp_path / "file.h5")
    source = open_source(tmp_path / "file.h5")
    assert np.array_equal(source.read([0, 1]), VALUES)
    assert source.coefficients[:, 0].tolist() == NU.tolist()
    assert np.allclose(source.times, TIMES)
    source.close()


def test_grouped_hdf5(tmp_path: Path) -> None:
    equation = family("diffusion_sorption")
    single = Trajectory(equation.id, VALUES[0], TIMES * 500, equation.default_grid(8), equation.boundary)
    export(single, tmp_path / "file.h5")
    source = open_source(tmp_path / "file.h5")
    assert source.family == "diffusion_sorption"
    assert np.array_equal(source.read([0])[0], VALUES[0])
    source.close()


@pytest.mark.parametrize("suffix", [".h5", ".nc", ".npz", ".zarr"])
@pytest.mark.parametrize("name", ["darcy", "incompressible_ns_2d"])
def test_static_fields_are_written(name: str, suffix: str, tmp_path: Path) -> None:
    with open_source(write(tmp_path / "made.h5", name)) as made:
        rows = [made.trajectory(row) for row in range(COUNT)]
    static, values = static_of(name), values_of(name)
    assert static is not None
    export(rows[1], tmp_path / f"one{suffix}")
    export(rows, tmp_path / f"all{suffix}")
    for path, chosen in (("one", slice(1, 2)), ("all", slice(None))):
        with open_source(tmp_path / f"{path}{suffix}") as back:
            np.testing.assert_array_equal(back.read_static(range(back.n_trajectories)), static[chosen])
            np.testing.assert_array_equal(back.read(range(back.n_trajectories)), values[chosen])
    with pytest.raises(UserError) as caught:
        export([rows[0], replace(rows[1], static=None)], tmp_path / f"other{suffix}")
    assert caught.value.code == "ragged"


def test_json_has_what_the_interface_promises() -> None:
    content = encode("json", VALUES[:1], TIMES, BURGERS, GRID, {"nu": 0.1}, {"flags": []}, batched=False)
    document = json.loads(content)
    assert {"family", "fields", "times", "grid", "data", "flags"} <= set(document)
    assert document["coefficients"] == {"nu": 0.1}
    assert document["grid"] == {"n": [8], "extent": [[0.0, 1.0]], "offset": [0.5], "closed": [False]}


def test_json_says_null_for_what_is_not_finite() -> None:
    broken = VALUES.copy()
    broken[0, 1, 2] = np.inf
    data = json.loads(encode("json", broken, TIMES, BURGERS, GRID, {"nu": NU}))["data"]
    assert data[0][1][2] == [None]
    assert data[0][0][0][0] == float(VALUES[0, 0, 0, 0])


def test_dataset_is_described() -> None:
    dataset = to_dataset(VALUES, TIMES, BURGERS, GRID, {"nu": NU}, {"model": "ups"})
    assert dataset["u"].dims == ("trajectory", "time", "x")
    assert dataset["nu"].dims == ("trajectory",)
    assert dataset["x"].attrs["units"] == BURGERS.length_unit
    assert dataset.attrs["model"] == "ups"
    assert dataset.attrs["Conventions"].startswith("CF-")
    assert np.allclose(dataset["u"].sel(trajectory=1).isel(time=-1), VALUES[1, -1, :, 0])
    assert to_dataset(VALUES[0], TIMES, BURGERS, GRID, {"nu": 0.1})["u"].dims == ("time", "x")


def test_netcdf_keeps_coordinates_and_units() -> None:
    equation = family("diffusion_sorption")
    content = encode("netcdf", VALUES, TIMES * 500, equation, equation.default_grid(8), {}, {"flags": ["x"]})
    with xr.open_dataset(BytesIO(content), engine="h5netcdf") as dataset:
        assert np.allclose(np.asarray(dataset["time"].values, np.float64), TIMES * 500)
        assert dataset["x"].attrs["units"] == "m"
        assert json.loads(dataset.attrs["flags"]) == ["x"]


def test_values_that_do_not_fit_the_grid() -> None:

    with pytest.raises(UserError) as caught:
        encode("npz", VALUES[..., None], TIMES, BURGERS, GRID, {"nu": NU})
    assert caught.value.code == "wrong_shape"


@pytest.mark.parametrize("name", ["file.csv", "file"])
def test_unknown_suffixes(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        export(trajectory(0), tmp_path / name)
    assert caught.value.code == "unknown_format"


def test_unknown_formats() -> None:
    with pytest.raises(UserError) as caught:
        encode("csv", VALUES, TIMES, BURGERS, GRID, {})
    assert caught.value.code == "unknown_format"


def test_trajectories_in_one_file_match(tmp_path: Path) -> None:
    other = Trajectory("burgers", VALUES[1], TIMES + 1, GRID, BURGERS.boundary, {"nu": 0.1})
    with pytest.raises(UserError) as caught:
        export([trajectory(0), other], tmp_path / "file.npz")
    assert caught.value.code == "ragged"


CONVERTED = (".h5", ".nc", ".zarr", ".npz", ".zip")
WELL = ".well"
"""The Well's HDF5, which no suffix asks for."""


def same(first: TrajectorySource, second: TrajectorySource) -> None:
    assert first.family == second.family
    assert first.grid == second.grid
    assert first.boundary == second.boundary
    assert np.allclose(first.times, second.times)
    assert np.allclose(first.coefficients, second.coefficients, rtol=1e-12)
    assert np.array_equal(first.read(range(first.n_trajectories)), second.read(range(second.n_trajectories)))
    fixed, other = first.read_static([2, 0]), second.read_static([2, 0])
    assert (fixed is None) == (other is None)
    assert fixed is None or other is None or np.array_equal(fixed, other)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("suffix", CONVERTED)
def test_there_and_back(tmp_path: Path, name: str, suffix: str) -> None:
    drawn = {c.name: 1.25 * c.default + 0.01 for c in known_family(name).coefficients}
    original = open_source(write(tmp_path / "file.h5", name, None, **drawn))
    assert np.allclose(original.coefficients, [list(drawn.values())] * COUNT)
    there = open_source(convert(original, tmp_path / f"there{suffix}"))
    same(original, there)
    back = open_source(convert(there, tmp_path / "back.hdf5"))
    same(original, back)
    for source in (original, there, back):
        source.close()


def converted(source: TrajectorySource, path: Path) -> Path:
    return convert(source, path, format="the_well" if path.suffix == WELL else None)


@pytest.mark.parametrize("name", ["compressible_ns_1d", "darcy", "incompressible_ns_2d"])
@pytest.mark.parametrize("pair", list(itertools.permutations((*CONVERTED, WELL), 2)), ids=" to ".join)
def test_every_pair(tmp_path: Path, name: str, pair: tuple[str, str]) -> None:
    with (
        open_source(write(tmp_path / "file.h5", name)) as original,
        open_source(converted(original, tmp_path / f"one{pair[0]}")) as one,
        open_source(converted(one, tmp_path / f"other{pair[1]}")) as other,
    ):
        same(original, other)
        np.testing.assert_array_equal(original.times, other.times)
        np.testing.assert_array_equal(original.coefficients, other.coefficients)


def test_a_part_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, values = write(tmp_path / "file.h5", "incompressible_ns_2d"), values_of("incompressible_ns_2d")
    static = static_of("incompressible_ns_2d")
    assert static is not None
    with open_source(path) as source:
        times = source.times
    n = values.shape[2] // 2
    options = ["--trajectories", "1:3", "--times", f"{times[1]}:{times[2]}", "--resolution", str(n)]
    with pytest.raises(SystemExit) as ended:
        main(["data", "convert", str(path), str(tmp_path / "part.nc"), *options])
    assert not ended.value.code, capsys.readouterr().err
    with open_source(tmp_path / "part.nc") as part:
        np.testing.assert_array_equal(part.times, times[1:3])
        np.testing.assert_array_equal(part.read([0, 1]), values[1:3, 1:3, ::2, ::2])
        np.testing.assert_array_equal(part.read_static([0, 1]), static[1:3, ::2, ::2])
        assert part.grid.offset == (0.25, 0.25)
    for wrong in (["--trajectories", "3"], ["--trajectories", "x"], ["--times", "50:60"], ["--resolution", "7"]):
        with pytest.raises(SystemExit) as ended:
            main(["data", "convert", str(path), str(tmp_path / "wrong.nc"), *wrong])
        assert ended.value.code == 2
        assert not (tmp_path / "wrong.nc").exists()


@pytest.mark.parametrize("suffix", CONVERTED)
def test_parts_are_read_as_indexing(tmp_path: Path, suffix: str) -> None:
    source = open_source(write(tmp_path / "file.h5", "incompressible_ns_2d"))
    other = open_source(convert(source, tmp_path / f"other{suffix}"))
    values, static = values_of("incompressible_ns_2d"), static_of("incompressible_ns_2d")
    assert static is not None
    assert np.array_equal(other.read([2, 0], [3, 1], 4, 1), values[[2, 0]][:, [3, 1], 1::4, 1::4])
    fixed = other.read_static([1], 2)
    assert fixed is not None
    assert np.array_equal(fixed, static[[1], ::2, ::2])
    with pytest.raises(UserError, match="no trajectory 3"):
        other.read([3])
    source.close()
    other.close()


@pytest.mark.parametrize("suffix", CONVERTED)
def test_coefficients_may_differ_between_trajectories(tmp_path: Path, suffix: str) -> None:
    source = open_source(write(tmp_path / "file.h5", "burgers", nu=np.array([0.1, 0.2, 0.3])))
    other = open_source(convert(source, tmp_path / f"other{suffix}"))
    assert other.coefficients[:, 0].tolist() == [0.1, 0.2, 0.3]
    source.close()
    other.close()


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_xarray_reads_it(tmp_path: Path, suffix: str) -> None:
    source = open_source(write(tmp_path / "file.h5", "darcy"))
    path = convert(source, tmp_path / f"file{suffix}")
    source.close()
    engine = "h5netcdf" if suffix == ".nc" else "zarr"
    options = {"consolidated": False} if suffix == ".zarr" else {}
    with xr.open_dataset(path, engine=engine, backend_kwargs=options) as file:
        assert file.u.dims == ("trajectory", "time", "x", "y")
        assert file.nu.dims == ("trajectory", "x", "y")
        assert file.attrs["Conventions"].startswith("CF")
        assert file.u.attrs["units"] == "1"
    if suffix == ".zarr":
        assert json.loads((path / "zarr.json").read_text())["zarr_format"] == 3


@pytest.mark.parametrize("suffix", [".nc", ".npz"])
def test_results_of_the_exporters_can_be_read(tmp_path: Path, suffix: str) -> None:
    source = open_source(write(tmp_path / "file.h5", "burgers"))
    one = source.trajectory(1)
    export(one, tmp_path / f"one{suffix}")
    export([one, source.trajectory(2)], tmp_path / f"two{suffix}")
    for name, rows in (("one", [1]), ("two", [1, 2])):
        other = open_source(tmp_path / f"{name}{suffix}", "burgers")
        assert np.array_equal(other.read(range(len(rows))), source.read(rows))
        assert other.coefficients.tolist() == source.coefficients[rows].tolist()
        other.close()
    source.close()


@pytest.mark.parametrize("suffix", [".nc", ".zarr", ".npz"])
def test_broken_files_are_one_clear_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    source = open_source(write(tmp_path / "file.h5", "burgers"))
    path = convert(source, tmp_path / f"file{suffix}")
    source.close()
    if path.is_dir():
        (path / "zarr.json").write_text("{")
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(path)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("ups: ")
    assert len(error.splitlines()) == 1


def test_an_npz_with_a_damaged_header_of_an_array(tmp_path: Path) -> None:
    """NumPy evaluates these headers: what is no Python there raises SyntaxError."""
    with open_source(write(tmp_path / "file.h5", "burgers")) as source:
        path = convert(source, tmp_path / "file.npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"'shape': (", b"'shape': [(}"))
    with pytest.raises(UserError) as caught:
        open_source(path)
    assert caught.value.code == "unreadable"


def test_another_family_is_refused(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "file.h5", "burgers"))
    path = convert(source, tmp_path / "file.npz")
    with pytest.raises(UserError) as caught:
        open_source(path, "advection")
    assert caught.value.code == "family_mismatch"
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "file.csv")
    assert caught.value.code == "unknown_format"
    source.close()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "file.h5", "diffusion_sorption")
    with h5py.File(path, "a") as file:
        del file["0002/data"]
    source = open_source(path)
    for suffix in CONVERTED:
        with pytest.raises(UserError) as caught:
            convert(source, tmp_path / f"out{suffix}")
        assert caught.value.code == "missing_dataset"
    source.close()
    assert [path.name for path in tmp_path.iterdir()] == ["file.h5"]


def test_the_boundary_of_a_file_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "1D_CFD_Rand_Eta0.1_Zeta0.1_trans_Train.hdf5", "compressible_ns_1d")
    source = open_source(path)
    assert source.boundary.as_names() == [["outflow", "outflow"]]
    for suffix in CONVERTED:
        other = open_source(convert(source, tmp_path / f"renamed{suffix}"))
        same(source, other)
        other.close()
    source.close()


def test_convert_and_show_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "file.h5", "darcy")
    for words in (
        ("convert", path, tmp_path / "file.zarr"),
        ("check", tmp_path / "file.zarr"),
        ("show", tmp_path / "file.zarr", "-o", tmp_path / "file.png", "--trajectory", "2"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["data", *map(str, words)])
        assert not ended.value.code, capsys.readouterr().err
    assert (tmp_path / "file.png").stat().st_size > 0


@pytest.mark.parametrize("name", [name for name in FAMILIES if known_family(name).ndim < 3])
def test_every_family_can_be_drawn(tmp_path: Path, name: str) -> None:
    from ups_server.pictures import save_picture

    source = open_source(write(tmp_path / "file.h5", name))
    save_picture(source.preview(COUNT - 1), tmp_path / "file.png")
    assert (tmp_path / "file.png").stat().st_size > 0
    source.close()


def test_three_dimensions_cannot_be_drawn(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "file.h5", "compressible_ns_3d"))
    with pytest.raises(UserError) as caught:
        source.preview(0)
    assert caught.value.code == "picture_not_available"
    source.close()
