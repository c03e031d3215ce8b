"""The confined process that reads one file of a user.

Started as ``python -m ups_server.files.examination_process`` with an `ExaminationRequest` as JSON on its standard
input; answers with an `ExaminationResult` as JSON on its standard output. It gives up its rights before it opens the
file; from then on it reads that file and its own code, and writes to one folder.
"""

import errno
import json
import math
import os
import re
import reprlib
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d

from ups_server import pictures
from ups_server.data.check import CheckReport, check_source
from ups_server.data.composed import Concat
from ups_server.data.containers import prepare
from ups_server.data.formats import format_of, hdf5, is_hdf5, open_content
from ups_server.data.formats.base import Given
from ups_server.data.formats.pdebench import open_pdebench
from ups_server.data.formats.pdebench.card import GROUPED, SINGLE, Card, card_of
from ups_server.data.inspect import inspect_all
from ups_server.data.mapped import open_mapped
from ups_server.data.source import TrajectorySource
from ups_server.data.user_equation import EquationSpec, check_mappable
from ups_server.data.windows import frame_stride, not_learnable
from ups_server.data.writer import transcode
from ups_server.errors import UserError
from ups_server.files import confinement
from ups_server.files.declaration import Declaration, check_boundary
from ups_server.files.records import (
    PREVIEW,
    STORE,
    ExaminationLimits,
    ExaminationRequest,
    ExaminationResult,
    FileReport,
    ProblemRecord,
)
from ups_server.files.structure import Structure, check_compressed
from ups_server.pde import BoundaryCondition
from ups_server.pde.registry import add_user_family, known_families, known_family

PACKAGE = Path(__file__).resolve().parent.parent
DAMAGED = UserError("damaged_file", "the structure of the file is damaged")
OWN_LIBRARIES = Path("/proc/self/maps")
"""Where solvers look for the libraries whose threads they limit."""
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
NO_TEXT = "(a text that is damaged)"
COMPRESSED = 8
"""How much larger the arrays of a file that is not HDF5 may be than the file, as far as its CPU time goes."""
UNEXPLAINED = {"not_hdf5", "unknown_layout", "family_unknown", "missing_dataset", "family_mismatch", "unreadable"}
"""Refusals of files that a mapping may explain."""
MOST_PROPOSED = 2**16
SNIFFED = 512
"""First bytes that say which libraries a file needs."""
OPEN_AT_ONCE = 8
"""Of the files of a data set: fewer than may be open."""
NEUTRAL, LETTERS = "content.of-user", "abcdefghij"
"""A name that tells nothing; of several files each has letters behind it, as numbers might tell something."""


def main() -> None:
    """Reads the job, gives up rights, examines, answers."""
    confinement.die_with_parent()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever a library prints is no answer.
    job = ExaminationRequest.model_validate_json(sys.stdin.read())
    links = [_links(job, number) for number in range(len(job.files))]
    with _memory_gauge() as peak:
        for file in job.files:
            with file.content.open("rb") as stream:
                prepare(stream.read(SNIFFED))
        held = _confine(job)
        try:
            result = ExaminationResult(report=examine(job, links))
        except UserError as error:
            problem = _record(_named(error, links))
            result = ExaminationResult(problem=problem.model_copy(update={"proposal": _proposal(job, error)}))
        except MemoryError:
            result = ExaminationResult(problem=ProblemRecord.of(out_of_memory(job.limits)))
        found = result.model_copy(update={"confinement": held, "memory_bytes": peak()})
        answer.write(json.dumps(readable(found.model_dump())))
        answer.flush()


def readable(value: Any) -> Any:
    """What JSON can hold of a result: texts in characters, where a damaged file gives bytes that are none; numbers."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case str():
            try:
                return value.encode("utf-8", "backslashreplace").decode()
            except (UnicodeError, SystemError):  # numpy makes texts of numbers that are no characters
                return NO_TEXT
        case dict():
            return {readable(name): readable(entry) for name, entry in value.items()}
        case list() | tuple():
            return [readable(entry) for entry in value]
    return value


@dataclass(frozen=True)
class Links:
    """A file under the name its user gave it, made harmless, and under one that tells nothing."""

    own: str
    named: Path
    neutral: Path


def examine(job: ExaminationRequest, links: Sequence[Links]) -> FileReport:
    """Walks the structure, checks every value, writes store and picture.

    Raises:
        UserError: why the file is refused.
    """
    stored_bytes = job.content.stat().st_size
    confinement.allow_cpu(job.limits.structure_cpu_s(stored_bytes))
    logical_bytes = sum(_check_structure(entry.named, job) for entry in links)
    confinement.allow_cpu(job.limits.whole_cpu_s(stored_bytes, logical_bytes))
    with _damage_refused(h5py_only=False):
        source = _open_all(links, job.declaration)
        try:
            return _accept(job, source)
        finally:
            source.close()


def _open_all(links: Sequence[Links], declaration: Declaration) -> TrajectorySource:
    openers = [partial(open_declared, entry.named, entry.neutral, declaration) for entry in links]
    if len(openers) == 1:
        return openers[0]()
    declared = any((declaration.family, declaration.equation, declaration.mapping))
    return Concat(openers, [(entry.neutral if declared else entry.named).name for entry in links], OPEN_AT_ONCE)


def _check_structure(path: Path, job: ExaminationRequest) -> int:
    """Decoded bytes of all values, after a look at everything that declares some."""
    mapped = job.declaration.mapping is not None
    with _damage_refused(h5py_only=True):
        if mapped and not h5py.is_hdf5(path):
            return COMPRESSED * path.stat().st_size
        if not mapped and not is_hdf5(path):
            return COMPRESSED * path.stat().st_size
        with (hdf5.open_plainly if mapped else hdf5.open_file)(path) as file:
            return _walk(file, job.limits)


def _walk(file: h5py.File, limits: ExaminationLimits) -> int:
    """Decoded bytes of all values; raises UserError for what no reader may touch."""
    structure = Structure(file, limits)
    for label in structure.compressed:
        check_compressed(label, h5d.open(file.id, label.encode()))
    return structure.logical_bytes


def _proposal(job: ExaminationRequest, error: UserError) -> str | None:
    """A mapping for a file that does not explain itself, where nobody gave one and its arrays suggest one."""
    if job.declaration.mapping is not None or error.code not in UNEXPLAINED:
        return None
    try:
        for file in job.files:
            if h5py.is_hdf5(file.content):
                with hdf5.open_plainly(file.content) as opened:
                    _walk(opened, job.limits)
        found = inspect_all([file.content for file in job.files], job.name).yaml
    except Exception:  # whatever a damaged file does to it, the refusal stands without a proposal
        traceback.print_exc()
        return None
    return None if found is None else str(readable(found))[:MOST_PROPOSED]


def _accept(job: ExaminationRequest, source: TrajectorySource) -> FileReport:
    _check_store_size(source, job.limits)
    check, unusable = check_source(job.files[0].content, source, job.limits.probe_s)
    rows = source.n_trajectories - len(unusable)
    if not rows or (check.problems and not unusable):
        raise UserError(
            "unusable_file",
            f"no trajectory can be used: {'; '.join(check.problems)}",
            got=f"{check.usable} of {check.trajectories} usable",
            hint=next(iter(check.warnings), None) if check.guessed_from else None,
        )
    provenance: dict[str, Any] = {**job.provenance, "name": job.name, "rows": rows, "refused": len(unusable)}
    with transcode(source, job.output / STORE, provenance, left_out=unusable) as store:
        pictures.save_picture(store.preview(0), job.output / PREVIEW)
        family = known_family(source.family)
        return FileReport(
            check=check.model_copy(update={"file": job.name, "bytes": job.content.stat().st_size}),
            declared=said(job.declaration),
            slots={field.name: field.slot for field in family.fields},
            boundary=tuple((low, high) for low, high in source.boundary.as_names()),
            dt=_step(check, family.dt),
            not_learnable=not_learnable(store.times, family),
            rows=rows,
            preview_row=int(store.row_numbers.numbers[0]),
            fingerprint=store.manifest.fingerprint,
            store_bytes=sum(entry.stat().st_size for entry in store.path.iterdir()),
        )


def open_declared(path: Path, neutral: Path, declaration: Declaration) -> TrajectorySource:
    """The trajectories of a file.

    Args:
        path: the file under the name its user gave it, which may tell its family.
        neutral: the same file under a name that tells nothing, for a family that is declared.

    Raises:
        UserError: what is missing, contradictory or broken.
    """
    source: TrajectorySource
    if declaration.mapping is not None:
        source = open_mapped(neutral, declaration.mapping, None, declaration.coefficients)
    elif declaration.equation is not None:
        source = _open_equation(neutral, declaration.equation, declaration)
    elif declaration.family is not None:
        source = _open(neutral, declaration, declaration.family, declaration.coefficients, _known_card(declaration))
    else:
        source = open_content(path, None, declaration.coefficients)
    try:
        family = known_families()[source.family]
        check_mappable(family.id, family.ndim, [field.slot for field in family.fields])
        if declaration.boundary is not None:
            source.boundary = BoundaryCondition(declaration.boundary)
        check_boundary(family, source.boundary)
    except UserError:
        source.close()
        raise
    return source


def _known_card(declaration: Declaration) -> Card | None:
    """The card of a known family whose axes the user declares; None where nothing is to be changed."""
    card = card_of(declaration.family or "")
    if card is None:
        raise UserError("no_layout", f"files of {declaration.family} have no layout", got=declaration.family)
    return None if declaration.axes is None else replace(card, axes=declaration.axes)


def _open(
    path: Path, declaration: Declaration, family: str, coefficients: Mapping[str, float], card: Card | None
) -> TrajectorySource:
    """A file of a declared family; NetCDF and npz name their variables and axes, which no card has to."""
    found = format_of(path)
    if not found.names_axes:
        return open_pdebench(path, Given(family, coefficients), card)
    if declaration.axes is not None:
        raise UserError("wrong_axis", f"the axes of {path.name} have names: none are to be declared")
    return found.open(path, Given(family, coefficients))


def _open_equation(path: Path, spec: EquationSpec, declaration: Declaration) -> TrajectorySource:
    """A file of an equation that only the user knows."""
    add_user_family(spec.family())
    known = {entry.name: entry.value for entry in spec.coefficients if entry.value is not None}
    card = equation_card(spec, declaration.axes)
    source = _open(path, declaration, spec.id, {**known, **declaration.coefficients}, card)
    if spec.dt is None and len(source.times) > 1:
        add_user_family(spec.family(float(source.times[-1] - source.times[0]) / (len(source.times) - 1)))
    elif spec.dt is not None:
        try:
            frame_stride(source.times, spec.dt)
        except UserError:
            source.close()
            raise
    return source


def equation_card(spec: EquationSpec, axes: tuple[str, ...] | None = None) -> Card:
    """How the files of a declared equation look."""
    names = tuple("xyz"[: len(spec.extent)]) if axes is None else axes
    coefficients = {entry.name: entry.name for entry in spec.coefficients}
    if spec.layout == GROUPED:
        return Card(spec.id, GROUPED, "", config=coefficients, axes=names)
    return Card(
        spec.id,
        SINGLE,
        "",
        datasets=tuple(entry.dataset or entry.name for entry in spec.fields),
        static=tuple(entry.dataset or entry.name for entry in spec.static_fields),
        attributes=coefficients,
        axes=names,
    )


def said(declaration: Declaration) -> tuple[str, ...]:
    """What a declaration says something about."""
    return tuple(name for name in type(declaration).model_fields if getattr(declaration, name))


def out_of_memory(limits: ExaminationLimits) -> UserError:
    return UserError(
        "out_of_memory", "reading the file takes more memory than is allowed", expected=f"{limits.memory_bytes} bytes"
    )


def _step(check: CheckReport, dt: float) -> float | None:
    """The family's step where the frames divide it, else their spacing."""
    if check.dt is None or check.frames < 2:
        return None
    frames = round(dt / check.dt)
    return dt if frames >= 1 and abs(frames * check.dt - dt) <= 1e-3 * check.dt else check.dt


def _check_store_size(source: TrajectorySource, limits: ExaminationLimits) -> None:
    """Raises UserError ``quota_exceeded`` before the work."""
    shape = (source.n_trajectories, len(source.times), *source.grid.n, len(source.fields))
    wanted = 4 * int(np.prod(shape, dtype=object))
    if wanted > limits.store_bytes:
        raise UserError(
            "quota_exceeded",
            "the trajectories of this file, decoded, would exceed the quota of this service",
            got=f"{wanted} bytes",
            expected=f"at most {limits.store_bytes} bytes",
            hint="delete files that are not needed any more, or upload fewer trajectories",
        )


def _confine(job: ExaminationRequest) -> tuple[str, ...]:
    """Gives up everything but this file, the output folder and our own code; says what holds."""
    tempfile.tempdir = os.fspath(job.output)
    confinement.limit_resources(job.limits)
    read = [*code_folders(), Path(os.environ["MPLCONFIGDIR"]), OWN_LIBRARIES, *(file.content for file in job.files)]
    files = confinement.restrict_files([path for path in read if path.exists()], [job.output])
    calls = confinement.restrict_calls()
    return ("limits", *(["landlock"] if files else []), *(["seccomp"] if calls else []))


def code_folders() -> set[Path]:
    """This package, Python's own, and where packages are installed: a virtual environment may use those of another.

    Never all of `sys.path`: the folder that this package lies in may hold data too.
    """
    own = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    installed = (entry for entry in sys.path if Path(entry).name in PACKAGE_FOLDERS)
    return {PACKAGE, *map(Path, own), *map(Path, installed)}


def _links(job: ExaminationRequest, number: int) -> Links:
    """Those of one file, in a folder of their own where there are several."""
    file, folder = job.files[number], job.output / f"{number:04d}" if job.parts else job.output
    folder.mkdir(exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9._+-]", "_", file.name)[-100:].lstrip(".") or NEUTRAL
    neutral = NEUTRAL + "".join(LETTERS[int(digit)] for digit in f"{number:04d}") if job.parts else NEUTRAL
    found = Links(file.name, folder / (neutral if name in (STORE, PREVIEW) else name), folder / neutral)
    for link in dict.fromkeys((found.named, found.neutral)):
        link.symlink_to(file.content)
    return found


@contextmanager
def _damage_refused(h5py_only: bool) -> Iterator[None]:
    """What h5py raises over damaged structure becomes a refusal; the traceback goes to the log."""
    kinds: tuple[type[Exception], ...] = (OSError, RuntimeError, KeyError)
    if h5py_only:
        kinds = (*kinds, ValueError, TypeError)
    try:
        yield
    except kinds as error:
        traceback.print_exc()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError("storage_full", "the disk of this service is full") from error
        raise DAMAGED from error


@contextmanager
def _memory_gauge() -> Iterator[Any]:
    """Peak resident memory of this program alone: the kernel's figure for a child includes its parent before exec."""
    try:
        status = open("/proc/self/status", encoding="ascii")  # noqa: SIM115 (read again when nothing can be opened)
    except OSError:
        yield lambda: None
        return

    def peak() -> int | None:
        status.seek(0)
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read())
        return int(found[1]) * 1024 if found else None

    with status:
        yield peak


def _named(error: UserError, links: Sequence[Links]) -> UserError:
    """The problem with the file's own name in place of those it was opened under."""
    message, hint = error.message, error.hint
    for entry in links:
        for link in (entry.named, entry.neutral):
            message = message.replace(link.name, entry.own)
            hint = None if hint is None else hint.replace(link.name, entry.own)
    return UserError(error.code, message, got=error.got, expected=error.expected, hint=hint)


def _record(error: UserError) -> ProblemRecord:
    """The problem, with what the file said cut short."""
    return ProblemRecord.of(
        UserError(
            error.code,
            error.message[:1000],
            got=_short(error.got),
            expected=_short(error.expected),
            hint=error.hint,
        )
    )


def _short(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return value[:300] if isinstance(value, str) else reprlib.repr(value)


if __name__ == "__main__":
    main()
