"""Files of other formats are named by their first bytes, and the sentence says how to bring them in."""

import gzip
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.io import netcdf_file, savemat

from tests.cases import ups
from tests.pdebench_files import plain, values_of
from ups_server.data.check import check_file
from ups_server.data.formats import format_of, open_source
from ups_server.errors import UserError


def matlab_5() -> bytes:
    stream = io.BytesIO()
    savemat(stream, {"usol": np.ones((4, 3))})
    return stream.getvalue()


def classic_netcdf() -> bytes:
    stream = io.BytesIO()
    with netcdf_file(stream, "w") as file:
        file.createDimension("x", 3)
        file.createVariable("u", "f4", ("x",))[:] = 1.0
        file.flush()
        return stream.getvalue()


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


def tensor() -> bytes:
    stream = io.BytesIO()
    torch.save({"u": torch.ones(3)}, stream)
    return stream.getvalue()


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("data.h5", b"x")
    return stream.getvalue()


FILES = {
    "MATLAB 5": (matlab_5(), "a MATLAB 5 file", "scipy.io.loadmat"),
    "netCDF-3": (classic_netcdf(), "a classic netCDF file", "nccopy -k nc4"),
    "GRIB": (b"GRIB\x00\x00\x00\x02", "a GRIB file", "cfgrib"),
    "npy": (npy(), "a .npy file", "with NumPy"),
    "torch": (tensor(), "a file of torch.save", "weights_only=True"),
    "old torch": (b"\x80\x02\x8a\nl\xfc\x9cF", "a pickle", "load it"),
    "zip": (archive(), "a zip archive", "unpack it"),
    "gzip": (gzip.compress(b"x"), "compressed with gzip", "gunzip"),
    "HTML": (b"\n<!DOCTYPE html><html>404", "an HTML page", "download the file again"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer", "git lfs pull"),
    "empty": (b"", "empty", ""),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("suffix", [".h5", ".nc", ".npz"])
def test_first_bytes_tell(kind: str, suffix: str, tmp_path: Path) -> None:
    content, name, hint = FILES[kind]
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        open_source(path)
    assert caught.value.code == "not_hdf5"
    assert caught.value.message.startswith(f"mine{suffix} is {name}")
    assert hint in (caught.value.hint or "")


def test_matlab_7_3(tmp_path: Path) -> None:
    path = tmp_path / "burgers.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["usol"] = np.ones((3, 4))
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    with pytest.raises(UserError, match=r"burgers\.mat is a MATLAB 7\.3 file"):
        open_source(path)


def test_formats_that_are_read(tmp_path: Path) -> None:
    assert format_of(plain(tmp_path / "a.h5", {})).name == "pdebench"
    np.savez(tmp_path / "a.npz", data=np.ones(3))
    assert format_of(tmp_path / "a.npz").name == "npz"


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    path = plain(tmp_path / "mine.nc", {"beta": 0.4})
    assert check_file(path).family == "advection"


def test_a_folder_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    with pytest.raises(UserError, match="neither a store nor Zarr, and holds no files") as caught:
        open_source(folder)
    assert caught.value.hint is not None
    assert caught.value.hint.endswith('/part/*.h5"')
    values = values_of("advection")
    for number in (10, 9):
        plain(folder / f"part_{number}.h5", {"beta": 0.4}, tensor=number + values[..., 0])
    (folder / ".hidden").write_text("nothing to read")
    with open_source(folder) as source:
        np.testing.assert_array_equal(source.read(range(6)), np.concatenate([9 + values, 10 + values]))
    assert ups("data", "check", str(folder), "--no-probe") == 0
    assert "6, 6 usable" in capsys.readouterr().out
    (folder / "notes.txt").write_text("not a file of trajectories")
    assert ups("data", "check", str(folder)) == 2
    assert "notes.txt is not an HDF5 file" in capsys.readouterr().err


WRITER = """
import h5py, os, sys
file = h5py.File(sys.argv[1], "a", libver="latest")
file.flush()
print("open", flush=True)
sys.stdin.read()
os._exit(1)
"""


def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["tensor"] = np.ones(3)
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(UserError, match="is open for writing in another process") as caught:
            open_source(path)
        assert (caught.value.code, "HDF5_USE_FILE_LOCKING" in str(caught.value)) == ("file_locked", True)
        writer.kill()
    with pytest.raises(UserError, match="or its writer was killed") as caught:
        open_source(path)
    assert caught.value.hint is not None
    assert "h5clear -s mine.h5" in caught.value.hint


def test_empty_attributes_are_ignored(tmp_path: Path) -> None:
    path = plain(tmp_path / "mine.h5", {"beta": 0.4})
    with h5py.File(path, "a") as file:
        file.attrs["nu"] = h5py.Empty("f8")
        file.attrs["family"] = h5py.Empty(h5py.string_dtype())
        file.attrs["note"] = h5py.Empty("S10")
    report = check_file(path)
    assert (report.family, report.coefficients) == ("advection", {"beta": (0.4, 0.4)})
