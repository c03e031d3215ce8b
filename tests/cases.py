"""Files as people bring them, each with what has to be said of it: on the command line and over HTTP alike."""

import io
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.io import netcdf_file, savemat

from tests.pdebench_files import write
from ups_server.cli import main
from ups_server.data.export import convert
from ups_server.data.formats import open_source

ROWS, FRAMES, POINTS, BETA = 6, 41, 64, 0.4
X: NDArray[np.float64] = (np.arange(POINTS) + 0.5) / POINTS
T: NDArray[np.float64] = np.arange(FRAMES, dtype=np.float64) * 0.05
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "cases"


@dataclass(frozen=True)
class Case:
    """A file and what becomes of it.

    Attributes:
        make: writes it to a path.
        name: the file's name; also that of the input in `../shared/cases/inputs`, where there is one.
        outcome: `read` (every row), `partly` (some rows are left out), `unusable` (none is left), `refused`.
        says: parts of what is said, in the report or the refusal.
        left_out: the rows that are.
    """

    make: Callable[[Path], None]
    name: str
    outcome: str
    says: tuple[str, ...] = ()
    left_out: tuple[int, ...] = ()


def moving(
    x: NDArray[np.float64] = X, t: NDArray[np.float64] = T, speed: float = BETA, rows: int = ROWS
) -> NDArray[np.float32]:
    """(rows, T, X): smooth waves that move at a speed."""
    rng = np.random.default_rng(5)
    phase = x - speed * t[:, None] + rng.random((rows, 1, 1))
    waves = [
        rng.normal(size=(rows, 1, 1)) * np.sin(2 * np.pi * number * phase + 6 * rng.random((rows, 1, 1)))
        for number in (1, 2, 3)
    ]
    return np.asarray(np.sum(waves, axis=0), np.float32)


def single(
    path: Path,
    values: NDArray[np.float32],
    attributes: Mapping[str, Any],
    x: NDArray[np.float64] = X,
    t: NDArray[np.float64] = T,
) -> None:
    with h5py.File(path, "w") as file:
        file["tensor"] = values
        file["x-coordinate"] = x.astype(np.float32)
        file["t-coordinate"] = t.astype(np.float32)
        file.attrs.update(attributes)


def with_lzf(family: str) -> Callable[[Path], None]:
    """A file of groups whose datasets are compressed with LZF, as PDEBench's generators write them."""

    def make(path: Path) -> None:
        write(path, family)
        with h5py.File(path, "a") as file:
            for group in file.values():
                for name in ("data", *(f"grid/{axis}" for axis in group["grid"])):
                    values = group[name][()]
                    del group[name]
                    group.create_dataset(name, data=values, compression="lzf")

    return make


def nan_rows(path: Path) -> None:
    values = moving()
    values[2, 10:] = values[4, 0, 0] = np.nan
    single(path, values, {"beta": BETA})


def netcdf(path: Path, family: str, coefficients: Mapping[str, Any]) -> None:
    """As `ups solve` and `ups data convert` write it, with other coefficients."""
    data = xr.Dataset(
        {"u": (("trajectory", "time", "x"), moving())},
        {"time": T, "x": X, **coefficients},
        {"family": family},
    )
    data.to_netcdf(path, engine="h5netcdf")


def our_netcdf(path: Path) -> None:
    source = path.with_name(f"{path.name}.source.h5")
    single(source, moving(), {"beta": BETA})
    convert(open_source(source), path)


def empty_attributes(path: Path) -> None:
    single(path, moving(), {"beta": BETA})
    with h5py.File(path, "a") as file:
        file.attrs["comment"] = h5py.Empty("S10")
        file.attrs["nu"] = h5py.Empty("f8")


WRITER = """
import h5py, os, sys
file = h5py.File(sys.argv[1], "a", libver="latest")
file.flush()
os._exit(0)
"""


def writer_was_killed(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file["tensor"] = moving()
    subprocess.run([sys.executable, "-c", WRITER, str(path)], check=True)


def heat(path: Path) -> None:
    """u_t = nu u_xx with an attribute that Burgers' files have too."""
    waves = np.fft.rfft(moving(t=T[:1])[:, 0], axis=-1)
    decay = np.exp(-0.001 * (2 * np.pi * np.arange(waves.shape[-1])) ** 2 * T[:, None])
    single(path, np.fft.irfft(waves[:, None] * decay, POINTS).astype(np.float32), {"nu": 0.001})


def sentinel(path: Path) -> None:
    values = moving()
    values[1, :, 3] = values[5, 2:, 40] = -9999.0
    single(path, values, {"beta": BETA})


def sparse_chunks(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("tensor", (ROWS, FRAMES, POINTS), "f4", chunks=(1, FRAMES, POINTS))[:3] = moving()[:3]
        file["x-coordinate"], file["t-coordinate"] = X, T
        file.attrs["beta"] = BETA


def the_well(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["dataset_name"] = "toy"
        file["dimensions/x"] = np.arange(16, dtype="f4")
        file["t0_fields/tracer"] = np.ones((2, 5, 16, 16), "f4")
        file["boundary_conditions/x_periodic/mask"] = np.ones(16, bool)
        file["scalars/nu"] = np.float32(0.01)


def pbdl(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number in range(3):
            file[f"sims/sim{number}"] = np.ones((5, 3, 16, 16), "f4")


def classic_netcdf(path: Path) -> None:
    stream = io.BytesIO()
    with netcdf_file(stream, "w") as file:
        file.createDimension("x", POINTS)
        file.createVariable("u", "f4", ("x",))[:] = 1.0
        file.flush()
        path.write_bytes(stream.getvalue())


SQUARE = (np.arange(FRAMES) + 0.5) / FRAMES
ENDS = np.linspace(0.0, 1.0, POINTS)
LOG: NDArray[np.float64] = np.append(0.0, np.geomspace(0.01, 2.0, FRAMES - 1)).astype(np.float64)
ADVECTION = {"beta": BETA}

CASES = {
    "lzf-sorption": Case(with_lzf("diffusion_sorption"), "1D_diff-sorp_NA_NA.lzf.h5", "read"),
    "lzf-react2d": Case(with_lzf("diffusion_reaction_2d"), "2D_diff-react_NA_NA.lzf.h5", "read"),
    "row-shift": Case(nan_rows, "adv_nan_rows.hdf5", "partly", ("u holds values that are not finite",), (2, 4)),
    "nc-no-coef": Case(
        lambda path: netcdf(path, "burgers", {}), "nc_burgers_no_nu.nc", "refused", ("does not say nu",)
    ),
    "nc-nan-coef": Case(
        lambda path: netcdf(path, "advection", {"beta": ("trajectory", [0.4, 0.4, 0.4, 0.4, 0.4, np.nan])}),
        "nc_beta_nan.nc",
        "partly",
        ("its coefficient beta is nan",),
        (5,),
    ),
    "nc-upload": Case(our_netcdf, "nc_ours.nc", "read"),
    "npz-upload": Case(our_netcdf, "ours.npz", "read"),
    "empty-attr": Case(empty_attributes, "adv_vlenattr.hdf5", "read"),
    "locked": Case(writer_was_killed, "locked.hdf5", "refused", ("is open for writing in another process", "h5clear")),
    "no-coef-option": Case(
        lambda path: single(path, moving(), {}), "data.hdf5", "refused", ("does not say which equation",)
    ),
    "heat-as-burgers": Case(heat, "heat_nu.hdf5", "read", ("guessed from the attribute nu alone", "do not move as")),
    "allen-cahn-as-rd": Case(
        lambda path: single(path, moving(), {"nu": 1e-4, "rho": 5.0}),
        "allen_cahn_nu_rho.hdf5",
        "unusable",
        ("u must not be negative", "guessed from the attributes nu, rho alone"),
    ),
    "old-speed": Case(
        lambda path: single(path, moving(speed=2 * BETA), ADVECTION),
        "1D_Advection_Sols_beta0.4_oldspeed.hdf5",
        "read",
        ("do not move as advection", "with twice the beta that the file says", "issue #46"),
    ),
    "square-transposed": Case(
        lambda path: single(path, moving(SQUARE).swapaxes(1, 2), ADVECTION, SQUARE),
        "adv_square_transposed.hdf5",
        "read",
        ("do not move as advection", "time and x are swapped"),
    ),
    "extra-axis": Case(
        lambda path: single(path, moving()[None], ADVECTION), "adv_leading_1.hdf5", "refused", ("has 4 axes",)
    ),
    "sentinel": Case(sentinel, "adv_fill_value_9999.hdf5", "read", ("u is exactly -9999 at",)),
    "sparse-chunks": Case(sparse_chunks, "adv_sparse_chunks.hdf5", "partly", ("never all written",), (3, 4, 5)),
    "x-endpoint": Case(
        lambda path: single(path, moving(ENDS), ADVECTION, ENDS),
        "adv_x_endpoint.hdf5",
        "refused",
        ("holds both ends of a periodic axis: its last point repeats the first",),
    ),
    "t-nonuniform": Case(
        lambda path: single(path, moving(t=LOG), ADVECTION, t=LOG), "adv_t_log.hdf5", "read", ("not equally spaced",)
    ),
    "well": Case(the_well, "well_shear_like.hdf5", "refused", ("layout of The Well",)),
    "pbdl": Case(pbdl, "pbdl_sims_like.hdf5", "refused", ("layout of PBDL",)),
    "mat-v5": Case(
        lambda path: savemat(path, {"usol": moving()}, appendmat=False),
        "burgers_shock.mat",
        "refused",
        ("burgers_shock.mat is a MATLAB 5 file", "scipy.io.loadmat"),
    ),
    "nc3": Case(classic_netcdf, "nc3_classic.nc", "refused", ("a classic netCDF file", "nccopy -k nc4")),
}
"""By the ids of `../shared/cases/cases.json`. Two of its lines are commands, not files: `tests/data/test_cases.py`."""


def expect(case: Case, check: Mapping[str, Any]) -> None:
    """What a report (`CheckReport` as JSON) of a file has to say."""
    text = " ".join([*check["problems"], *check["warnings"], *(group["reason"] for group in check["left_out"])])
    for words in case.says:
        assert words in text, (words, text)
    left_out = sorted(row for group in check["left_out"] for row in group["rows"])
    if case.outcome != "unusable":
        assert left_out == list(case.left_out)
    assert check["usable"] == check["trajectories"] - len(left_out)


def ups(*words: str | Path) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    return int(str(ended.value.code or 0))
