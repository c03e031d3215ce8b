"""What an examination is told: the seam between the service and the confined process, JSON in and JSON out."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ups_server.files.declaration import Declaration
from ups_server.files.limits import Limits
from ups_server.files.records import FileReport, ProblemRecord

FROZEN = ConfigDict(frozen=True, extra="forbid")

STORE, PREVIEW = "store", "preview.png"
"""What an accepted file leaves in the output folder."""


class Job(BaseModel):
    """One file to be examined.

    Attributes:
        content: the file.
        name: the name its user gave it.
        output: an empty folder.
        sources: provenance of the store to be made.
    """

    model_config = FROZEN

    content: Path
    name: str
    declaration: Declaration
    output: Path
    limits: Limits
    provenance: dict[str, str] = {}


class Result(BaseModel):
    """What the confined process answers: a report, or a problem; and what held it."""

    model_config = FROZEN

    report: FileReport | None = None
    problem: ProblemRecord | None = None
    confinement: tuple[str, ...] = ()
    memory_bytes: int | None = None
