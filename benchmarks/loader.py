"""How fast, and in how much memory, are training windows read from a store that does not fit it?

A store of random trajectories is written on the spot and removed at the end, whatever happens. Windows of two frames
are drawn from it as training draws them (shuffled rows and times, subsampled, shifted and mirrored). Beside it stands
the usual way of reading PDEBench's files: open the HDF5 file, read one window, close it, for every sample. Both read
through a warm page cache; the peak is of this whole process, writing included.

    python benchmarks/loader.py [--gigabytes 5] [--folder FOLDER] [--json OUT]
"""

import argparse
import json
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np
from rich.console import Console
from rich.table import Table

from ups_server.data.simulate import family_layout
from ups_server.data.store import VALUE, Store
from ups_server.data.windows import Windows
from ups_server.data.writer import StoreWriter
from ups_server.pde import family

FAMILY, RESOLUTION = "burgers", 128
MOST_MEGABYTES = 500.0
LEAST_RATIO = 20.0
BATCH = 32
"""Rows written together."""
TRAJECTORIES, WINDOWS = 8, 4
"""Of one training batch."""
TURN = 0.5
"""Seconds before the other way has its turn."""
FILE_ROWS = 64
"""Trajectories in the HDF5 file: opening it costs the same whatever its size."""


def write_store(path: Path, gigabytes: float) -> Store:
    """A store of random trajectories in the family's layout, at PDEBench's resolution."""
    equation = family(FAMILY)
    layout = family_layout(equation, equation.default_grid(), equation.frame_times())
    row_bytes = int(np.prod(layout.row_shape)) * VALUE.itemsize
    count = max(BATCH, round(gigabytes * 1e9 / row_bytes))
    rng = np.random.default_rng(0)
    with StoreWriter(path, layout) as writer:
        for start in range(0, count, BATCH):
            rows = min(BATCH, count - start)
            values = rng.random((rows, *layout.row_shape), dtype=np.float32)
            writer.append(values, np.full((rows, len(layout.coefficients)), 0.001))
        return writer.close()


def write_file(path: Path, store: Store) -> None:
    """The first rows as PDEBench publishes them."""
    with h5py.File(path, "w") as file:
        file["tensor"] = store.read(range(min(FILE_ROWS, len(store))))[..., 0]


def warm(store: Store) -> None:
    """Read the store once, so that both ways find their pages in memory: the disk's speed is not the question."""
    for file in store.path.iterdir():
        with file.open("rb", buffering=0) as stream:
            while stream.read(2**20):
                pass


def rates(ways: list[Callable[[], int]], seconds: float) -> list[float]:
    """Windows per second of each way, in turns so that a busy machine slows all alike; the first draws do not count."""
    drawn, spent = [0] * len(ways), [0.0] * len(ways)
    for draw in ways:
        draw()
    while min(spent) < seconds:
        for which, draw in enumerate(ways):
            began = time.perf_counter()
            while time.perf_counter() - began < TURN:
                drawn[which] += draw()
            spent[which] += time.perf_counter() - began
    return [count / time_spent for count, time_spent in zip(drawn, spent, strict=True)]


def from_store(store: Store) -> Callable[[], int]:
    windows, rng = Windows(store, family(FAMILY).dt, RESOLUTION), np.random.default_rng(1)

    def draw() -> int:
        frames = windows.sample(rng, TRAJECTORIES, WINDOWS).frames
        return int(frames.shape[0] * frames.shape[1])

    return draw


def from_file(path: Path, store: Store) -> Callable[[], int]:
    stride, step = store.grid.stride_to(RESOLUTION), round(family(FAMILY).dt / family(FAMILY).frame_dt)
    rng = np.random.default_rng(1)

    def draw() -> int:
        with h5py.File(path, "r") as file:
            tensor = file["tensor"]
            row, start = rng.integers(tensor.shape[0]), rng.integers(tensor.shape[1] - step)
            window = tensor[row, start : start + step + 1 : step, ::stride]
        return int(window.shape[0] == 2)

    return draw


def peak_megabytes() -> float:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def stop(*_: object) -> NoReturn:
    """Ends as an exception does, so that the store is removed."""
    raise SystemExit(143)


def measure(folder: Path, gigabytes: float, seconds: float) -> dict[str, float]:
    began = time.perf_counter()
    with write_store(folder / "store", gigabytes) as store:
        wrote = time.perf_counter() - began
        size = sum(file.stat().st_size for file in store.path.iterdir())
        write_file(folder / "file.hdf5", store)
        warm(store)
        ours, theirs = rates([from_store(store), from_file(folder / "file.hdf5", store)], seconds)
    return {
        "gigabytes": size / 1e9,
        "trajectories": len(store),
        "write_megabytes_per_second": size / 1e6 / wrote,
        "windows_per_second": ours,
        "windows_per_second_one_open_each": theirs,
        "ratio": ours / theirs,
        "peak_megabytes": peak_megabytes(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the store")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each way of reading is timed")
    parser.add_argument("--folder", type=Path, help="where the store is made and removed; default: the system's")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="ups-loader-", dir=options.folder) as folder:
        figures = measure(Path(folder), options.gigabytes, options.seconds)
    console = Console()
    table = Table("", "", title=f"Windows of 2 frames at {RESOLUTION} of {family(FAMILY).n} points", show_header=False)
    table.add_row("store", f"{figures['gigabytes']:.2f} GB, {figures['trajectories']:.0f} trajectories")
    table.add_row("written at", f"{figures['write_megabytes_per_second']:.0f} MB/s, checksums included")
    table.add_row("windows/s from the store", f"{figures['windows_per_second']:.0f}")
    table.add_row("windows/s, one file open each", f"{figures['windows_per_second_one_open_each']:.0f}")
    table.add_row("peak memory", f"{figures['peak_megabytes']:.0f} MB")
    console.print(table)
    met = figures["ratio"] >= LEAST_RATIO and figures["peak_megabytes"] <= MOST_MEGABYTES
    console.print(
        f"{figures['ratio']:.0f}x one open each (bar {LEAST_RATIO:.0f}x), {figures['peak_megabytes']:.0f} MB "
        f"(bar {MOST_MEGABYTES:.0f} MB): {'met' if met else 'NOT met'}",
        highlight=False,
    )
    if options.json is not None:
        options.json.write_text(json.dumps(figures | {"met": met}, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
