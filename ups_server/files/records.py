"""What is known of an uploaded file, on disk and in answers, and what an examination is asked and answers.

`ExaminationRequest` and `ExaminationResult` are the seam between the service and the confined process: JSON in, JSON
out.
"""

import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ups_server.data.check import CheckReport
from ups_server.errors import UserError
from ups_server.files.declaration import Declaration
from ups_server.specs import Spec, invalid_request

STATES = Literal["uploading", "validating", "ready", "refused"]
FROZEN = ConfigDict(frozen=True, extra="forbid")


MOST_PARTS = 1024
"""Files of one data set."""


class FilePart(Spec):
    """One of several files that are one data set."""

    name: str = Field(min_length=1, max_length=255, description="Its name; that of a published file tells its family.")
    size: int = Field(ge=0, lt=2**50, description="Bytes of it; an empty file is refused.")


class UploadRequest(Spec):
    """A file that is about to come, or several that are one data set."""

    name: str = Field(min_length=1, max_length=255, description="Its name; that of a published file tells its family.")
    size: int = Field(ge=0, lt=2**50, description="Bytes of it, or of all files together; an empty file is refused.")
    parts: tuple[FilePart, ...] = Field(
        default=(),
        max_length=MOST_PARTS,
        description="Several files of the same structure, read as one: their trajectories are counted through all of "
        "them. Their bytes come one file after the other, in this order.",
    )
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="Its checksum in hexadecimal; verified when it is whole."
    )
    declaration: Declaration = Declaration()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.parts and sum(part.size for part in self.parts) != self.size:
            raise ValueError("size is that of all parts together")
        return self

    @classmethod
    def from_json(cls, text: str | bytes) -> "UploadRequest":
        """Reads a request and checks its declaration.

        Raises:
            UserError: ``invalid_json``, ``invalid_request``, ``empty_file``, and those of `Declaration.check`.
        """
        try:
            request = cls.model_validate_json(text)
        except ValidationError as error:
            raise invalid_request(error) from None
        for file in request.parts or (request,):
            if file.size == 0:
                raise empty_file(file.name)
        request.declaration.check()
        return request


def empty_file(name: str) -> UserError:
    return UserError("empty_file", f"{name} is empty", got="0 bytes")


class ProblemRecord(BaseModel):
    """Why a file was refused; as in a problem document."""

    model_config = FROZEN

    code: str
    detail: str
    got: Any = None
    expected: Any = None
    hint: str | None = None
    proposal: str | None = Field(
        default=None,
        description="A mapping as YAML that may fit, to be looked at: the file is declared again with it as `mapping`.",
    )

    @classmethod
    def of(cls, error: UserError) -> "ProblemRecord":
        return cls(code=error.code, detail=error.message, got=error.got, expected=error.expected, hint=error.hint)


class FileReport(BaseModel):
    """What is in an accepted file. Trajectories have the numbers of the file everywhere."""

    model_config = FROZEN

    check: CheckReport = Field(description="Layout, family, axes, times, values of every field, trajectories.")
    declared: tuple[str, ...] = Field(description="What the user's declaration said.")
    slots: dict[str, int] = Field(description="Field -> its slot in the superspace of the models.")
    boundary: tuple[tuple[str, str], ...] = Field(description="[low, high] kind per axis.")
    dt: float | None = Field(description="The step to learn: the family's, or the frame spacing.")
    not_learnable: str | None = Field(
        default=None, description="Why nothing can be learned from it or scored on it; null where it can."
    )
    rows: int = Field(description="Trajectories that can be used; `check.left_out` lists the others.")
    preview_row: int = Field(default=0, description="The trajectory that the preview shows.")
    fingerprint: str = Field(description="Equal fingerprints mean equal data.")
    store_bytes: int


class Usage(BaseModel):
    """What the examination took."""

    model_config = FROZEN

    wall_s: float
    cpu_s: float
    memory_bytes: int = Field(description="Peak resident memory of the process that read the file.")
    confinement: tuple[str, ...] = Field(
        default=(), description="Protections that held: limits, landlock (files), seccomp (network, programs)."
    )


class Outcome(BaseModel):
    """The end of an examination: a report, or a problem."""

    model_config = FROZEN

    sha256: str | None = None
    report: FileReport | None = None
    problem: ProblemRecord | None = None
    usage: Usage | None = None
    finished_at: str


class Registration(BaseModel):
    """What is fixed when an upload begins; one JSON file on disk."""

    model_config = FROZEN

    id: str
    created_at: str
    request: UploadRequest


class FileRecord(BaseModel):
    """A user's file.

    States: `uploading` (bytes are missing), `validating`, `ready` (a report, a preview, usable trajectories),
    `refused` (a problem says why).
    """

    model_config = FROZEN

    id: str
    name: str
    state: STATES
    size: int = Field(description="Bytes of the whole file.")
    parts: tuple[FilePart, ...] = Field(default=(), description="The files of a data set of several.")
    offset: int = Field(description="Bytes that have arrived: an upload goes on from here.")
    sha256: str | None = Field(description="Given with the upload, computed once it is whole.")
    created_at: str
    finished_at: str | None = None
    declaration: Declaration
    family: str | None = Field(default=None, description="The equation it holds, once that is known.")
    report: FileReport | None = None
    problem: ProblemRecord | None = None
    usage: Usage | None = None


MIB = 2**20


class ExaminationLimits(BaseModel):
    """Bounds of one examination. The structural ones leave room for the largest files that PDEBench publishes.

    A deflated chunk cannot shrink below 1/1032: a file whose values shrink more than `ratio` in the mean holds almost
    none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objects: int = Field(default=65_536, description="Groups and datasets; published: 50,001.")
    depth: int = Field(default=8, description="Groups inside groups.")
    axes: int = Field(default=6, description="Axes of a dataset.")
    attributes: int = Field(default=64, description="Attributes of one object.")
    attribute_bytes: int = Field(default=MIB, description="Size of one attribute.")
    chunk_bytes: int = Field(default=64 * MIB, description="One chunk, decoded: a read of one number decodes it whole.")
    chunks: int = Field(default=2**20, description="Chunks of a file.")
    ratio: int = Field(default=500, description="Decoded over stored bytes of a dataset.")
    logical_bytes: int = Field(default=2**38, description="All values of a file, decoded.")
    store_bytes: int = Field(default=2**38, description="The store made of it.")
    memory_bytes: int = Field(default=480 * MIB, description="Memory beyond what the code itself needs.")
    open_files: int = Field(default=16, description="Files the examination has open at a time, its own code's aside.")
    structure_s: int = Field(default=10, description="CPU seconds for the walk over the structure of a small file.")
    structure_bytes_per_s: int = Field(default=MIB, description="Slowest pace of the walk, in stored bytes a second.")
    bytes_per_s: int = Field(default=4 * MIB, description="Slowest pace over the values, in bytes a CPU second.")
    values_s: int = Field(default=10, description="CPU seconds for the values of a small file.")
    probe_s: float = Field(default=5.0, description="Seconds for a comparison with the reference solver; 0: none.")
    cpu_s: int = Field(default=3600, description="CPU seconds in all.")

    def structure_cpu_s(self, stored_bytes: int) -> int:
        """CPU seconds for the walk over a file of so many bytes."""
        return min(self.structure_s + stored_bytes // self.structure_bytes_per_s, self.cpu_s)

    def whole_cpu_s(self, stored_bytes: int, logical_bytes: int) -> int:
        """CPU seconds for everything."""
        values = self.values_s + logical_bytes // self.bytes_per_s
        return min(self.structure_cpu_s(stored_bytes) + values + math.ceil(self.probe_s), self.cpu_s)


STORE, PREVIEW = "store", "preview.png"
"""What an accepted file leaves in the output folder."""


class NamedFile(BaseModel):
    """One file of a data set, and the name its user gave it."""

    model_config = FROZEN

    content: Path
    name: str


class ExaminationRequest(BaseModel):
    """One file to be examined, or several that are one data set.

    Attributes:
        content: the file; the bytes of several one after the other.
        name: the name its user gave it.
        parts: of several files each by itself.
        output: an empty folder.
        sources: provenance of the store to be made.
    """

    model_config = FROZEN

    content: Path
    name: str
    parts: tuple[NamedFile, ...] = ()
    declaration: Declaration
    output: Path
    limits: ExaminationLimits
    provenance: dict[str, str] = {}

    @property
    def files(self) -> tuple[NamedFile, ...]:
        """What is to be read."""
        return self.parts or (NamedFile(content=self.content, name=self.name),)


class ExaminationResult(BaseModel):
    """What the confined process answers: a report, or a problem; and what held it."""

    model_config = FROZEN

    report: FileReport | None = None
    problem: ProblemRecord | None = None
    confinement: tuple[str, ...] = ()
    memory_bytes: int | None = None
