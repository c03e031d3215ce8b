"""Traces by OpenTelemetry: from a request through the engine's process to the worker of a job.

Off unless the environment says where they go, by OpenTelemetry's own variables: `OTEL_EXPORTER_OTLP_ENDPOINT`, or the
same with `TRACES_` in it; `OTEL_TRACES_EXPORTER=none` and `OTEL_SDK_DISABLED=true` switch them off again. Nothing of
OpenTelemetry is imported then. FastAPI makes the span of a request itself; here are those of what a request sets going
in other processes, which get to know their parent as a carrier (W3C Trace Context) with what they are to do.

The variables: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import os
import sys
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ups_server.errors import UserError

NAME = "ups-server"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
DELAY = "OTEL_BSP_SCHEDULE_DELAY"
DELAY_MS = 1000.0
"""Between two exports, where `DELAY` does not say: what a process that is killed has not exported is lost."""
FLUSH_MS = 3000
PARENT = "traceparent"

Carrier = Mapping[str, str]
"""A span of another process, as HTTP headers name it; empty: there is none."""


def traces_wanted() -> bool:
    """Does the environment say where traces go?"""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(os.environ.get(name) for name in ENDPOINTS)


def configure_traces(process: str) -> bool:
    """Has the spans of this process exported, where that is wanted.

    Args:
        process: `api`, `engine` or `worker`; the attribute `ups.process` of every span.

    Raises:
        UserError: ``extra_missing``.
    """
    if not traces_wanted():
        return False
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise UserError(
            "extra_missing", "traces need OpenTelemetry", got=str(error), hint="pip install 'ups-server[tracing]'"
        ) from None
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return True  # somebody else has configured it, or this process works for the second time
    known = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    about = {"ups.process": process} if known else {"ups.process": process, "service.name": NAME}
    provider = TracerProvider(resource=Resource.create(about))
    delay = None if DELAY in os.environ else DELAY_MS
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=delay))
    trace.set_tracer_provider(provider)
    return True


def flush_traces() -> None:
    """Exports what has ended, for some seconds at most: a process that a signal ends does not do so by itself."""
    if "opentelemetry.sdk.trace" in sys.modules:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        provider = trace.get_tracer_provider()
        if isinstance(provider, TracerProvider):
            provider.force_flush(FLUSH_MS)


def carrier() -> dict[str, str]:
    """The span in hand, for another process."""
    found: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import propagate

        propagate.inject(found)
    return found


def _begun(name: str, parent: Carrier, attributes: Mapping[str, Any]) -> Any:
    from opentelemetry import propagate, trace

    return trace.get_tracer(NAME).start_span(name, propagate.extract(parent), attributes=dict(attributes))


@contextmanager
def span(name: str, parent: Carrier, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Around work that another process has asked for: a span of its own, in hand meanwhile. Nothing where there is no
    parent or this process exports nothing."""
    if not parent or "opentelemetry.sdk.trace" not in sys.modules:
        yield
        return
    from opentelemetry import trace

    with trace.use_span(_begun(name, parent, attributes), end_on_exit=True):
        yield


class OpenSpans:
    """Spans of work that begins and ends between other work, by a key of each."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Any] = {}

    def begin(self, key: Hashable, name: str, parent: Carrier, attributes: Mapping[str, Any]) -> None:
        """Nothing where there is no parent or this process exports nothing."""
        if parent and "opentelemetry.sdk.trace" in sys.modules:
            self._open[key] = _begun(name, parent, attributes)

    def end(self, key: Hashable, problem: str | None = None) -> None:
        """Args: problem: the code of what went wrong."""
        ended = self._open.pop(key, None)
        if ended is None:
            return
        if problem is not None:
            from opentelemetry.trace import StatusCode

            ended.set_attribute("error.type", problem)
            ended.set_status(StatusCode.ERROR)
        ended.end()
