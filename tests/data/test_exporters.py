"""Every format gives back what went in."""

import json
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from ups_server.data.export import encode, export, exporter_of, media_types, suffixes
from ups_server.data.formats import open_source
from ups_server.data.formats.netcdf import to_dataset
from ups_server.errors import UserError
from ups_server.pde import Trajectory, family

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
    if format == "netcdf":
        with xr.open_dataset(BytesIO(content), engine="h5netcdf") as dataset:
            return np.asarray(dataset["u"].values[..., None])
    with h5py.File(BytesIO(content)) as file:
        return np.asarray(file["tensor"][:][..., None])


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_round_trip(format: str) -> None:
    content = encode(format, VALUES, TIMES, BURGERS, GRID, {"nu": NU})
    assert np.array_equal(data_of(format, content), VALUES)


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "hdf5"])
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
