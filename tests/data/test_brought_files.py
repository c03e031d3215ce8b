"""Files as scientists bring them, whose arrays nobody made for this program: what is proposed for them is right or says
what it does not know, and reads the same on the command line and as an upload."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
import yaml
import zarr
from scipy.io import savemat

from tests.cases import ups
from tests.files.examined import examined
from ups_server.data.formats import open_source
from ups_server.data.mapping import Mapping
from ups_server.data.store import Store

ROWS, FRAMES, POINTS = 3, 12, 32
X, T = (np.arange(POINTS) + 0.5) / POINTS, np.arange(FRAMES) * 0.05
U = np.stack([np.sin(2 * np.pi * (X[None] - 0.4 * T[:, None] - 0.2 * row)) for row in range(ROWS)]).astype(np.float32)
LAT, LON = np.linspace(-40, 40, 16), np.arange(8) * 45.0
H = np.asarray(
    np.sin(2 * np.pi * (LAT[:, None] / 80 + LON / 360 - T[:, None, None] - 0.1 * np.arange(ROWS)[:, None, None, None])),
    np.float32,
)
UNIT = {"low": 0.0, "high": 1.0, "points": "cells"}


def weather(path: Path) -> None:
    """Latitudes from the north to the south, as reanalyses have them."""
    axes = ("run", "time", "lat", "lon")
    data = xr.Dataset({"h": (axes, H[:, :, ::-1])}, {"time": T, "lat": LAT[::-1], "lon": LON})
    data.to_netcdf(path, engine="h5netcdf")


def reversed_axes(path: Path) -> None:
    """As Julia's HDF5 writes an array (trajectory, time, x), with its own names of the grids."""
    with h5py.File(path, "w") as file:
        file["U"], file["xgrid"], file["tgrid"] = np.transpose(U, (2, 1, 0)), X, T


def scalar_steps(path: Path) -> None:
    np.savez(path, u=U[0], dx=1 / POINTS, dt=0.05)


def steps_in_attributes(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["u"] = U[:, None, :, :, None]
        file.attrs.update({"dt": 0.05, "dx": 1 / POINTS, "nu": 0.01})


def one_based(path: Path) -> None:
    savemat(path, {"u": U[0].T[None], "t": T[None], "x": np.arange(1.0, POINTS + 1)[None]})


def fortran_order(path: Path) -> None:
    np.save(path, np.asfortranarray(U.astype(">f8")))


def descending(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["u"], file["x"], file["t"] = U[:, :, ::-1], X[::-1].astype("f4"), np.linspace(0, 0.55, FRAMES, dtype="f4")


def mesh(path: Path) -> None:
    times, places = np.meshgrid(T, X, indexing="ij")
    np.savez(path, u=U, x=places, t=times)


def runs_in_groups(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for row in (2, 0, 1):
            group = file.create_group(f"simulations/run_{row + 9}")  # 10 comes after 9
            group["u"], group["t"], group["x"], group["nu"] = U[row], T, X, 0.1 * (row + 1)


def folder_in_a_zip(path: Path) -> None:
    folder = path.with_suffix(".folder") / "waves.zarr"
    root = zarr.open_group(folder, mode="w")
    for name, values, names in (("u", U, ["sample", "time", "x"]), ("time", T, ["time"]), ("x", X, ["x"])):
        made = root.create_array(name, shape=values.shape, dtype=values.dtype, dimension_names=names)
        made[...] = values
    with zipfile.ZipFile(path, "w") as archive:
        for entry in sorted(folder.rglob("*")):
            if entry.is_file():
                archive.write(entry, entry.relative_to(folder.parent).as_posix())


def channels_first(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["velocity"], file["time"] = np.stack([H, 0.5 * H], 1), T
        file["x"], file["y"] = np.arange(16) / 16, np.arange(8) / 8


@dataclass(frozen=True)
class Brought:
    """A file, what is proposed for it and what its user changes, and the values (B, T, X..., C) that it then gives."""

    make: Callable[[Path], None]
    values: Any
    proposed: dict[str, Any]
    changes: dict[str, Any]


LINE = U[..., None]
SIDES = {"boundary": [["periodic", "periodic"]]}
FILES = {
    "weather.nc": Brought(
        weather,
        np.moveaxis(H, 2, 3)[..., None],
        {"axes": ["trajectory", "time", "y", "x"], "space": {"x": {"array": "lon", "points": "nodes"}}},
        {"boundary": [["periodic", "periodic"], ["dirichlet", "dirichlet"]]},
    ),
    "julia.h5": Brought(reversed_axes, LINE, {"axes": ["x", "time", "trajectory"], "time": {"array": "tgrid"}}, {}),
    "scalar_steps.npz": Brought(
        scalar_steps, LINE[:1], {"time": {"start": 0.0, "step": 0.05}, "space": {"x": UNIT}, "coefficients": None}, {}
    ),
    "attributes.h5": Brought(
        steps_in_attributes,
        LINE,
        {
            "axes": ["trajectory", "-", "time", "x", "-"],
            "time": {"start": 0.0, "step": 0.05},
            "coefficients": {"nu": {"attribute": "nu"}},
        },
        {},
    ),
    "one_based.mat": Brought(one_based, LINE[:1], {"axes": ["-", "x", "time"]}, {}),
    "fortran.npy": Brought(fortran_order, LINE, {"axes": ["trajectory", "time", "x"]}, {}),
    "descending.h5": Brought(descending, LINE, {"space": {"x": {"array": "x", "points": "cells"}}}, {}),
    "mesh.npz": Brought(mesh, LINE, {"time": {"array": "t"}, "space": {"x": {"array": "x", "points": "cells"}}}, {}),
    "runs.h5": Brought(
        runs_in_groups,
        LINE,
        {
            "axes": ["trajectory", "time", "x"],
            "time": {"array": "simulations/*/t"},
            "coefficients": {"nu": {"array": "simulations/*/nu"}},
        },
        {},
    ),
    "nested.zarr.zip": Brought(folder_in_a_zip, LINE, {"axes": ["trajectory", "time", "x"]}, SIDES),
    "channels_first.h5": Brought(
        channels_first, np.stack([H, 0.5 * H], -1), {"axes": ["trajectory", "component", "time", "x", "y"]}, {}
    ),
}


def proposal(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert ups("data", "inspect", str(path)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("name", FILES)
def test_by_what_is_proposed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    brought, path, written = FILES[name], tmp_path / name, tmp_path / "mapping.yaml"
    brought.make(path)
    text = proposal(path, capsys)
    assert "&" not in text, "no aliases, which an upload refuses"
    document = yaml.safe_load(text)
    for entry, expected in brought.proposed.items():
        found = document.get(entry)
        assert found == expected or {**(found or {}), **(expected or {})} == found, (entry, found)
    document.update(brought.changes)
    written.write_text(yaml.safe_dump(document))
    assert ups("data", "check", str(path), "--map", str(written)) == 0, capsys.readouterr().err
    with open_source(path, mapping=Mapping.from_file(written)) as source:
        rows, n = range(source.n_trajectories), source.grid.n
        expected = np.asarray(brought.values, np.float32)[:, :, *(slice(points) for points in n)]
        np.testing.assert_array_equal(source.read(rows), expected)
        last = len(source.times) - 1
        part = source.read([0], [last, 1], 2, 1)
        np.testing.assert_array_equal(part, expected[:1, [last, 1]][:, :, *(slice(1, None, 2),) * len(n)])
        if "nu" in source.coefficient_names:
            assert len(source.coefficients) == len(expected)
    uploaded = examined(path, tmp_path, mapping=document)
    assert uploaded.result.problem is None, uploaded.result.problem
    with Store.open(uploaded.output / "store") as store:
        np.testing.assert_array_equal(store.read(rows), expected)


def test_runs_keep_the_order_of_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs_in_groups(tmp_path / "runs.h5")
    mapping = Mapping.from_text(proposal(tmp_path / "runs.h5", capsys))
    with open_source(tmp_path / "runs.h5", mapping=mapping) as source:
        np.testing.assert_allclose(source.coefficients[:, 0], [0.1, 0.2, 0.3])
    with h5py.File(tmp_path / "runs.h5", "a") as file:
        del file["simulations/run_10/u"]
        file["simulations/run_10/u"] = U[1, :6]
    assert ups("data", "check", str(tmp_path / "runs.h5"), "--map", str(_kept(mapping, tmp_path))) == 2
    assert "simulations/run_10/u is not as" in capsys.readouterr().err


def _kept(mapping: Mapping, folder: Path) -> Path:
    path = folder / "mapping.json"
    path.write_text(json.dumps(mapping.model_dump(mode="json", exclude_none=True)))
    return path


def complex_tensor(path: Path) -> None:
    torch.save(torch.tensor(U).to(torch.complex64), path)


def struct(path: Path) -> None:
    savemat(path, {"data": {"u": U[0], "t": T}})


def empty_rows(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["u"], file["x"], file["t"] = np.zeros((0, FRAMES, POINTS), "f4"), X, T


def table(path: Path) -> None:
    path.write_text("t,x,u\n0,0,1\n0,1,2\n")


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("complex.pt", complex_tensor, ("complex64", "save complex ones as two")),
        ("struct.mat", struct, ("structs", "names of their own")),
        ("empty.h5", empty_rows, ("u: float32 (0, 12, 32)",)),
        ("table.csv", table, ("table.csv is of no format that is read", "numpy.loadtxt")),
    ],
)
def test_what_cannot_be_mapped_says_why(
    name: str, make: Callable[[Path], None], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / name)
    assert ups("data", "inspect", str(tmp_path / name)) == 2
    said = capsys.readouterr().err
    for each in words:
        assert each in said
