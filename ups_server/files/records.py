"""What is known of an uploaded file, on disk and in answers."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ups_server.data.report import CheckReport
from ups_server.errors import UserError
from ups_server.files.declaration import Declaration
from ups_server.specs import Spec, invalid_request

STATES = Literal["uploading", "validating", "ready", "refused"]
FROZEN = ConfigDict(frozen=True, extra="forbid")


class UploadRequest(Spec):
    """A file that is about to come."""

    name: str = Field(min_length=1, max_length=255, description="Its name; that of a published file tells its family.")
    size: int = Field(ge=0, lt=2**50, description="Bytes of it; an empty file is refused.")
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="Its checksum in hexadecimal; verified when it is whole."
    )
    declaration: Declaration = Declaration()

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
        if request.size == 0:
            raise UserError("empty_file", f"{request.name} is empty", got="0 bytes")
        request.declaration.check()
        return request


class ProblemRecord(BaseModel):
    """Why a file was refused; as in a problem document."""

    model_config = FROZEN

    code: str
    detail: str
    got: Any = None
    expected: Any = None
    hint: str | None = None

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
    offset: int = Field(description="Bytes that have arrived: an upload goes on from here.")
    sha256: str | None = Field(description="Given with the upload, computed once it is whole.")
    created_at: str
    finished_at: str | None = None
    declaration: Declaration
    report: FileReport | None = None
    problem: ProblemRecord | None = None
    usage: Usage | None = None
