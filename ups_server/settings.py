"""Configuration of the service: one frozen object, from keyword arguments or `UPS_*` environment variables."""

import json
import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from ups_server.errors import UserError

LogFormat = Literal["text", "json"]


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


DEVICE = re.compile(r"cuda:(?P<index>\d{1,3})|cpu:(?P<first>\d{1,4})(-(?P<last>\d{1,4}))?")
REPLICAS = re.compile(r"ray:([1-9]\d{0,3})")
"""So many engines on a Ray cluster, in place of devices."""


@dataclass(frozen=True)
class EngineDevice:
    """A device that one engine has to itself.

    Attributes:
        name: as the settings have it: `cuda:1`, `cpu:0`, `cpu:0-3`.
        cores: that the processes of the engine are kept on; none: any.
    """

    name: str
    cores: tuple[int, ...] = ()

    @classmethod
    def named(cls, name: str) -> "EngineDevice":
        """Raises ValueError where there is no such device, as far as this process can know without PyTorch."""
        found = DEVICE.fullmatch(name)
        if found is None:
            raise ValueError(f"{name!r} is no device: cuda:N, cpu:N (a core) or cpu:N-M (cores)")
        if found["first"] is None:
            return cls(name)
        cores = tuple(range(int(found["first"]), int(found["last"] or found["first"]) + 1))
        here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        if not cores or not here.issuperset(cores):
            raise ValueError(f"{name}: the cores this process may keep an engine on are {sorted(here)}")
        return cls(name, cores)

    @property
    def torch_name(self) -> str:
        return "cpu" if self.cores else self.name


class Settings(BaseSettings):
    """Settings of `ups serve`. Every one is also an environment variable: `UPS_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="UPS_", frozen=True, extra="forbid")

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on; one that other machines can reach needs an API key (`ups keys create`).",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    root_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Prefix under which a proxy shows the service, such as `/ups`; the proxy takes it away again.",
    )
    data_dir: Path = Field(
        default=Path(".ups"),
        description="Folder of everything the service stores; its `models/` subfolder adds models.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Verbosity of the log.")
    log_format: LogFormat = Field(default="text", description="Lines of the log for a person, or one JSON object each.")

    default_model: str = Field(
        default="ups-mini",
        description="Model of requests that name none; loaded at start, `/readyz` waits for it. The shipped one "
        "gives way in families in which another shipped model is `preferred`.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device of the engine; `auto` takes CUDA where there is one."
    )
    devices: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Several devices, each with an engine of its own: `cuda:0,cuda:1`; `cpu:0,cpu:1` or "
        "`cpu:0-3,cpu:4-7` are cores; `ray:4` are four engines on the cluster at `UPS_RAY_ADDRESS`, each with "
        "`UPS_THREADS` cores, and a GPU where `UPS_DEVICE` is `cuda`. What is said of the engine below holds for each "
        "of them.",
    )
    threads: int = Field(
        default_factory=available_cores,
        ge=1,
        description="CPU threads of the engine; engines on cores have as many as those, others share these.",
    )

    max_body_bytes: int = Field(
        default=64 * 2**20, ge=1024, description="Largest request body in bytes, also after decompression."
    )
    max_bodies: int = Field(
        default=4,
        ge=1,
        description="Largest bodies that are read, decoded and planned at a time; they take up to three times their "
        "size in memory. More wait.",
    )
    max_steps: int = Field(default=10_000, ge=1, description="Most model steps in one rollout.")
    max_points: int = Field(
        default=2**25, ge=1, description="Most values in one answer: frames x points x fields x batch (float32 each)."
    )
    max_json_values: int = Field(
        default=2**20, ge=1, description="Most values in a JSON answer; binary formats take over."
    )

    files_quota_bytes: int = Field(
        default=50 * 2**30, ge=0, description="Most bytes of all uploaded files and what is made of them."
    )
    max_file_bytes: int = Field(default=20 * 2**30, ge=1, description="Largest uploaded file in bytes.")
    max_data_bytes: int = Field(
        default=8 * 2**30, ge=1, description="Most bytes of values of a stored file in one answer."
    )
    upload_expiry_s: float = Field(
        default=7 * 86_400.0,
        gt=0,
        description="Seconds without a byte after which an upload that was not finished is removed.",
    )
    examination_memory_bytes: int = Field(
        default=480 * 2**20, ge=2**20, description="Memory for reading an uploaded file, beyond that of the code."
    )
    examination_timeout_s: float = Field(
        default=3600.0, gt=0, description="Longest examination of an uploaded file in seconds."
    )
    examinations: int = Field(default=1, ge=1, description="Uploaded files examined at the same time.")

    remote_addresses: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="What the addresses of Zarr that requests may name begin with, such as `https://data.example.org/,"
        "s3://bucket/`; `https://` allows all public ones. The service fetches a copy, from buckets with its own "
        "credentials.",
    )
    remote_private: bool = Field(
        default=False, description="May these addresses be on this machine and in private networks?"
    )
    remote_timeout_s: float = Field(default=600.0, gt=0, description="Longest such copy in seconds.")

    key_requests_per_minute: int | None = Field(
        default=600, ge=1, description="Requests a minute with one API key, where it has no limit of its own."
    )
    key_stored_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Bytes of all files and kept results of one API key, where it has no limit of its own.",
    )
    key_compute_seconds: float | None = Field(
        default=None,
        ge=0,
        description="Seconds a day that are computed for one API key, where it has no limit of its own.",
    )
    cors_origins: tuple[str, ...] = Field(
        default=(),
        description='Origins whose pages may use the service with an API key, as JSON: `["https://example.org"]`.',
    )

    max_active: int = Field(
        default=64, ge=1, description="Rollouts that share the engine, by turns where they do not fit into one batch."
    )
    max_batch_rows: int = Field(default=32, ge=1, description="Most states in one step of the engine.")
    step_memory_bytes: int = Field(
        default=2**30, ge=1, description="Memory one step of the engine may take; what needs more is refused."
    )
    models_memory_bytes: int = Field(
        default=2 * 2**30, ge=1, description="Memory of loaded models; the least recently used leave first."
    )
    states_memory_bytes: int = Field(
        default=2**30, ge=1, description="Memory of the states of all rollouts in progress; the others wait."
    )
    max_queued: int = Field(
        default=64,
        ge=0,
        description="Rollouts that may wait for a place, of up to 8 steps and of more each; more are refused with 429.",
    )
    stream_window: int = Field(
        default=32, ge=1, description="Frames the engine may be ahead of a slow reader before it pauses that rollout."
    )
    keep_alive_s: float = Field(
        default=15.0, gt=0, description="Seconds of silence before a comment keeps a stream open."
    )
    queue_timeout_s: float = Field(
        default=60.0, gt=0, description="Longest wait for a place in the engine, in seconds."
    )
    reference_timeout_s: float = Field(
        default=300.0, gt=0, description="Longest run of the numerical solver beside a rollout, in seconds."
    )
    max_solver_s: float = Field(
        default=3600.0,
        gt=0,
        description="Longest rollout of the numerical solver that is waited for, in seconds as estimated from its "
        "steps and points; an asynchronous one may take 24 times as long.",
    )
    engine_start_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Longest start of the engine process in seconds; requests wait that long for it.",
    )
    engine_stall_timeout_s: float = Field(
        default=300.0,
        gt=0,
        description="Seconds without a sign of life during a rollout before the engine is restarted.",
    )
    engine_restart_s: float = Field(default=0.2, gt=0, description="Pause before the first restart of a dead engine.")
    engine_restart_max_s: float = Field(
        default=30.0, gt=0, description="Longest pause between restarts; it doubles each time."
    )
    max_async_active: int = Field(
        default=8, ge=1, description="Asynchronous rollouts in the engine at a time; with several, for each."
    )
    max_async_steps: int = Field(default=100_000, ge=1, description="Most model steps in one asynchronous rollout.")
    results_bytes: int = Field(
        default=20 * 2**30, ge=0, description="Most bytes of stored results; those not read for longest leave first."
    )
    results_age_s: float = Field(
        default=7 * 86400.0, gt=0, description="Seconds a stored result is kept after its end or its last reading."
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL database of the jobs, `postgresql://user:password@host/name`; default: a SQLite file "
        "in `data_dir`.",
    )
    object_store: str | None = Field(
        default=None,
        description="Object store, `s3://bucket/prefix`, for files, models, results and checkpoints, of which every "
        "machine then has copies in a `data_dir` of its own; default: one folder for all.",
    )
    worker: bool = Field(default=True, description="Run a worker process for jobs beside the service.")
    worker_threads: int = Field(
        default_factory=available_cores,
        ge=1,
        description="CPU threads of the worker; elsewhere, cores that every job asks its executor for.",
    )
    worker_grace_s: float = Field(
        default=20.0, gt=0, description="Seconds the worker gets to save the job in hand at shutdown."
    )
    executor: str = Field(
        default="local",
        description="What runs jobs other than rollouts: `local`, the worker process; `torchrun`, several processes a "
        "job; `ray`, a cluster; `slurm`, a batch system.",
    )
    executor_jobs: int = Field(
        default=1, ge=1, description="Jobs given to an executor at a time; the others wait in the table."
    )
    executor_gpus: float = Field(default=0.0, ge=0, description="GPUs that every job asks Ray or Slurm for.")
    executor_processes: int = Field(default=2, ge=1, description="Processes of a job under `torchrun`.")
    ray_address: str = Field(
        default="auto", description="Of the Ray cluster, `host:port`; `auto` finds it on this machine."
    )
    slurm_cluster: Literal["slurm", "local"] = Field(
        default="slurm", description="`local` runs what Slurm would run as processes of this machine, to try it."
    )
    slurm_options: dict[str, str | int] = Field(
        default={},
        description='Parameters of submitit for every job, as JSON: `{"slurm_partition": "gpu", "timeout_min": 720}`.',
    )
    checkpoint_s: float = Field(
        default=60.0, ge=0, description="Seconds between two saves of a training job, besides those at validations."
    )
    job_lease_s: float = Field(
        default=30.0, gt=0, description="Seconds without a sign of life before a worker's job is given to another one."
    )
    job_poll_s: float = Field(default=0.2, gt=0, description="Seconds between two looks at the queue and at events.")
    job_max_crashes: int = Field(
        default=3, ge=1, description="Times in succession a job may take its worker down before it has failed."
    )
    webhooks_private: bool = Field(
        default=False, description="May webhooks go to this machine and to private networks?"
    )
    webhook_attempts: int = Field(default=8, ge=1, le=32, description="Attempts at a webhook's delivery.")
    webhook_retry_s: float = Field(
        default=5.0,
        gt=0,
        description="Seconds after the first that failed; each pause is four times the one before.",
    )
    retry_after_s: int = Field(default=2, ge=1, description="The `Retry-After` of 429 and 503 answers, in seconds.")
    shutdown_grace_s: int = Field(
        default=30, ge=0, description="Seconds open requests get to finish at shutdown; a second signal cuts them off."
    )

    @field_validator("devices", "remote_addresses", mode="before")
    @classmethod
    def _separated(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("remote_addresses")
    @classmethod
    def _beginnings(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for address in addresses:
            if not re.match(r"(https?|s3)://", address):
                raise ValueError(f"{address!r} does not begin with https://, http:// or s3://")
        return tuple(address if address.endswith("/") else f"{address}/" for address in addresses)

    @field_validator("devices")
    @classmethod
    def _distinct(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if any(name.startswith("ray:") for name in names):
            if len(names) > 1 or REPLICAS.fullmatch(names[0]) is None:
                raise ValueError("ray:N, alone: N engines on a Ray cluster")
            return names
        devices = [EngineDevice.named(name) for name in names]
        if names and info.data.get("device", "auto") != "auto":
            raise ValueError("either UPS_DEVICE or UPS_DEVICES, not both")
        if len({bool(device.cores) for device in devices}) > 1:
            raise ValueError("all devices are of one kind: a rollout may go on at another one")
        cores = [core for device in devices for core in device.cores]
        if len(set(cores)) < len(cores) or len(set(names)) < len(names):
            raise ValueError("no two engines share a device or a core")
        return names

    @classmethod
    def given(cls, **values: Any) -> Self:
        """The settings of a command: `values`, then the environment, then the defaults.

        Raises:
            UserError: ``invalid_setting``; it quotes no value that may be a secret.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            name = str(first["loc"][0])
            raise UserError(
                "invalid_setting",
                f"the setting {name} (UPS_{name.upper()}) is not valid",
                got=None if name == "database_url" else str(first["input"])[:80],
                expected=first["msg"].lower(),
            ) from None
        except SettingsError as error:
            raise UserError("invalid_setting", "a setting in the environment is not valid", got=str(error)) from None

    @property
    def engine_devices(self) -> tuple[EngineDevice, ...]:
        """Where several engines of this machine compute; none: one engine, on `device`, or replicas."""
        return () if self.replicas else tuple(map(EngineDevice.named, self.devices))

    @property
    def replicas(self) -> int:
        """Engines on a Ray cluster."""
        found = REPLICAS.fullmatch(self.devices[0]) if self.devices else None
        return 0 if found is None else int(found[1])

    @property
    def engines(self) -> int:
        """How many engines there are, here or elsewhere."""
        return self.replicas or len(self.devices) or 1

    @property
    def bodies_memory_bytes(self) -> int:
        """Memory of the API process for requests that are read, decoded and planned."""
        return 3 * self.max_body_bytes * self.max_bodies

    @property
    def answers_memory_bytes(self) -> int:
        """Memory of the API process for answers that are computed and written: two of the largest, each three times."""
        return 2 * 3 * 4 * self.max_points

    @property
    def database(self) -> str | None:
        """The database URL in clear."""
        return None if self.database_url is None else self.database_url.get_secret_value()

    def clear_json(self) -> str:
        """All of them for another process, as one line; secrets in clear, which is why no other user may see it."""
        return json.dumps({**self.model_dump(mode="json"), "database_url": self.database})


def is_loopback(host: str) -> bool:
    """Is this an address only this machine can reach?"""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
