"""Other formats, named by their first bytes or the names in them, with how to bring them in."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ups_server.errors import UserError

FIRST_BYTES = 4096
ZIP = b"PK\x03\x04"
LAYOUT = (
    "write its arrays with h5py as PDEBench does: tensor (N, T, X), x-coordinate, t-coordinate, coefficients as "
    "attributes; data/README.md has every layout"
)


@dataclass(frozen=True)
class Foreign:
    """A format that is not read.

    Attributes:
        matches: whether a file beginning with these bytes is one.
        name: as a sentence says it.
        hint: how to bring it in.
    """

    matches: Callable[[bytes], bool]
    name: str
    hint: str


def _begins(*words: bytes) -> Callable[[bytes], bool]:
    return lambda first: first.startswith(words)


def _is_html(first: bytes) -> bool:
    return first.lstrip().lower().startswith((b"<!doctype html", b"<html"))


FOREIGN = (
    Foreign(_begins(b"MATLAB 5.0 MAT-file"), "a MATLAB 5 file", f"read it with scipy.io.loadmat and {LAYOUT}"),
    Foreign(
        _begins(b"MATLAB 7.3 MAT-file"),
        "a MATLAB 7.3 file, whose axes are in reverse order",
        f"read it with h5py, turn its axes round and {LAYOUT}",
    ),
    Foreign(
        _begins(b"CDF\x01", b"CDF\x02", b"CDF\x05"),
        "a classic netCDF file (netCDF-3), not NetCDF-4",
        "`nccopy -k nc4 IN.nc OUT.nc` makes NetCDF-4 of it",
    ),
    Foreign(_begins(b"GRIB"), "a GRIB file", f"read it with cfgrib or `cdo -f nc4 copy` and {LAYOUT}"),
    Foreign(
        _begins(b"\x93NUMPY"), "a .npy file, which says neither axes nor equation", f"load it with NumPy and {LAYOUT}"
    ),
    Foreign(
        _begins(b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "a pickle",
        f"load it where it was made and {LAYOUT}",
    ),
    Foreign(_begins(b"\x1f\x8b"), "compressed with gzip", "decompress it with gunzip, or tar -xzf"),
    Foreign(_begins(b"BZh"), "compressed with bzip2", "decompress it with bunzip2"),
    Foreign(_begins(b"\xfd7zXZ"), "compressed with xz", "decompress it with unxz"),
    Foreign(_begins(b"\x28\xb5\x2f\xfd"), "compressed with zstd", "decompress it with unzstd"),
    Foreign(_is_html, "an HTML page, such as an error in place of a download", "download the file again"),
    Foreign(
        _begins(b"version https://git-lfs.github.com/spec/"),
        "a Git LFS pointer, not the file itself",
        "`git lfs pull` fetches the file",
    ),
)
TORCH = Foreign(_begins(ZIP), "a file of torch.save", f"load it with torch.load(..., weights_only=True) and {LAYOUT}")
OTHER_ZIP = Foreign(_begins(ZIP), "a zip archive, not an npz", "unpack it")


def refuse_foreign(path: Path) -> None:
    """Raises UserError ``not_hdf5`` for a file that is empty or another format, known by its first bytes."""
    with path.open("rb") as stream:
        first = stream.read(FIRST_BYTES)
    if not first:
        raise UserError("not_hdf5", f"{path.name} is empty")
    found = next((foreign for foreign in FOREIGN if foreign.matches(first)), None)
    if first.startswith(ZIP):
        found = zip_of(path)
        if found is None:
            raise UserError("not_hdf5", f"{path.name} is an npz file, not an HDF5 file")
    if found is not None:
        raise UserError("not_hdf5", f"{path.name} is {found.name}", hint=found.hint)


def zip_of(path: Path) -> Foreign | None:
    """What a zip archive is, None for an npz, damaged ones too, which its reader refuses."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError):
        return None
    if any(name.endswith("data.pkl") for name in names):
        return TORCH
    return None if all(name.endswith(".npy") for name in names) else OTHER_ZIP


COLLECTIONS: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset({"dimensions", "t0_fields"}),
        "in the layout of The Well (dimensions, t0_fields, …), which is not read",
        f"take its fields as one array and {LAYOUT}",
    ),
    (
        frozenset({"sims"}),
        "in the layout of PBDL (group sims), which is not read",
        f"take each sim as a row and {LAYOUT}",
    ),
)
"""Names at the root of an HDF5 file -> the collection whose layout they are, and how to bring it in."""


def refuse_collections(name: str, root: set[str]) -> None:
    """Raises UserError ``unknown_layout`` for the layouts of other collections."""
    for names, what, hint in COLLECTIONS:
        if names <= root:
            raise UserError("unknown_layout", f"{name} is {what}", got=sorted(root)[:8], hint=hint)
