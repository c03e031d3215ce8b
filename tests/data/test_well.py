"""The Well's files: what its published format asks for, in words of ours, and what its readers find in ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.cases import ups
from tests.data.test_contract import header_of, written
from tests.pdebench_files import COUNT, static_of, values_of, write
from ups_server.data.export import write_file
from ups_server.data.formats import open_source
from ups_server.data.formats.base import Header, InMemory
from ups_server.data.inspect import inspect
from ups_server.data.mapping import Mapping
from ups_server.errors import UserError
from ups_server.pde.grid import BoundaryCondition

FAMILIES = ["burgers", "incompressible_ns_2d", "darcy", "compressible_ns_1d", "shallow_water"]

EQUATION = {"id": "of_the_well", "name": "some equation", "equation": "u_t = ..."}


def faults(path: Path) -> list[str]:
    """The rules of the format that a file breaks; published at https://polymathic-ai.org/the_well/data_format/."""
    with h5py.File(path, "r") as file:
        return [
            *root_faults(file),
            *dimension_faults(file),
            *field_faults(file),
            *scalar_faults(file),
            *side_faults(file),
        ]


def root_faults(file: h5py.File) -> Iterator[str]:
    root = file.attrs
    for name, kind in (("dataset_name", str), ("grid_type", str), ("n_trajectories", np.integer)):
        if not isinstance(root.get(name), kind):
            yield f"{name} is no {kind.__name__}"
    for name in root["simulation_parameters"]:
        if name not in root:
            yield f"the parameter {name} is no attribute"
    for name in ("dimensions", "boundary_conditions", "scalars", "t0_fields", "t1_fields", "t2_fields"):
        if not isinstance(file.get(name), h5py.Group):
            yield f"there is no group {name}"


def dimension_faults(file: h5py.File) -> Iterator[str]:
    group = file["dimensions"]
    names = texts(group.attrs["spatial_dims"])
    if not 0 < len(names) == file.attrs["n_spatial_dims"]:
        yield "spatial_dims are not as many as n_spatial_dims"
    yield from flag_faults(group["time"], "sample_varying")
    for name in names:
        yield from flag_faults(group[name], "sample_varying", "time_varying")


def field_faults(file: h5py.File) -> Iterator[str]:
    names = texts(file["dimensions"].attrs["spatial_dims"])
    points = [file["dimensions"][name].shape[-1] for name in names]
    for order in range(3):
        group = file[f"t{order}_fields"]
        if sorted(texts(group.attrs["field_names"])) != sorted(group):
            yield f"field_names of t{order}_fields are not what it holds"
        for entry in group.values():
            yield from flag_faults(entry, "sample_varying", "time_varying")
            along = entry.attrs["dim_varying"]
            if along.dtype != bool or len(along) != len(names):
                yield f"dim_varying of {entry.name} has not one truth value an axis"
            shape = [file.attrs["n_trajectories"]] * bool(entry.attrs["sample_varying"])
            shape += [file["dimensions/time"].shape[-1]] * bool(entry.attrs["time_varying"])
            shape += [n for n, varies in zip(points, along, strict=True) if varies] + [len(names)] * order
            if entry.shape != tuple(shape):
                yield f"{entry.name} has the shape {entry.shape}, not {shape}"


def scalar_faults(file: h5py.File) -> Iterator[str]:
    if sorted(texts(file["scalars"].attrs["field_names"])) != sorted(file["scalars"]):
        yield "field_names of scalars are not what it holds"
    for entry in file["scalars"].values():
        yield from flag_faults(entry, "sample_varying", "time_varying")
        if entry.ndim != entry.attrs["sample_varying"] + entry.attrs["time_varying"]:
            yield f"{entry.name} has {entry.ndim} axes"


def side_faults(file: h5py.File) -> Iterator[str]:
    for entry in file["boundary_conditions"].values():
        yield from flag_faults(entry, "sample_varying", "time_varying")
        if entry.attrs["bc_type"] not in ("WALL", "OPEN", "PERIODIC") or "associated_fields" not in entry.attrs:
            yield f"{entry.name} does not say of what kind it is, or for which fields"
        along = texts(entry.attrs["associated_dims"])
        mask = entry["mask"]
        if not along or mask.dtype != bool or mask.shape != tuple(len(file["dimensions"][name]) for name in along):
            yield f"the mask of {entry.name} does not fit its axes"


def flag_faults(entry: Any, *names: str) -> Iterator[str]:
    for name in names:
        if not isinstance(entry.attrs.get(name), bool | np.bool_):
            yield f"{name} of {entry.name} is no truth value"


def texts(values: Any) -> list[str]:
    assert all(isinstance(value, str) for value in values)
    return list(values)


@pytest.mark.parametrize("name", FAMILIES)
def test_files_keep_the_rules_of_the_format(name: str, tmp_path: Path) -> None:
    assert faults(written(tmp_path / "file.h5", "the_well", name)) == []


def test_a_vector_is_one_field_of_first_order(tmp_path: Path) -> None:
    name, values, static = "incompressible_ns_2d", values_of("incompressible_ns_2d"), static_of("incompressible_ns_2d")
    assert static is not None
    with h5py.File(written(tmp_path / "file.h5", "the_well", name)) as file:
        np.testing.assert_array_equal(file["t1_fields/V"][()], values[..., :2])
        np.testing.assert_array_equal(file["t0_fields/particles"][()], values[..., 2])
        np.testing.assert_array_equal(file["t1_fields/force_"][()], static)
        assert not file["t1_fields/force_"].attrs["time_varying"]


def test_sides_of_two_kinds_have_a_mask_each(tmp_path: Path) -> None:
    plain = header_of("burgers")
    sides = BoundaryCondition.from_names([["dirichlet", "outflow"]])
    header = Header(plain.family, plain.grid, plain.times, plain.coefficients, COUNT, boundary=sides)
    write_file(tmp_path / "file.h5", header, InMemory(header, values_of("burgers")), "the_well")
    assert faults(tmp_path / "file.h5") == []
    with h5py.File(tmp_path / "file.h5") as file:
        found = {
            entry.attrs["bc_type"]: np.flatnonzero(entry["mask"]) for entry in file["boundary_conditions"].values()
        }
    assert {kind: points.tolist() for kind, points in found.items()} == {"WALL": [0], "OPEN": [plain.grid.n[0] - 1]}
    with open_source(tmp_path / "file.h5") as source:
        assert source.boundary == sides


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reader_of_the_collection_finds_the_same(name: str, tmp_path: Path) -> None:
    """By the mapping that is proposed for the collection's own files, which knows nothing of who wrote this one."""
    found = inspect(written(tmp_path / "file.h5", "the_well", name))
    assert (found.layout, found.mapping is None) == ("The Well", False)
    mapping = Mapping.from_document({**(found.mapping or {}), "equation": EQUATION})
    with open_source(tmp_path / "file.h5", mapping=mapping) as source:
        values = source.read(range(COUNT))
        static = source.read_static(range(COUNT))
        assert source.boundary.as_names()[0][0] in ("periodic", "no_slip", "outflow")
    np.testing.assert_array_equal(np.sort(values, axis=-1), np.sort(values_of(name), axis=-1))
    expected = static_of(name)
    assert (static is None) == (expected is None)
    if static is not None and expected is not None:
        np.testing.assert_array_equal(np.sort(static, axis=-1), np.sort(expected, axis=-1))


def test_convert_writes_it_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "mine.h5", "burgers")
    assert ups("data", "convert", str(path), str(tmp_path / "well.h5"), "--to", "the_well") == 0
    assert faults(tmp_path / "well.h5") == []
    assert ups("data", "check", str(tmp_path / "well.h5"), "--no-probe") == 0
    assert "The Well" in capsys.readouterr().out
    assert ups("data", "convert", str(path), str(tmp_path / "other.h5"), "--to", "well") == 2


def test_a_file_that_lacks_a_part(tmp_path: Path) -> None:
    for name in ("t0_fields/u", "dimensions/x", "scalars"):
        path = written(tmp_path / "file.h5", "the_well", "burgers")
        with h5py.File(path, "a") as file:
            del file[name]
        with pytest.raises(UserError, match=r"has no (dataset|group)") as caught:
            open_source(path)
        assert caught.value.code == "missing_dataset"
