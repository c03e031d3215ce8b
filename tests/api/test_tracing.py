"""Traces of a real service: its processes export to a collector on loopback, and their spans are one tree."""

import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import DEADLINE_S, wait_until
from tests.serving import started
from ups_server.data.simulate import build_store
from ups_server.errors import UserError
from ups_server.pde import family
from ups_server.tracing import OpenSpans, carrier, configure_traces, traces_wanted

collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="no [tracing]")

PARENT_ID = "00f067aa0ba902b7"
ROLLOUT: dict[str, Any] = {
    "model": "persistence",
    "family": "burgers",
    "grid": {"n": [16]},
    "initial_condition": {"sample": {"seed": 1}},
    "n_steps": 2,
}


@dataclass(frozen=True)
class Found:
    """A span as the collector got it."""

    name: str
    span_id: str
    parent_id: str
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """An OTLP receiver, as far as a test needs one. `spans`: by trace."""

    url: str
    spans: dict[str, list[Found]] = field(default_factory=lambda: defaultdict(list))

    def take(self, body: bytes) -> None:
        for resource in collector.ExportTraceServiceRequest.FromString(body).resource_spans:
            common = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
            for one in (span for scope in resource.scope_spans for span in scope.spans):
                own = {entry.key: entry.value.string_value or entry.value.int_value for entry in one.attributes}
                found = Found(
                    one.name, one.span_id.hex(), one.parent_span_id.hex(), one.status.code == 2, {**common, **own}
                )
                self.spans[one.trace_id.hex()].append(found)

    def named(self, trace: str, *names: str) -> list[Found]:
        """The spans of a trace with these names, once all of them have come."""
        wait_until(lambda: set(names) <= {one.name for one in list(self.spans[trace])}, f"spans {names} have come")
        return [next(one for one in self.spans[trace] if one.name == name) for name in names]


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def traceparent(trace: str) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{PARENT_ID}-01"}


def test_a_trace_goes_from_the_request_through_the_engine_to_the_worker(tmp_path: Path) -> None:
    data = tmp_path / "data"
    build_store(family("burgers"), {"nu": 0.1}, 3, 32, 0, data / "files" / "burgers" / "store", frame_dt=0.05)
    rollout, kept, evaluation, refused = (digit * 32 for digit in "abcd")
    settings = {"DEFAULT_MODEL": "persistence", "DEVICE": "cpu", "THREADS": "1", "WORKER_THREADS": "1"}
    with collecting() as found:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": found.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with started(data, settings, environment) as served:

            def post(path: str, document: dict[str, Any], trace: str, **headers: str) -> int:
                headers = {**traceparent(trace), **headers}
                answer = httpx.post(served.url + path, json=document, headers=headers, timeout=DEADLINE_S)
                return answer.status_code

            assert post("/v1/rollouts", ROLLOUT, rollout) == 200
            assert post("/v1/rollouts", ROLLOUT, kept, Prefer="respond-async") == 202
            assert post("/v1/evaluations", {"model": "persistence", "file": "burgers"}, evaluation) == 201
            assert post("/v1/rollouts", {**ROLLOUT, "family": "navier"}, refused) == 404

            asked, computed = found.named(rollout, "POST /v1/rollouts", "rollout")
            assert (asked.parent_id, computed.parent_id) == (PARENT_ID, asked.span_id)
            assert (asked.attributes["ups.process"], computed.attributes["ups.process"]) == ("api", "engine")
            assert asked.attributes["service.name"] == computed.attributes["service.name"] == "ups-server"
            assert computed.attributes["ups.family"] == "burgers"
            assert computed.attributes["ups.n_steps"] == 2
            assert not computed.failed

            asked, attempt, computed = found.named(kept, "POST /v1/rollouts", "job rollout", "rollout")
            assert (attempt.parent_id, computed.parent_id) == (asked.span_id, attempt.span_id)
            asked, attempt = found.named(evaluation, "POST /v1/evaluations", "job evaluation")
            assert attempt.parent_id == asked.span_id
            assert attempt.attributes["ups.process"] == "worker"
            assert attempt.attributes["ups.attempt"] == 1
            (asked,) = found.named(refused, "POST /v1/rollouts")
            assert asked.attributes["http.response.status_code"] == 404
            paths = [one.attributes.get("url.path") for spans in found.spans.values() for one in spans]
        assert "/readyz" not in paths, "asked every few seconds"


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_environment_says_whether(
    environment: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert traces_wanted() is wanted


def test_nothing_is_traced_or_imported_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import sys
from ups_server.tracing import OpenSpans, carrier, configure_traces, flush_traces, span
spans = OpenSpans()
spans.begin(1, "rollout", {"traceparent": "00-" + 32 * "a" + "-" + 16 * "b" + "-01"}, {})
with span("job", {}, {}):
    print(configure_traces("api"), carrier(), [name for name in sys.modules if name.startswith("opentelemetry")])
spans.end(1)
flush_traces()
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "False {} []"


def test_without_the_extra_it_is_said_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UserError) as refused:
        configure_traces("api")
    assert refused.value.code == "extra_missing"
    assert "ups-server[tracing]" in str(refused.value.hint)


def test_spans_in_memory_say_how_work_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    spans = OpenSpans()
    with provider.get_tracer("test").start_as_current_span("request"):
        parent = carrier()
    for key in (1, 2):
        spans.begin(key, f"rollout {key}", parent, {"ups.n_steps": key})
    spans.end(2, "engine_unavailable")
    spans.end(1)
    spans.end(1)
    spans.end(3)
    request, failed, done = exporter.get_finished_spans()
    assert request.context is not None
    for one in (failed, done):
        assert one.parent is not None
        assert one.parent.span_id == request.context.span_id
    assert (failed.name, failed.status.is_ok, failed.attributes["error.type"]) == (  # type: ignore[index]
        "rollout 2",
        False,
        "engine_unavailable",
    )
    assert (done.name, done.status.is_ok) == ("rollout 1", True)
