"""What an asynchronous rollout has on disk: request, header, the place it reached, the result; and how long it is kept.

``request.safetensors`` is the request as a binary body would hold it; ``header.json`` says what the result holds;
``standing.safetensors`` is what going on from the last frame takes, written after that frame; ``result.zarr`` is the
result, beside files of other formats that were asked for. Results are kept by age and by bytes, and never removed while
they are computed or read. Imports no torch.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ups_server.catalog import EQUATION_FILE
from ups_server.data.atomic import replace_bytes
from ups_server.data.export import write_file
from ups_server.data.formats.base import Header
from ups_server.data.formats.zarr import ZarrSteps
from ups_server.engine.engine import Frame, Standing
from ups_server.errors import UserError
from ups_server.files.equations import kept_equation
from ups_server.jobs.spec import Job
from ups_server.jobs.store import JobStore
from ups_server.objects import shared_folders
from ups_server.pde import BoundaryCondition, Grid, family
from ups_server.rollout.plan import Plan
from ups_server.settings import Settings
from ups_server.solvers.limits import Ended
from ups_server.specs import Flag, RolloutRequest
from ups_server.tensors import Arrays, from_safetensors, to_safetensors

ROLLOUTS = "rollouts"
"""Name of the folder of all of them in a data folder."""
SUFFIXES = {"safetensors": ".safetensors", "npz": ".npz", "netcdf": ".nc", "hdf5": ".h5"}
"""Of the files a result can be had as."""
REQUEST, HEADER, STANDING, READ = "request.safetensors", "header.json", "standing.safetensors", "read"


class RolloutFolder:
    """The folder of one rollout. Every file appears whole, so that a kill at any moment leaves something to go on."""

    def __init__(self, data_dir: Path, job_id: str) -> None:
        self.path = data_dir / ROLLOUTS / job_id
        self.zarr = self.path / "result.zarr"

    @property
    def exists(self) -> bool:
        return (self.path / HEADER).is_file()

    def create(self, request: RolloutRequest, arrays: Arrays | None, plan: Plan) -> str:
        """Keeps a request; its SHA-256, arrays included."""
        self.path.mkdir(parents=True)
        content = to_safetensors(arrays or {}, {"request": request.model_dump_json()})
        replace_bytes(self.path / REQUEST, content)
        if plan.card.equation is not None:
            replace_bytes(self.path / EQUATION_FILE, json.dumps(plan.card.equation).encode())
        self._describe(plan.header())
        return hashlib.sha256(content).hexdigest()

    def request(self) -> tuple[RolloutRequest, Arrays | None]:
        arrays, texts = from_safetensors((self.path / REQUEST).read_bytes())
        return RolloutRequest.from_json(texts["request"]), arrays or None

    def request_bytes(self) -> int:
        """Of the request with its arrays."""
        return (self.path / REQUEST).stat().st_size

    def begin(self, plan: Plan) -> None:
        """Makes ready for the frames of a plan; frames of an attempt before stay, files made of them do not."""
        for suffix in SUFFIXES.values():
            (self.path / f"result{suffix}").unlink(missing_ok=True)
        header = plan.header()
        self._describe(header)
        steps = ZarrSteps(self.zarr, header)
        steps.begin(plan.answer_static)
        steps.put(0, plan.answer_values(plan.initial))

    def standing(self) -> Standing | None:
        """Where an attempt before had come to."""
        found = self._place()
        if found is None:
            return None
        arrays, texts = found
        ended = tuple(Ended.from_json(event) for event in json.loads(texts.get("ended", "[]")))
        return Standing(int(texts["step"]), arrays["saved"], ended)

    def _place(self) -> tuple[Arrays, dict[str, str]] | None:
        try:
            return from_safetensors((self.path / STANDING).read_bytes())
        except FileNotFoundError:
            return None

    def keep(self, steps: ZarrSteps, plan: Plan, frame: Frame, ended: Sequence[Ended]) -> None:
        """Writes a frame, then the place it leads to; of what has `ended`, what did by this frame."""
        if frame.saved is None:
            raise ValueError("not a frame of a durable rollout")
        number = plan.spec.frames_by(frame.step)
        steps.put(number, plan.answer_values(frame.values))
        over = [event for event in ended if event.step <= frame.step]
        flags = [flag.model_dump(mode="json") for flag in (*plan.flags, *map(plan.ended_flag, over))]
        texts = {
            "step": str(frame.step),
            "frames": str(number + 1),
            "ended": json.dumps([event.as_json() for event in over]),
            "flags": json.dumps(flags),
        }
        replace_bytes(self.path / STANDING, to_safetensors({"saved": frame.saved}, texts))

    def finish(self, frames: int, flags: list[Flag], found: Mapping[str, Any] | None = None) -> None:
        """There will be no frame beyond these, unless it is begun again.

        Args:
            found: what else is to be said of them, such as diagnostics.
        """
        header = self.header()
        attributes = {**header.attributes, **(found or {}), "flags": [flag.model_dump(mode="json") for flag in flags]}
        self._end(header, replace(header, times=header.times[:frames], attributes=attributes))

    def settle(self) -> None:
        """As `finish`, for a rollout whose job has ended while nobody computed it."""
        header, place = self.header(), self._place()
        texts = place[1] if place else {}
        frames = int(texts.get("frames", 1))
        if frames < len(header.times):
            flags = json.loads(texts["flags"]) if "flags" in texts else header.attributes["flags"]
            attributes = {**header.attributes, "flags": flags}
            self._end(header, replace(header, times=header.times[:frames], attributes=attributes))

    def _end(self, planned: Header, ended: Header) -> None:
        ZarrSteps(self.zarr, planned).describe(ended)
        self._describe(ended)

    def header(self) -> Header:
        """Of the frames that are planned, and at the end of those that are there."""
        document = json.loads((self.path / HEADER).read_text(encoding="utf-8"))
        grid, equation = Grid.from_json(document.pop("grid")), document.pop("family")
        declared = kept_equation(self.path)
        known = declared.family() if declared is not None and declared.id == equation else family(equation)
        # Folders of earlier versions do not say it: then it was the equation's own.
        sides = document.pop("boundary", known.boundary.as_names())
        return Header(
            family=known.under(BoundaryCondition.from_names(sides)),
            grid=grid,
            times=np.array(document.pop("times")),
            **document,
        )

    def file(self, format: str) -> Path:
        """The result of a rollout that has ended as one file, made when it is first asked for."""
        target = self.path / f"result{SUFFIXES[format]}"
        header = self.header()
        if not target.is_file():
            write_file(target, header, ZarrSteps(self.zarr, header), format)
        return target

    def bytes(self) -> int:
        """Of the values that are there or planned, and of files beside them."""
        header = self.header()
        values = 4 * math.prod(header.shape)
        return values + sum(entry.stat().st_size for entry in os.scandir(self.path) if entry.is_file())

    def touch(self) -> None:
        """Somebody reads it now."""
        (self.path / READ).touch()

    def last_read(self) -> float:
        """Unix time; 0 where nobody has."""
        try:
            return (self.path / READ).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def remove(self) -> None:
        """All at once for whoever looks at it."""
        trash = self.path.with_name(f".{self.path.name}.{time.time_ns()}")
        try:
            os.replace(self.path, trash)
        except FileNotFoundError:
            return
        shutil.rmtree(trash, ignore_errors=True)

    def _describe(self, header: Header) -> None:
        document: dict[str, Any] = {
            "family": header.family.id,
            "grid": header.grid.as_json(),
            "boundary": header.sides,
            "times": header.times.tolist(),
            "coefficients": header.document()["coefficients"],
            "count": header.count,
            "batched": header.batched,
            "attributes": dict(header.attributes),
        }
        replace_bytes(self.path / HEADER, json.dumps(document, allow_nan=False).encode())


logger = logging.getLogger(__name__)

READING_S = 300.0
"""A result that was read from so many seconds ago is being read: lazy readers ask for one chunk at a time."""
ORPHAN_S = 3600.0
"""A folder of this age that no job has belongs to an order that was never written down."""
SWEEP_S = 60.0


@dataclass(frozen=True)
class StoredResult:
    """A result on disk. `used`: Unix time of the end of its rollout, or of the last reading."""

    folder: RolloutFolder
    job: Job | None
    bytes: int
    used: float


class Results:
    """The stored results of a service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.data_dir / ROLLOUTS
        self._shared = shared_folders(settings)
        self._readers: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._sweeping: asyncio.Task[None] | None = None

    def start(self, store: JobStore) -> None:
        self._sweeping = asyncio.create_task(self._sweep_again(store))

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping

    @contextmanager
    def reading(self, job_id: str) -> Iterator[RolloutFolder]:
        """The folder of a result, which stays while the block lasts; fetched where another machine has made it.

        Raises:
            UserError: ``result_expired``.
        """
        folder = RolloutFolder(self._settings.data_dir, job_id)
        self._shared.pull(f"{ROLLOUTS}/{job_id}")  # every time: another machine may have finished it since
        with self._lock:
            if not folder.exists:
                raise UserError(
                    "result_expired",
                    f"the result of {job_id} is not kept any more",
                    hint="ask for the rollout again; UPS_RESULTS_AGE_S and UPS_RESULTS_BYTES say what is kept",
                )
            self._readers[job_id] += 1
        try:
            folder.touch()
            yield folder
        finally:
            with self._lock:
                self._readers[job_id] -= 1

    def sweep(self, store: JobStore, wanted: int = 0) -> int:
        """Removes what is too old, then what was not used for longest until `wanted` bytes have room.

        Returns:
            The bytes of room there are then, which may be fewer: what is computed or read stays.
        """
        stored = sorted(self._stored(store), key=lambda entry: entry.used)
        taken, now = sum(entry.bytes for entry in stored), time.time()
        for entry in stored:
            orphan = entry.job is None and now - entry.used > ORPHAN_S
            old = entry.job is not None and now - entry.used > self._settings.results_age_s
            over = entry.job is not None and taken + wanted > self._settings.results_bytes
            if (orphan or ((old or over) and entry.job is not None and entry.job.final)) and self._remove(entry.folder):
                logger.info("the result %s was removed", entry.folder.path.name)
                taken -= entry.bytes
        return self._settings.results_bytes - taken

    def sizes(self, job_ids: Collection[str]) -> dict[str, int]:
        """What the results of these jobs take, by job, the frames that are still to come included."""
        found = {}
        for job_id in job_ids:
            folder = RolloutFolder(self._settings.data_dir, job_id)
            with contextlib.suppress(FileNotFoundError, UserError):  # none, or removed meanwhile
                found[job_id] = folder.bytes()
        return found

    def make_room(self, store: JobStore, wanted: int) -> None:
        """Raises UserError ``quota_exceeded``."""
        room = self.sweep(store, wanted)
        if wanted > room:
            raise UserError(
                "quota_exceeded",
                "the result would take more room than stored results may",
                got=wanted,
                expected=f"at most {max(room, 0)} bytes now, {self._settings.results_bytes} in all",
                hint="use a larger save_every, delete results, or ask again when others have been read",
            )

    def _stored(self, store: JobStore) -> Iterator[StoredResult]:
        for path in self._root.iterdir() if self._root.is_dir() else ():
            folder = RolloutFolder(self._settings.data_dir, path.name)
            try:
                job = store.get(path.name)
            except UserError:
                job = None
            try:
                size = folder.bytes() if folder.exists else 0
                ended = (job.finished_at or 0.0) if job else path.stat().st_mtime
            except (FileNotFoundError, UserError):
                continue  # removed meanwhile
            yield StoredResult(folder, job, size, max(ended, folder.last_read()))

    def _remove(self, folder: RolloutFolder) -> bool:
        with self._lock:
            if self._readers[folder.path.name] or time.time() - folder.last_read() < READING_S:
                return False
            self.remove(folder)
            return True

    def remove(self, folder: RolloutFolder) -> None:
        """Here and for every machine."""
        self._shared.remove(f"{ROLLOUTS}/{folder.path.name}")
        folder.remove()

    async def _sweep_again(self, store: JobStore) -> None:
        while True:
            try:
                await asyncio.to_thread(self.sweep, store)
            except Exception:
                logger.exception("stored results could not be looked through")
            await asyncio.sleep(SWEEP_S)
