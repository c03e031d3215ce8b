"""What jobs are: their specs, their states, and what the table says about one. Imports no torch.

A kind of job is one spec here, in `JobSpec`, and one task in `jobs.tasks`.
"""

import json
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError, model_validator

from ups_server.align import ALIGNMENTS
from ups_server.specs import MIN_POINTS, Spec, invalid_request
from ups_server.train.start import with_tuning

FileId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", description="Id of a stored file.")]
ModelId = Annotated[str, Field(min_length=1, max_length=128, description="A model id.")]


class JobState(StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"
    VALIDATING = "validating"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = (JobState.VALIDATING, JobState.RUNNING)
"""States in which a worker holds the job."""
FINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class AlignmentName(StrEnum):
    """Ways to align the operator with the language model before tuning; the registry says which are installed."""

    NONE = "none"
    EUCLIDEAN = "euclidean"
    MMD = "mmd"
    OTDD = "otdd"
    RECRAFT = "recraft"
    MONA = "mona"
    PARE = "pare"

    @classmethod
    def _missing_(cls, value: object) -> "AlignmentName | None":
        """A method of a plug-in."""
        if not isinstance(value, str) or value not in ALIGNMENTS:
            return None
        added = str.__new__(cls, value)
        added._name_, added._value_ = value.upper(), value
        return added


class TuningName(StrEnum):
    """What tuning may change; the registry says which are installed."""

    OPERATOR = "operator"
    FULL = "full"
    LORA = "lora"
    LAYERNORM = "layernorm"
    PREFIX = "prefix"
    HEAD = "head"


class StartName(StrEnum):
    """What is tuned: the weights of a model; a new embedder and head around the pretrained language model; as a
    control, the same around one of random weights.
    """

    MODEL = "model"
    LM = "lm"
    RANDOM = "random"


class EmbedderName(StrEnum):
    """Embedder and head of a fresh start: Fourier channels and a mean over the sequence (UPS), or patches (ORCA)."""

    FNO = "fno"
    PATCH = "patch"


class _JobSpec(Spec):
    model: ModelId | None = Field(default=None, description="A model id; default: the service's default model.")
    priority: int = Field(default=0, ge=-100, le=100, description="Higher goes first; equal ones in order of arrival.")


class HorizonName(StrEnum):
    """What is predicted at once: the state a step later, or, from the first, the last of a trajectory; of a steady
    equation the solution, from its static fields.
    """

    STEP = "step"
    FINAL = "final"


class EvaluationSpec(_JobSpec):
    """A model scored on a stored file: one step ahead and full rollout, with persistence beside both."""

    kind: Literal["evaluation"] = "evaluation"
    file: FileId
    dt: FiniteFloat | None = Field(
        default=None, gt=0, description="Step; default: the model's for the family, else the family's."
    )
    resolution: int | None = Field(default=None, ge=MIN_POINTS, description="Points per axis; default: the file's.")
    trajectories: int | None = Field(default=None, ge=1, description="The first so many; default: all.")
    horizon: HorizonName = HorizonName.STEP


ROLLOUT = "rollout"
"""The kind of job that the engine computes, and no worker."""


class RolloutJobSpec(_JobSpec):
    """A rollout that is computed without anyone waiting; its request, arrays included, is in the job's folder."""

    kind: Literal["rollout"] = "rollout"
    family: str
    n_steps: int
    save_every: int
    n_frames: int = Field(description="Frames that are planned, the initial condition included.")
    file: FileId | None = Field(default=None, description="The uploaded file it starts from.")
    request_sha256: str = Field(description="Of the request, arrays included.")


class FineTuningSpec(_JobSpec):
    """A model adapted to a stored file of trajectories."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    kind: Literal["fine_tuning"] = "fine_tuning"
    training_file: FileId
    validation_file: FileId | None = Field(
        default=None,
        description="A stored file of the same problem: a quarter of its trajectories chooses the checkpoint, the "
        "others are the test. Default: the trajectories of `training_file` that are not trained on.",
    )
    n_trajectories: int = Field(
        ge=1, description="Trajectories to train on; the rest of the file, or `validation_file`, is held out."
    )
    start: StartName = Field(
        default=StartName.MODEL,
        alias="from",
        description="`lm`: a new embedder and head around the pretrained language model, and nothing of `model`.",
    )
    embedder: EmbedderName | None = Field(default=None, description="Of a fresh start; default: fno.")
    body_layers: int | None = Field(
        default=None, ge=1, le=256, description="Of a fresh start: layers of the language model; default: all."
    )
    alignment: AlignmentName = AlignmentName.NONE
    alignment_options: dict[str, str] = Field(
        default_factory=dict, max_length=8, description="Variants of the alignment, such as `terms` of recraft."
    )
    tuning: TuningName = Field(
        default=TuningName.OPERATOR, strict=False, description="What may change; default of a fresh start: full."
    )
    horizon: HorizonName = HorizonName.STEP
    max_steps: int | None = Field(
        default=None, ge=1, le=10**6, description="Optimiser steps at most; default by `n_trajectories`."
    )
    max_seconds: FiniteFloat | None = Field(default=None, gt=0, description="Seconds of training at most.")
    learning_rate: FiniteFloat | None = Field(default=None, gt=0, le=1, description="Peak; default by the method.")
    seed: int = Field(default=0, ge=0, lt=2**31)
    suffix: str | None = Field(
        default=None, pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="Part of the new model's id."
    )

    @model_validator(mode="before")
    @classmethod
    def _tuning_of_the_start(cls, document: Any) -> Any:
        return with_tuning(document)

    @property
    def fresh(self) -> bool:
        """Does it start without the weights of a model?"""
        return self.start is not StartName.MODEL


AnySpec = EvaluationSpec | FineTuningSpec | RolloutJobSpec
JobSpec = Annotated[AnySpec, Field(discriminator="kind")]

_SPECS: TypeAdapter[AnySpec] = TypeAdapter(JobSpec)


def spec_from_json(text: str | bytes) -> AnySpec:
    """Raises UserError ``invalid_json`` or ``invalid_request``."""
    try:
        return _SPECS.validate_json(text)
    except ValidationError as error:
        raise invalid_request(error) from None


def tuned_model_id(parent: str, suffix: str | None, job_id: str) -> str:
    """The id of the model a fine-tuning job makes: the same in every attempt."""
    return "-".join(filter(None, [parent, suffix, job_id.rpartition("-")[2][:8]]))


class Job(BaseModel):
    """One job as the table has it. Times are Unix times in seconds.

    Attributes:
        attempt: how often a worker began it.
        result: of a job that succeeded; error: the problem document of one that failed.
    """

    model_config = ConfigDict(frozen=True)
    id: str
    kind: str
    state: JobState
    model: str | None
    spec: dict[str, Any]
    priority: int
    attempt: int
    cancel_requested: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None

    @property
    def final(self) -> bool:
        return self.state in FINAL


class JobEvent(BaseModel):
    """One line of a job's history. `seq` counts from 1 without gaps."""

    model_config = ConfigDict(frozen=True)
    seq: int
    type: str
    at: float
    data: dict[str, Any]


class Checkpoint(BaseModel):
    """A step from which a fine-tuning job can go on; with its errors on validation trajectories where it was scored.

    The last one of a job is on disk, and the best one by validation becomes the model.
    """

    step: int
    at: float
    one_step: float | None = None
    rollout: float | None = None
    best: bool = False


def spec_of(job: Job) -> AnySpec:
    """The spec a job was made from. Raises UserError as `spec_from_json`."""
    return spec_from_json(json.dumps(job.spec))
