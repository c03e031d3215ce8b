"""Trajectories as an `xarray.Dataset`."""

import json
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ups_server.data.exporters.base import AXIS_NAMES, Coefficients, Header
from ups_server.pde.family import Family
from ups_server.pde.grid import Grid

CONVENTIONS = "CF-1.11"


def to_dataset(
    values: NDArray[np.floating[Any]],
    times: NDArray[np.float64],
    family: Family,
    grid: Grid,
    coefficients: Coefficients,
    attributes: dict[str, Any] | None = None,
) -> xr.Dataset:
    """One variable a field over (trajectory,) time, x, ...; coordinates and variables carry units and long names.

    Args:
        values: (B, T, X..., C), or (T, X..., C) for a dataset without the axis `trajectory`.
        coefficients: by name: one number, or one a trajectory; they become coordinates.
    """
    batched = values.ndim == grid.ndim + 3
    count = len(values) if batched else 1
    header = Header(family, grid, times, coefficients, count, attributes or {}, batched)
    return build_dataset(header, values, times)


def build_dataset(
    header: Header,
    values: NDArray[np.floating[Any]],
    times: NDArray[np.float64],
    static: NDArray[np.floating[Any]] | None = None,
) -> xr.Dataset:
    """The dataset of values ([B,] T, X..., C) and static fields ([B,] X..., S)."""
    family = header.family
    leading = ("trajectory",) if header.batched else ()
    dimensions = (*leading, "time", *AXIS_NAMES[: header.grid.ndim])
    variables = {
        field.name: (dimensions, values[..., channel], _described(field.unit, field.description or field.name))
        for channel, field in enumerate(family.fields)
    }
    if static is not None:
        variables |= {
            field.name: (
                (*leading, *AXIS_NAMES[: header.grid.ndim]),
                static[..., channel],
                _described(field.unit, field.description or field.name),
            )
            for channel, field in enumerate(family.static_fields)
        }
    coordinates: dict[str, Any] = {"time": ("time", times, _described(family.time_unit, "time", "time", "T"))}
    for name, axis in header.axes().items():
        coordinates[name] = (name, axis, _described(family.length_unit, f"{name} coordinate", axis=name.upper()))
    for coefficient in family.coefficients:
        if coefficient.name in header.coefficients:
            number = np.asarray(header.coefficients[coefficient.name], np.float64)
            per_row = header.batched and number.ndim == 1
            coordinates[coefficient.name] = (
                leading if per_row else (),
                number if per_row else number.reshape(-1)[0],
                _described(coefficient.unit, coefficient.description),
            )
    return xr.Dataset(variables, coordinates, _attributes(header))


def _described(unit: str, long_name: str, standard_name: str | None = None, axis: str | None = None) -> dict[str, str]:
    entries = {"units": unit, "long_name": long_name, "standard_name": standard_name, "axis": axis}
    return {key: value for key, value in entries.items() if value is not None}


def _attributes(header: Header) -> dict[str, Any]:
    """Global attributes; what NetCDF has no type for is JSON text."""
    family, grid = header.family, header.grid
    entries = {
        "Conventions": CONVENTIONS,
        "title": family.name,
        "family": family.id,
        "equation": family.equation,
        "extent": np.array(grid.extent).ravel(),
        "boundary": header.sides,
        **header.attributes,
    }
    plain = (str, int, float, np.ndarray, np.generic)
    return {
        name: value if isinstance(value, plain) and not isinstance(value, bool) else json.dumps(value)
        for name, value in entries.items()
    }
