"""A file in each layout that a mapping reads, written from its published description by other libraries than ours."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import xarray as xr
import zarr
from numpy.typing import NDArray
from scipy.io import netcdf_file, savemat

Values = NDArray[np.float32]
ROWS, FRAMES, POINTS = 4, 6, 16
TIMES = np.arange(FRAMES) * 0.25
RNG = np.random.default_rng(3)


def waves(rows: int = ROWS, ndim: int = 1, channels: int = 1) -> Values:
    """(rows, T, X..., C): waves in every direction."""
    axes = np.meshgrid(*[np.arange(POINTS) / POINTS] * ndim, indexing="ij")
    phase = sum((number + 1) * axis for number, axis in enumerate(axes))
    shift = np.arange(rows)[:, None, None] * 0.3 + TIMES[:, None] + np.arange(channels) * 0.11
    angle = 2 * np.pi * (np.asarray(phase)[None, None, ..., None] - shift.reshape(rows, FRAMES, *[1] * ndim, channels))
    return np.asarray(np.sin(angle), np.float32)


@dataclass(frozen=True)
class Layout:
    """A layout that is read.

    Attributes:
        write: writes a file and gives its values (B, T, X..., C).
        changes: what a user would correct in the proposed mapping.
        recognised: the collection that `inspect` names.
        folder: is it a folder, which cannot be uploaded?
    """

    name: str
    write: Callable[[Path], Values]
    changes: dict[str, Any]
    recognised: str | None = None
    folder: bool = False


def matlab_5(path: Path) -> Values:
    """The files of PINNs: x on nodes with both ends, t, usol (x, t)."""
    x = np.linspace(-1, 1, POINTS)
    t = np.arange(40) * 0.025
    values = (np.sin(np.pi * x)[:, None] * np.exp(-t)).astype(np.float32)
    savemat(path, {"x": x[:, None], "t": t[:, None], "usol": values}, appendmat=False, do_compression=True)
    return np.ascontiguousarray(values.T.reshape(5, 8, POINTS, 1))


def matlab_73(path: Path) -> Values:
    """HDF5 behind a block of 512 bytes; MATLAB stores its axes in reverse order."""
    values = waves()
    with h5py.File(path, "w", userblock_size=512) as file:
        file["u"] = values[..., 0]  # MATLAB shows (x, t, n)
        file["t"], file["x"] = TIMES[None], (np.arange(POINTS) / POINTS)[None]
        for entry in file.values():
            entry.attrs["MATLAB_class"] = np.bytes_("single" if entry.ndim == 3 else "double")
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return values


def npy(path: Path) -> Values:
    """An array as APEBench exports it: (samples, frames, channels, x)."""
    values = waves(channels=2)
    np.save(path, np.moveaxis(values, -1, 2))
    return values


def npz(path: Path) -> Values:
    """As DeepXDE's: t, x and usol (t, x), compressed here."""
    values = waves(1)
    t = np.arange(FRAMES)[:, None] * 0.25
    np.savez_compressed(path, usol=values[0, ..., 0], t=t, x=(np.arange(POINTS) / POINTS)[:, None])
    return values


def tensors(path: Path) -> Values:
    """As neuraloperator's: a dictionary of tensors."""
    values = waves()
    torch.save({"u": torch.tensor(values[..., 0]), "t": torch.tensor(TIMES)}, path)
    return values


def the_well(path: Path) -> Values:
    values = waves(ndim=2, channels=3)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {"simulation_parameters": ["Re"], "Re": 100.0, "dataset_name": "tiny_flow", "grid_type": "cartesian"}
        )
        file.attrs.update({"n_spatial_dims": 2, "n_trajectories": ROWS})
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        dimensions["time"] = TIMES.astype(np.float32)
        dimensions["time"].attrs["sample_varying"] = False
        conditions = file.create_group("boundary_conditions")
        for axis in "xy":
            dimensions[axis] = (np.arange(POINTS) / POINTS).astype(np.float32)
            dimensions[axis].attrs.update({"sample_varying": False, "time_varying": False})
            side = conditions.create_group(f"{axis}_periodic")
            side.attrs.update({"associated_dims": [axis], "bc_type": "PERIODIC", "sample_varying": False})
            side["mask"] = np.isin(np.arange(POINTS), (0, POINTS - 1))
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = ["Re"]
        scalars["Re"] = np.float32(100.0)
        scalars["Re"].attrs.update({"sample_varying": False, "time_varying": False})
        for group, name, stored in (
            ("t0_fields", "tracer", values[..., 0]),
            ("t1_fields", "velocity", values[..., 1:]),
        ):
            fields = file.create_group(group)
            fields.attrs["field_names"] = [name]
            fields[name] = stored
            fields[name].attrs.update({"dim_varying": [True, True], "sample_varying": True, "time_varying": True})
        file.create_group("t2_fields").attrs["field_names"] = np.array([], "S1")
    return values


def pdearena(path: Path) -> Values:
    values = waves(ndim=2, channels=3)
    coordinates = np.tile((np.arange(POINTS) + 0.5) * 2.0, (ROWS, 1))
    with h5py.File(path, "w") as file:
        group = file.create_group("train")
        for channel, name in enumerate(("vx", "vy", "u")):
            group[name] = values[..., channel]
        group["t"], group["x"], group["y"] = np.tile(TIMES, (ROWS, 1)), coordinates, coordinates
        group["buo_y"] = np.linspace(0.2, 0.5, ROWS).astype(np.float32)
    return values


def pdegym(path: Path) -> Values:
    values = waves(ndim=2, channels=2)
    axes = ("member", "time", "channel", "x", "y")
    xr.Dataset({"velocity": (axes, np.moveaxis(values, -1, 2))}).to_netcdf(path, engine="h5netcdf")
    return values


def netcdf_4(path: Path) -> Values:
    """CF conventions, values packed into integers of 16 bits."""
    values = np.round(waves() * 1000).astype(np.float32) / np.float32(1000)
    data = xr.Dataset(
        {"u": (("sample", "time", "x"), values[..., 0], {"units": "m"})},
        {"time": TIMES, "x": (np.arange(POINTS) + 0.5) / POINTS, "nu": ((), 0.01)},
        {"Conventions": "CF-1.8", "title": "waves"},
    )
    packing = {"u": {"dtype": "i2", "scale_factor": np.float32(0.001), "_FillValue": np.int16(-32768)}}
    data.to_netcdf(path, engine="h5netcdf", encoding=packing)
    with xr.open_dataset(path, engine="h5netcdf") as stored:
        return stored["u"].values.astype(np.float32)[..., None]


def netcdf_3(path: Path) -> Values:
    values = waves()
    with netcdf_file(path, "w") as file:
        for name, n in (("sample", ROWS), ("time", FRAMES), ("x", POINTS)):
            file.createDimension(name, n)
        file.createVariable("u", "f4", ("sample", "time", "x"))[:] = values[..., 0]
        file.createVariable("time", "f8", ("time",))[:] = TIMES
        file.createVariable("x", "f8", ("x",))[:] = (np.arange(POINTS) + 0.5) / POINTS
    return values


def zarr_of(version: int, names: Callable[[list[str]], dict[str, Any]]) -> Callable[[Path], Values]:
    def write(path: Path) -> Values:
        values = waves()
        group = zarr.open_group(path, mode="w", zarr_format=version)  # type: ignore[arg-type]
        for name, axes, array in (
            ("u", ["sample", "time", "x"], values[..., 0]),
            ("time", ["time"], TIMES),
            ("x", ["x"], (np.arange(POINTS) + 0.5) / POINTS),
        ):
            made = group.create_array(name, shape=array.shape, dtype=array.dtype, **names(axes))
            made[...] = array
            if version == 2:
                made.attrs["_ARRAY_DIMENSIONS"] = axes
        return values

    return write


zarr_3 = zarr_of(3, lambda axes: {"dimension_names": axes})
zarr_2 = zarr_of(2, lambda axes: {})


def zip_of(write: Callable[[Path], Values]) -> Callable[[Path], Values]:
    def zipped(path: Path) -> Values:
        folder = path.with_suffix(".folder")
        values = write(folder)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for entry in sorted(folder.rglob("*")):
                if entry.is_file():
                    archive.write(entry, entry.relative_to(folder).as_posix())
        return values

    return zipped


LAYOUTS = {
    "burgers_shock.mat": Layout("MATLAB 5", matlab_5, {"space": {"x": {"array": "x", "points": "ends"}}}),
    "waves.mat": Layout("MATLAB 7.3", matlab_73, {"boundary": [["periodic", "periodic"]]}),
    "ape.npy": Layout("APEBench (.npy)", npy, {"time": {"start": 0.0, "step": 0.25}}, "APEBench"),
    "plain.npz": Layout("npz of plain arrays", npz, {}),
    "waves.pt": Layout("PyTorch tensors (.pt)", tensors, {}),
    "well.hdf5": Layout("The Well", the_well, {}, "The Well"),
    "arena.h5": Layout("PDEArena", pdearena, {}, "PDEArena"),
    "gym.nc": Layout("PDEGym (Poseidon)", pdegym, {"time": {"start": 0.0, "step": 0.25}}, "PDEGym"),
    "cf.nc": Layout("NetCDF-4 with CF conventions", netcdf_4, {}, "CF conventions"),
    "classic.nc": Layout("NetCDF-3", netcdf_3, {}, "CF conventions"),
    "three.zarr": Layout("Zarr 3, folder", zarr_3, {}, "CF conventions", folder=True),
    "two.zarr": Layout("Zarr 2, folder", zarr_2, {}, "CF conventions", folder=True),
    "three.zarr.zip": Layout("Zarr 3, zip", zip_of(zarr_3), {}, "CF conventions"),
    "two.zarr.zip": Layout("Zarr 2, zip", zip_of(zarr_2), {}, "CF conventions"),
}
"""File name -> layout; `docs/data.md` lists the same."""
