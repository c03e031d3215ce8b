"""A small file in each published layout that this program reads, written from the layout's description by other
libraries than ours.

PDEBench's are those of its paper and repository (Takamoto et al., 2022); those of others: `tests/mapped_files.py`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
import yaml
from numpy.typing import NDArray
from scipy.io import savemat

from tests.mapped_files import LAYOUTS, Values

ROWS, FRAMES, POINTS = 4, 6, 16


@dataclass(frozen=True)
class Held:
    """What a file holds: values (N, T, X..., C), static fields (N, X..., S)."""

    values: Values
    static: Values | None = None


@dataclass(frozen=True)
class Published:
    """A layout.

    Attributes:
        name: as the table of `docs/formats.md` has it.
        file: the name of the file or folder; with `*` of several files that are one data set.
        write: writes it and gives what it holds.
        mapped: is it read by a mapping?
        changes: what a user corrects in the mapping that is proposed.
        family: that it holds; None where the mapping declares an equation.
        folder: is it a folder that is one file to its readers, as Zarr is?
    """

    name: str
    file: str
    write: Callable[[Path], Held]
    mapped: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None
    folder: bool = False

    @property
    def id(self) -> str:
        """The name as an identifier."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    @property
    def several(self) -> bool:
        """Are several files one data set?"""
        return "*" in self.file


def numbers(*shape: int, seed: int = 1) -> Values:
    """No two are alike, none is negative."""
    return np.random.default_rng(seed).random(shape, np.float32) + np.float32(0.5)


def cells(low: float, high: float) -> NDArray[np.float32]:
    """The centres of cells, as PDEBench stores coordinates."""
    return np.asarray(low + (np.arange(POINTS) + 0.5) * (high - low) / POINTS, np.float32)


def single(
    path: Path,
    fields: tuple[str, ...] = ("tensor",),
    attributes: Mapping[str, float] | None = None,
    ndim: int = 1,
    low: float = 0.0,
    dt: float = 0.01,
    compression: str | None = "gzip",
) -> Held:
    """One dataset a field, (N, T, X...), and coordinates beside it; there is a time too many."""
    values = numbers(ROWS, FRAMES, *(POINTS,) * ndim, len(fields))
    with h5py.File(path, "w") as file:
        for channel, name in enumerate(fields):
            file.create_dataset(name, data=values[..., channel], compression=compression)
        for axis in "xyz"[:ndim]:
            file.create_dataset(f"{axis}-coordinate", data=cells(low, 1.0), compression=compression)
        file["t-coordinate"] = (np.arange(FRAMES + 1) * dt).astype(np.float32)
        file.attrs.update(attributes or {})
    return Held(values)


def darcy(path: Path) -> Held:
    """A steady state: `tensor` (N, 1, X, Y) beside the permeability `nu` (N, X, Y), and no times."""
    values = numbers(ROWS, 1, POINTS, POINTS, 1)
    static = np.where(numbers(ROWS, POINTS, POINTS, 1, seed=2) > 1.0, np.float32(1.0), np.float32(0.1))
    with h5py.File(path, "w") as file:
        file["tensor"], file["nu"] = values[..., 0], static[..., 0]
        file["x-coordinate"] = file["y-coordinate"] = cells(0.0, 1.0)
        file.attrs["beta"] = 1.0
    return Held(values, static)


def grouped(
    path: Path, config: Mapping[str, Any], extent: tuple[float, float], dt: float, axes: str, fields: int
) -> Held:
    """One group a seed: `data` (T, X..., C), `grid/x`, `grid/t`, and the generator's configuration as YAML; LZF.

    Args:
        axes: in the order in which they are stored.
    """
    stored = numbers(ROWS, FRAMES, *(POINTS,) * len(axes), fields)
    with h5py.File(path, "w") as file:
        for row, data in enumerate(stored):
            group = file.create_group(f"{row:04d}")
            group.create_dataset("data", data=data, compression="lzf")
            for axis in axes:
                group.create_dataset(f"grid/{axis}", data=cells(*extent), compression="lzf")
            group.create_dataset("grid/t", data=(np.arange(FRAMES) * dt).astype(np.float32), compression="lzf")
            sim = {**config["sim"], "seed": row, "xdim": POINTS, "tdim": FRAMES}
            group.attrs["config"] = yaml.safe_dump({**config, "sim": sim})
    order = sorted(range(len(axes)), key=lambda place: axes[place])
    return Held(np.ascontiguousarray(stored.transpose(0, 1, *(2 + place for place in order), stored.ndim - 1)))


def incompressible(path: Path) -> Held:
    """A batch a file: `velocity` (B, T, X, Y, 2), `particles` (B, T, X, Y, 1), `force` (B, X, Y, 2), `t` (B, T).

    The set is published as many such files.
    """
    frames, found = 11, []
    for number in range(2) if "*" in path.name else (0,):
        rows = ROWS if "*" not in path.name else ROWS // 2
        velocity = numbers(rows, frames, POINTS, POINTS, 2, seed=10 + number)
        particles = numbers(rows, frames, POINTS, POINTS, 1, seed=20 + number)
        force = numbers(rows, POINTS, POINTS, 2, seed=30 + number)
        with h5py.File(path.with_name(path.name.replace("*", str(number))), "w") as file:
            file["velocity"], file["particles"], file["force"] = velocity, particles, force
            file["t"] = np.tile(np.arange(frames) * np.float32(0.005), (rows, 1))
            file.attrs["config"] = yaml.safe_dump({"NU": 0.01, "n_batch": rows, "sim_name": "ns_sim_2d"})
        found.append((np.concatenate([velocity, particles], -1), force))
    values, static = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Held(values, static)


def shocks(path: Path) -> Held:
    """As many files of one trajectory each: MATLAB 5, and the viscosity of each inside."""
    values = numbers(ROWS, FRAMES, POINTS, 1)
    x, t = np.arange(POINTS) / POINTS, np.arange(FRAMES) * 0.25
    for row, data in enumerate(values):
        stored = {"x": x[:, None], "t": t[:, None], "u": data[..., 0].T, "nu": 0.01 * (row + 1)}
        savemat(path.with_name(path.name.replace("*", str(row + 1))), stored, appendmat=False)
    return Held(values)


def named(values: Values) -> xr.Dataset:
    """A dataset whose variables and axes have the names of a family: `data/README.md`."""
    times, x = np.arange(FRAMES) * 0.01, (np.arange(POINTS) + 0.5) / POINTS
    axes = ("trajectory", "time", "x")
    return xr.Dataset({"u": (axes, values[..., 0])}, {"time": times, "x": x, "beta": 0.4}, {"family": "advection"})


def netcdf(path: Path) -> Held:
    values = numbers(ROWS, FRAMES, POINTS, 1)
    named(values).to_netcdf(path, engine="h5netcdf")
    return Held(values)


def zarr(path: Path) -> Held:
    values = numbers(ROWS, FRAMES, POINTS, 1)
    named(values).to_zarr(path, zarr_format=3, consolidated=False)
    return Held(values)


def npz(path: Path) -> Held:
    """`data`, `times`, `x`, and what they are as JSON: `data/README.md`."""
    values, data = numbers(ROWS, FRAMES, POINTS, 1), named(numbers(ROWS, FRAMES, POINTS, 1))
    header = json.dumps({"family": "advection", "coefficients": {"beta": 0.4}})
    np.savez(path, data=values, times=data["time"].values, x=data["x"].values, header=np.array(header))
    return Held(values)


def mapped(file: str) -> Published:
    """A layout of `tests/mapped_files.py`."""
    layout = LAYOUTS[file]

    def write(path: Path) -> Held:
        values = layout.write(path)
        segments = int(changes.get("segments", 1))
        return Held(values.reshape(len(values) * segments, -1, *values.shape[2:]))

    # One trajectory is no data set to learn from.
    changes = {**layout.changes, **({"segments": 3} if file == "plain.npz" else {})}
    return Published(layout.name, file, write, mapped=True, changes=changes, folder=layout.folder)


def gas(ndim: int, low: float, dt: float, **more: float) -> Callable[[Path], Held]:
    """Compressible flow: velocities, density and pressure."""
    fields = (*("Vx", "Vy", "Vz")[:ndim], "density", "pressure")
    return partial(single, fields=fields, attributes={"eta": 0.1, "zeta": 0.1, **more}, ndim=ndim, low=low, dt=dt)


SORPTION = {"D": 5e-4, "por": 0.29, "rho_s": 2880, "k_f": 3.5e-4, "n_f": 0.874, "sol": 1.0, "t": 500}
REACTION = {"Du": 1e-3, "Dv": 5e-3, "k": 5e-3, "t": 5}


def groups(
    name: str, sim: Mapping[str, Any], extent: tuple[float, float], dt: float, axes: str, fields: int
) -> Callable[[Path], Held]:
    return partial(grouped, config={"name": name, "sim": sim}, extent=extent, dt=dt, axes=axes, fields=fields)


PDEBENCH: dict[str, tuple[str, Callable[[Path], Held]]] = {
    "advection": ("1D_Advection_Sols_beta0.4.hdf5", partial(single, attributes={"beta": 0.4})),
    "burgers": ("1D_Burgers_Sols_Nu0.001.hdf5", partial(single, attributes={"Nu": 0.001}, compression="lzf")),
    "diffusion_reaction_1d": ("ReacDiff_Nu0.5_Rho1.0.hdf5", partial(single, attributes={"Nu": 0.5, "rho": 1.0})),
    "compressible_ns_1d": ("1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5", gas(1, -1.0, 0.01)),
    "compressible_ns_2d": ("2D_CFD_Rand_M0.1_Eta0.1_Zeta0.1_periodic_128_Train.hdf5", gas(2, 0.0, 0.05, M=0.1)),
    "compressible_ns_3d": ("3D_CFD_Rand_M0.1_Eta0.1_Zeta0.1_periodic_Train.hdf5", gas(3, 0.0, 0.05, M=0.1)),
    "darcy": ("2D_DarcyFlow_beta1.0_Train.hdf5", darcy),
    "diffusion_sorption": ("1D_diff-sorp_NA_NA.h5", groups("1d_diff-sorp", SORPTION, (0.0, 1.0), 5.0, "x", 1)),
    "diffusion_reaction_2d": ("2D_diff-react_NA_NA.h5", groups("2d_diff-react", REACTION, (-1.0, 1.0), 0.05, "yx", 2)),
    "shallow_water": ("2D_rdb_NA_NA.h5", groups("2d_rdb", {"gravity": 1.0}, (-2.5, 2.5), 0.01, "xy", 1)),
    "incompressible_ns_2d": ("ns_incom_inhom_2d_512-0.h5", incompressible),
}
"""Family -> the name of a published file, and what writes one."""

PUBLISHED = (
    *(Published(f"PDEBench: {family}", file, write, family=family) for family, (file, write) in PDEBENCH.items()),
    Published(
        "PDEBench: several files as one", "ns_incom_inhom_2d_512-*.h5", incompressible, family="incompressible_ns_2d"
    ),
    *map(mapped, LAYOUTS),
    Published(
        "MATLAB 5, several files as one",
        "shock_*.mat",
        shocks,
        mapped=True,
        changes={"boundary": [["periodic", "periodic"]]},
    ),
    Published("NetCDF-4 with the names of a family", "family.nc", netcdf, family="advection"),
    Published("Zarr 3 with the names of a family", "family.zarr", zarr, family="advection", folder=True),
    Published("npz with the names of a family", "family.npz", npz, family="advection"),
)
"""In the order of the table."""
