"""What Prometheus reads: requests as they are counted, and the state of engine, jobs and files when it asks."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ups_server.api.service import Service
from ups_server.engine.engine import Health
from ups_server.jobs.spec import JobState

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMetrics:
    """Requests by method, route and status; the label of a route is its template, never an id of a user."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "route")
        self._count = Counter("ups_http_requests", "Requests answered.", (*labels, "status"), registry=registry)
        self._seconds = Histogram(
            "ups_http_request_seconds",
            "Seconds from the first byte of a request to the last of its answer, streams included.",
            labels,
            buckets=SECONDS,
            registry=registry,
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        method = method if method in METHODS else "other"
        self._count.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


class ServiceCollector(Collector):
    """Looks at the service each time it is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        return ()  # asked at registration, when nothing runs yet

    def collect(self) -> Iterator[Metric]:
        yield from self._engine()
        yield from self._jobs()
        yield from self._memory()
        yield _gauge(
            "ups_files_bytes", "Bytes of all uploaded files.", self._service.files.quota - self._service.files.room()
        )
        yield _gauge("ups_files_quota_bytes", "Bytes that uploaded files may take.", self._service.files.quota)

    def _engine(self) -> Iterator[Metric]:
        health = self._service.engine.health()
        yield _gauge("ups_engine_ready", "1 where the default model is loaded.", health.state == "ready")
        yield _gauge("ups_engine_active_rollouts", "Rollouts being stepped.", health.active)
        yield _gauge("ups_engine_queued_rollouts", "Rollouts waiting for a place.", health.queued)
        yield _gauge("ups_engine_loaded_models", "Models in memory.", len(health.models))
        restarts = CounterMetricFamily("ups_engine_restarts", "Starts after the death of an engine process.")
        restarts.add_metric((), health.restarts)
        yield restarts
        steps = CounterMetricFamily("ups_engine_steps", "Steps of batches.", labels=("process",))
        rows = CounterMetricFamily(
            "ups_engine_rows", "States advanced by them; over the steps: the occupancy of a batch.", labels=("process",)
        )
        seconds = CounterMetricFamily(
            "ups_engine_step_seconds", "Seconds they took; over the steps: the time of one.", labels=("process",)
        )
        for name, process in health.detail.items():
            steps.add_metric((name,), process["steps"])
            rows.add_metric((name,), process["rows"])
            seconds.add_metric((name,), process["seconds"])
        yield from (steps, rows, seconds)
        yield from _devices(health)

    def _jobs(self) -> Iterator[Metric]:
        found = self._service.jobs.store.counts()
        jobs = GaugeMetricFamily("ups_jobs", "Jobs in the table.", labels=("kind", "state"))
        for kind in sorted({kind for kind, _ in found}):
            for state in JobState:
                jobs.add_metric((kind, state.value), found.get((kind, state.value), 0))
        yield jobs

    def _memory(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "ups_process_resident_bytes", "Resident memory of the service's processes.", labels=("process",)
        )
        worker = self._service.jobs.worker
        processes: dict[str, int | None] = {"api": os.getpid(), "worker": worker.process_id if worker else None}
        for name, process in self._service.engine.health().detail.items():
            processes[f"engine-{name}"] = process["process_id"]
        for name, process_id in processes.items():
            resident = resident_bytes(process_id)
            if resident is not None:
                memory.add_metric((name,), resident)
        yield memory


def _devices(health: Health) -> Iterator[Metric]:
    """The same of each engine, by its device; what is left to compute where there are several."""
    label = ("device",)
    ready = GaugeMetricFamily("ups_device_ready", "1 where its engine has the default model.", labels=label)
    active = GaugeMetricFamily("ups_device_active_rollouts", "Rollouts being stepped there.", labels=label)
    queued = GaugeMetricFamily("ups_device_queued_rollouts", "Rollouts waiting for a place there.", labels=label)
    left = GaugeMetricFamily("ups_device_seconds_left", "Estimated seconds of what it has to compute.", labels=label)
    restarts = CounterMetricFamily("ups_device_restarts", "Starts after the death of a process.", labels=label)
    for one in health.devices or (health,):
        name = (one.device or "none",)
        ready.add_metric(name, one.state == "ready")
        active.add_metric(name, one.active)
        queued.add_metric(name, one.queued)
        restarts.add_metric(name, one.restarts)
        if one.seconds_left is not None:
            left.add_metric(name, one.seconds_left)
    yield from (ready, active, queued, restarts, left)


def resident_bytes(process_id: int | None) -> int | None:
    """Resident memory of a process; None where there is none, or the system does not say."""
    if process_id is None:
        return None
    try:
        return int(Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except OSError:
        return None


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
