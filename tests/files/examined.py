"""One examination in its process, without a service."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

from ups_server.files.declaration import Declaration
from ups_server.files.examination import Examination
from ups_server.files.records import ExaminationLimits, ExaminationRequest, ExaminationResult, Usage

CACHE = Path(matplotlib.get_cachedir()) / "examined"
"""Shared by all tests: a list of fonts takes seconds to make."""


@dataclass(frozen=True)
class Examined:
    result: ExaminationResult
    usage: Usage
    output: Path


def examined(
    path: Path,
    folder: Path,
    limits: ExaminationLimits | None = None,
    timeout_s: float = 60.0,
    name: str | None = None,
    **said: Any,
) -> Examined:
    """Examines a file; `said` is the declaration."""
    output = folder / "work" / "output"
    declaration = Declaration.from_json(json.dumps(said))
    job = ExaminationRequest(
        content=path,
        name=name or path.name,
        declaration=declaration,
        output=output,
        limits=limits or ExaminationLimits(),
    )
    answered = Examination(job, CACHE, timeout_s).run()
    assert answered is not None
    result, usage = answered
    return Examined(result, usage, output)
