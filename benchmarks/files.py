"""What large files cost: looking at them, uploading one, and adapting to a few rows of many.

The values are exact solutions of the advection equation, one cell a frame, so that files of 50 GB lie in a few hundred
MB on the disk: every chunk of them is there and is decoded as it is read. Sixteen trajectories take turns.

* inspect, check: `ups data inspect` and `ups data check` (which looks at some trajectories of so large a file, and says
  so) on a PDEBench file and on Zarr: seconds, and the peak of the command's resident memory.
* upload: a file that nothing compresses goes to a running service, breaks off in the middle and goes on; `api_growth`
  is by how much the resident memory of the API process was higher at its peak than before.
* data: the whole of a stored file comes back as NetCDF; the same growth.
* rows: 100 trajectories of the 10,000 of the large file are read into the store that a training reads; what the process
  read from files, and what those rows hold. adapt: the whole command, on 100 of 10,000 short trajectories.

    python -m benchmarks.files [--json OUT] [--folder FOLDER] [--scale 1.0]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks.service import service
from ups_server.client import Client
from ups_server.data.formats import open_source
from ups_server.data.scan import usable
from ups_server.data.selection import chosen_rows
from ups_server.data.writer import transcode

FAMILY = "advection"
POINTS, FRAMES, ROWS, STEP = 1024, 1221, 10_000, 0.01
"""Of the large file: 50 GB of values."""
ZARR_ROWS = 4_000
SHORT_POINTS, SHORT_FRAMES, SHORT_STEP = 128, 41, 0.05
UPLOAD_BYTES, DATA_BYTES = 10**9, 128 * 10**6
DISTINCT, ADAPTED, STEPS = 16, 100, 2
MEASURED = """
import atexit, re, runpy, sys, time
place = sys.argv.pop(1)

def write():
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    open(place, "w").write(f"{peak} {time.process_time()}")

atexit.register(write)
runpy.run_module("ups_server.cli", run_name="__main__", alter_sys=True)
"""
"""A command that leaves the peak of its own resident memory: the kernel's figure for a child may be its parent's."""
PART = 2**20
MIB = 2**20


def waves(number: int, points: int, frames: int) -> NDArray[np.float32]:
    """(T, X) u(t, x) = f(x - beta t) with steps of one cell."""
    x = np.arange(points) / points
    rng = np.random.default_rng(number)
    first = sum(rng.normal() / k * np.sin(2 * np.pi * k * (x + rng.random())) for k in range(1, 6))
    places = (np.arange(points)[None] - np.arange(frames)[:, None]) % points
    return np.asarray(np.asarray(first)[places], np.float32)


def axes(points: int, frames: int, step: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Centres of cells of [0, 1], times, and the speed that crosses a cell a frame."""
    return (np.arange(points) + 0.5) / points, np.arange(frames, dtype=np.float64) * step, 1 / points / step


def write_pdebench(path: Path, rows: int, points: int = POINTS, frames: int = FRAMES, step: float = STEP) -> Path:
    """One compressed chunk a trajectory."""
    x, t, beta = axes(points, frames, step)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "tensor", (rows, frames, points), "f4", chunks=(1, frames, points), compression="gzip", compression_opts=1
        )
        file["x-coordinate"], file["t-coordinate"] = x, t
        file.attrs.update({"family": FAMILY, "beta": beta})
        distinct = min(DISTINCT, rows)
        for row in range(distinct):
            data[row] = waves(row, points, frames)
        file.flush()
        stored = [data.id.read_direct_chunk((row, 0, 0)) for row in range(distinct)]
        for row in range(distinct, rows):
            mask, content = stored[row % distinct]
            data.id.write_direct_chunk((row, 0, 0), content, mask)
    return path


def write_zarr(path: Path, rows: int, points: int = POINTS, frames: int = FRAMES) -> Path:
    """One compressed chunk a trajectory, a file each; files of the same values are one on the disk."""
    x, t, beta = axes(points, frames, STEP)
    root = zarr.open_group(path, mode="w", zarr_format=3, attributes={"family": FAMILY, "Conventions": "CF-1.11"})
    for name, values, names in (("time", t, ["time"]), ("x", x, ["x"]), ("beta", np.array(beta), [])):
        made = root.create_array(name, shape=values.shape, dtype=values.dtype, dimension_names=names)
        made[...] = values
    names = ["trajectory", "time", "x"]
    data = root.create_array(
        "u", shape=(rows, frames, points), dtype="f4", chunks=(1, frames, points), dimension_names=names,
        attributes={"coordinates": "beta"},
    )  # fmt: skip
    distinct = min(DISTINCT, rows)
    for row in range(distinct):
        data[row] = waves(row, points, frames)
    for row in range(distinct, rows):
        place = path / "u" / "c" / str(row) / "0"
        place.mkdir(parents=True)
        os.link(path / "u" / "c" / str(row % distinct) / "0" / "0", place / "0")
    return path


def size_of(path: Path) -> int:
    """Bytes on the disk, a file of several names once."""
    found = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum({(each := entry.stat()).st_ino: 512 * each.st_blocks for entry in found}.values())


def command(*words: str) -> tuple[dict[str, Any], str]:
    """Runs `ups` in a process of its own: seconds, peak of its resident memory, what it printed."""
    began = time.monotonic()
    with tempfile.NamedTemporaryFile() as place:
        done = subprocess.run([sys.executable, "-c", MEASURED, place.name, *words], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"ups {' '.join(words)}: {done.stderr[-2000:]}")
        peak, cpu_seconds = Path(place.name).read_text(encoding="ascii").split()
    found = {
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(float(cpu_seconds), 1),
        "peak_rss_mib": round(int(peak) / 1024),
    }
    return found, done.stdout


def looked_at(path: Path, logical: int) -> dict[str, Any]:
    inspected, _ = command("data", "inspect", str(path))
    checked, report = command("data", "check", str(path), "--json")
    document = json.loads(report)
    return {
        "logical_gb": round(logical / 1e9, 1),
        "on_disk_mb": round(size_of(path) / 1e6, 1),
        "inspect": inspected,
        "check": {
            **checked,
            "trajectories": document["trajectories"],
            "sampled": document["sampled"],
            "usable": document["usable"],
        },
    }


def memory_of(pid: int, what: str) -> int:
    """VmRSS or VmHWM of a process in bytes."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def growth(pid: int, found: dict[str, Any]) -> Iterator[None]:
    """Adds by how much the peak of a process's resident memory in the block was above what it was before."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, began = memory_of(pid, "VmRSS"), time.monotonic()
    yield
    found["seconds"] = round(time.monotonic() - began, 1)
    found["api_before_mib"] = round(before / MIB)
    found["api_growth_mib"] = round((memory_of(pid, "VmHWM") - before) / MIB)


def parts(stream: Any, size: int) -> Iterator[bytes]:
    while size > 0 and (part := stream.read(min(PART, size))):
        size -= len(part)
        yield part


def uploaded(folder: Path, size: int) -> dict[str, Any]:
    """A file of random values in PDEBench's layout, sent in two pieces, the first of which breaks off."""
    rows = max(2, size // (4 * POINTS * FRAMES))
    path = folder / "large.hdf5"
    x, t, beta = axes(POINTS, FRAMES, STEP)
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("tensor", (rows, FRAMES, POINTS), "f4")
        for row in range(rows):
            data[row] = rng.random((FRAMES, POINTS), dtype=np.float32)
        file["x-coordinate"], file["t-coordinate"] = x, t
    total = path.stat().st_size
    found: dict[str, Any] = {"megabytes": round(total / 1e6)}
    with service(1, default_model="persistence") as (url, pid), httpx.Client(base_url=url, timeout=600) as http:
        said = {"name": path.name, "size": total, "declaration": {"family": FAMILY, "coefficients": {"beta": beta}}}
        place = f"/v1/files/{http.post('/v1/files', json=said).json()['id']}"
        with growth(pid, found), path.open("rb") as stream:
            _break_off(http, f"{place}/content", stream, total)
            stopped = int(http.head(f"{place}/content").headers["Upload-Offset"])
            stream.seek(stopped)
            headers = {"Content-Range": f"bytes {stopped}-{total - 1}/{total}", "Content-Type": "application/x-hdf5"}
            record = http.put(f"{place}/content", content=parts(stream, total), headers=headers).json()
        assert record["offset"] == total, record
        http.delete(place)
    path.unlink()
    return {**found, "went_on_from_megabyte": round(stopped / 1e6)}


def _break_off(http: httpx.Client, address: str, stream: Any, total: int) -> None:
    """Sends half of a file, then no more."""

    def half() -> Iterator[bytes]:
        yield from parts(stream, total // 2)
        raise ConnectionAbortedError

    headers = {"Content-Range": f"bytes 0-{total - 1}/{total}", "Content-Type": "application/x-hdf5"}
    try:
        http.put(address, content=half(), headers=headers)
    except ConnectionAbortedError:
        return
    raise SystemExit("the upload did not break off")


def sent_back(folder: Path, size: int) -> dict[str, Any]:
    rows = max(2, size // (4 * POINTS * FRAMES))
    path = write_pdebench(folder / "stored.hdf5", rows)
    found: dict[str, Any] = {}
    with service(1, default_model="persistence") as (url, pid), Client(url) as client:
        record = client.upload(path)
        with growth(pid, found):
            client.download_data(record["id"], folder / "back.nc")
    found["megabytes"] = round((folder / "back.nc").stat().st_size / 1e6)
    return found


def read_bytes() -> int:
    """What this process has read by calls, the cache's pages too."""
    found = re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1])


def some_rows(path: Path, folder: Path) -> dict[str, Any]:
    before, began = read_bytes(), time.monotonic()
    with closing(open_source(path)) as source:
        rows = source.n_trajectories
        with transcode(usable(chosen_rows(source, f"0:{ADAPTED}")), folder / "rows", {}) as store:
            held = 4 * int(np.prod(store.manifest.layout.row_shape)) * len(store)
    return {
        "rows": ADAPTED,
        "of": rows,
        "seconds": round(time.monotonic() - began, 1),
        "read_mb": round((read_bytes() - before) / 1e6),
        "decoded_mb": round(held / 1e6),
        "file_mb": round(path.stat().st_size / 1e6),
    }


def adapted(folder: Path, rows: int) -> dict[str, Any]:
    path = write_pdebench(folder / "short.hdf5", rows, SHORT_POINTS, SHORT_FRAMES, SHORT_STEP)
    words = ("--trajectories", f"0:{ADAPTED}", "--n-trajectories", "4", "--max-steps", str(STEPS), "--json", "-")
    found, _ = command("adapt", "models/ups-mini", str(path), *words, "--output", str(folder / "tuned"))
    return {"rows": ADAPTED, "of": rows, "steps": STEPS, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--folder", type=Path, help="where the files are written and removed; default: a temporary one")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes")
    options = parser.parse_args()
    rows, zarr_rows = round(ROWS * options.scale), round(ZARR_ROWS * options.scale)
    row_bytes = 4 * POINTS * FRAMES
    found: dict[str, Any] = {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1)}

    def measured(name: str, measure: Callable[[], dict[str, Any]]) -> None:
        found[name] = measure()
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=2) + "\n")

    with tempfile.TemporaryDirectory(prefix="ups-files-", dir=options.folder) as name:
        folder = Path(name)
        large = write_pdebench(folder / "large.hdf5", rows)
        measured("pdebench", lambda: looked_at(large, rows * row_bytes))
        measured("rows", lambda: some_rows(large, folder))
        large.unlink()
        store = write_zarr(folder / "large.zarr", zarr_rows)
        measured("zarr", lambda: looked_at(store, zarr_rows * row_bytes))
        measured("upload", lambda: uploaded(folder, round(UPLOAD_BYTES * options.scale)))
        measured("data", lambda: sent_back(folder, round(DATA_BYTES * options.scale)))
        measured("adapt", lambda: adapted(folder, rows))


if __name__ == "__main__":
    main()
