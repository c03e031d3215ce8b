"""Small files in PDEBench's layouts."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data.export import write_file
from ups_server.data.formats.base import Header, InMemory
from ups_server.data.formats.pdebench.card import CARDS
from ups_server.pde import Grid
from ups_server.pde.registry import known_families, known_family

COUNT, FRAMES, POINTS = 3, 5, 16
FAMILIES = [card.family for card in CARDS if card.family in known_families()]


def values_of(name: str, count: int = COUNT) -> NDArray[np.float32]:
    return numbers(name, (count, len(times_of(name))), len(known_family(name).fields))


def static_of(name: str, count: int = COUNT) -> NDArray[np.float32] | None:
    fields = known_family(name).static_fields
    return numbers(name, (count,), len(fields)) if fields else None


def numbers(name: str, leading: tuple[int, ...], fields: int) -> NDArray[np.float32]:
    """Positive numbers on a grid whose axes differ in length."""
    shape = (*leading, *grid_for(name).n, fields)
    return np.random.default_rng(1).random(shape).astype(np.float32) + np.float32(0.5)


def grid_for(name: str) -> Grid:
    extent = known_family(name).extent
    return Grid((POINTS, POINTS // 2, POINTS // 4)[: len(extent)], extent)


def times_of(name: str) -> NDArray[np.float64]:
    equation = known_family(name)
    return np.arange(FRAMES if equation.t_final else 1, dtype=np.float64) * equation.frame_dt


def write(path: Path, name: str, grid: Grid | None = None, **coefficients: Any) -> Path:
    equation = known_family(name)
    complete = {**equation.complete({}), **coefficients}
    header = Header(equation, grid or grid_for(name), times_of(name), complete, COUNT)
    write_file(path, header, InMemory(header, values_of(name), static_of(name)), "hdf5")
    return path


def plain(path: Path, attributes: dict[str, float], name: str = "tensor", **changes: Any) -> Path:
    """A file of the single layout as PDEBench writes it, with changes."""
    datasets: dict[str, Any] = {
        name: values_of("advection")[..., 0],
        "x-coordinate": ((np.arange(POINTS) + 0.5) / POINTS).astype(np.float32),
        "t-coordinate": (np.arange(FRAMES + 1) * 0.01).astype(np.float32),
        **{key.replace("_", "-"): value for key, value in changes.items()},
    }
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            if value is not None:
                file[key] = value
        file.attrs.update(attributes)
    return path
