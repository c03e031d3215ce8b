"""Configuration of the service: one frozen object, from keyword arguments or `UPS_*` environment variables."""

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from ups_server.errors import UserError


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """Settings of `ups serve`. Every one is also an environment variable: `UPS_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="UPS_", frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    allow_remote: bool = Field(
        default=False,
        description="Allow a `host` that other machines can reach. The service has no authentication of its own.",
    )
    data_dir: Path = Field(
        default=Path(".ups"),
        description="Folder of everything the service stores; its `models/` subfolder adds models.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Verbosity of the log.")

    default_model: str = Field(
        default="ups-mini", description="Model of requests that name none; loaded at start, `/readyz` waits for it."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device of the engine; `auto` takes CUDA where there is one."
    )
    threads: int = Field(default_factory=available_cores, ge=1, description="CPU threads of the engine.")

    max_body_bytes: int = Field(
        default=64 * 2**20, ge=1024, description="Largest request body in bytes, also after decompression."
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
        default=64, ge=0, description="Rollouts that may wait for a place; more are refused with 429."
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
    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL database of the jobs, `postgresql://user:password@host/name`; default: a SQLite file "
        "in `data_dir`.",
    )
    worker: bool = Field(default=True, description="Run a worker process for jobs beside the service.")
    worker_threads: int = Field(default_factory=available_cores, ge=1, description="CPU threads of the worker.")
    worker_grace_s: float = Field(
        default=20.0, gt=0, description="Seconds the worker gets to save the job in hand at shutdown."
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
    retry_after_s: int = Field(default=2, ge=1, description="The `Retry-After` of 429 and 503 answers, in seconds.")
    shutdown_grace_s: int = Field(default=5, ge=0, description="Seconds open requests get to finish at shutdown.")

    @property
    def database(self) -> str | None:
        """The database URL in clear."""
        return None if self.database_url is None else self.database_url.get_secret_value()

    def check_host(self) -> None:
        """Raises UserError ``remote_not_allowed`` for a reachable address without `allow_remote`."""
        if self.allow_remote or is_loopback(self.host):
            return
        raise UserError(
            "remote_not_allowed",
            "the service listens on loopback addresses only",
            got=self.host,
            expected="127.0.0.1, ::1 or localhost",
            hint="set UPS_ALLOW_REMOTE=1 if everyone who can reach this address may use the service",
        )


def is_loopback(host: str) -> bool:
    """Is this an address only this machine can reach?"""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
