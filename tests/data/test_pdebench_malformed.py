"""Files that are broken, or say what contradicts itself: one clear sentence each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.pdebench_files import COUNT, FRAMES, POINTS, plain, values_of, write
from ups_server.data.formats import open_source
from ups_server.data.source import blocks
from ups_server.errors import UserError

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
    source = open_source(path, *given)
    try:
        for _ in blocks(source):
            pass
    finally:
        source.close()


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
        ("file.h5", {"Nu": 0.1, "viscosity": 0.2}, ("burgers",), "coefficient_mismatch"),
        ("file.h5", {"nu": 0.1, "NU": 0.2}, ("burgers",), "coefficient_mismatch"),
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
        del file.attrs["family"]
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
