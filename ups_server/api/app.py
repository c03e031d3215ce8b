"""The application: routes, problem documents, and an engine and a worker that start and end with it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware

from ups_server import __version__
from ups_server.access.usage import Meter
from ups_server.api.access import (
    MeteredEngine,
    Ownership,
    admit,
    check_query,
    keep_accounts,
    keys_required,
    record_owner,
    write_accounts,
)
from ups_server.api.answers import UNCOMPRESSED
from ups_server.api.conventions import middleware
from ups_server.api.memory import Memory
from ups_server.api.metrics import RequestMetrics, ServiceCollector
from ups_server.api.middleware import QUIET, RequestLog, SecurityHeaders, cors_options, route_path
from ups_server.api.openapi import complete, demand_keys
from ups_server.api.problems import ProblemDocument, install
from ups_server.api.routes import (
    catalogue,
    file_data,
    files,
    inference,
    jobs,
    page,
    rollouts,
    status,
    stored_rollouts,
    webhooks,
)
from ups_server.api.routes.inference import InferenceRequest
from ups_server.api.routes.stored_rollouts import kept_plan
from ups_server.api.service import Service
from ups_server.catalog import Catalog
from ups_server.engine.devices import engine_of
from ups_server.engine.engine import Engine
from ups_server.files.declaration import Declaration
from ups_server.files.examination import Examiner
from ups_server.files.fetch import FetchRequest
from ups_server.files.records import ExaminationLimits, UploadRequest
from ups_server.files.storage import FileStorage
from ups_server.files.uploads import UploadExpiry
from ups_server.jobs.local import LocalJobs
from ups_server.jobs.results import Results
from ups_server.jobs.rollouts import RolloutRunner
from ups_server.jobs.spec import EvaluationSpec, FineTuningSpec
from ups_server.jobs.webhooks import WebhookRequest, WebhookSender
from ups_server.objects import SharedFolders, shared_folders
from ups_server.settings import Settings
from ups_server.specs import EquationRequest, RolloutRequest
from ups_server.tracing import flush_traces

logger = logging.getLogger(__name__)

ROUTERS = (
    page.router,
    status.router,
    catalogue.family_routes,
    catalogue.equation_routes,
    files.router,
    file_data.router,
    catalogue.model_routes,
    rollouts.router,
    stored_rollouts.router,
    rollouts.super_resolution,
    jobs.evaluations,
    jobs.fine_tuning,
    inference.router,
    webhooks.router,
)
"""The resources. A new one is a router here."""
SYNCHRONISE_S = 5.0
"""Between two looks at what other machines have put into an object store."""
TELEMETRY: TelemetryConfig = {
    "tracing": True,
    "metrics": False,  # `/metrics` has them
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
    "exclude": lambda scope: route_path(dict(scope)) in QUIET,
}
"""Of FastAPI, which makes a span of each request where the process exports traces (`ups_server.tracing`)."""
DESCRIPTION = "One model for many partial differential equations."


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        engine: the engine of this machine by default; started and closed with the application.
    """
    settings = settings or Settings()
    shared = shared_folders(settings)
    catalog = Catalog(settings.data_dir, shared=shared)
    meter = Meter()
    metered = MeteredEngine(engine or engine_of(settings, catalog), meter)
    parts = (metered, examiner_of(settings, shared), LocalJobs(settings))
    memory = Memory(settings.bodies_memory_bytes, settings.queue_timeout_s)
    answers = Memory(settings.answers_memory_bytes, settings.queue_timeout_s)
    planner = partial(kept_plan, catalog, settings, parts[1].storage, memory)
    rollouts = RolloutRunner(settings, metered, planner)
    service = Service(settings, catalog, *parts, rollouts, Results(settings), memory, answers, meter=meter)
    sender = WebhookSender(settings)
    expiry = UploadExpiry(service.files.expire, settings.upload_expiry_s)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.jobs.start()
        await asyncio.to_thread(service.catalog.synchronise)
        await service.engine.start()
        service.rollouts.start(service.jobs.leases)
        service.results.start(service.jobs.store)
        await asyncio.to_thread(service.examiner.start)
        expiry.start()
        sender.start(service.jobs.opened.patient)
        copies = asyncio.create_task(keep_copies(service))
        accounts = asyncio.create_task(keep_accounts(service))
        try:
            yield
        finally:
            accounts.cancel()
            copies.cancel()
            await sender.close()
            await asyncio.to_thread(expiry.close)
            await asyncio.to_thread(service.examiner.close)
            await service.results.close()
            await service.rollouts.close()
            await service.engine.close()
            await asyncio.to_thread(write_accounts, service)
            await service.jobs.close()
            await asyncio.to_thread(flush_traces)

    app = FastAPI(
        title="UPS",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        telemetry=TELEMETRY,
    )
    app.state.service = service
    app.state.methods = methods
    install(app, settings)
    app.add_middleware(Ownership, record=partial(record_owner, service))
    for kind, options in middleware(UNCOMPRESSED, methods):
        app.add_middleware(kind, **options)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **cors_options(settings))
    app.add_middleware(SecurityHeaders)
    app.state.registry = registry = CollectorRegistry()
    registry.register(ServiceCollector(service))
    app.add_middleware(RequestLog, metrics=RequestMetrics(registry))
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(admit), Depends(check_query)])
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]
    return app


async def keep_copies(service: Service) -> None:
    """Has the files and models of other machines here, where all have an object store, until cancelled."""
    while service.settings.object_store is not None:
        await asyncio.sleep(SYNCHRONISE_S)
        try:
            await asyncio.to_thread(service.catalog.synchronise)
            await asyncio.to_thread(service.files.synchronise)
        except Exception:
            logger.exception("the object store does not answer")


def methods(path: str) -> set[str]:
    """All methods that a path answers, whichever routes they belong to."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    found = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
    return found | {"HEAD"} if "GET" in found else found


def examiner_of(settings: Settings, shared: SharedFolders) -> Examiner:
    """The examiner of users' files, in the service's data folder."""
    storage = FileStorage(settings.data_dir / "files", settings.files_quota_bytes, settings.max_file_bytes, shared)
    limits = ExaminationLimits(memory_bytes=settings.examination_memory_bytes)
    return Examiner(storage, limits, settings.examination_timeout_s, settings.examinations)


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas of bodies that the routes read themselves."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (
            ProblemDocument,
            RolloutRequest,
            InferenceRequest,
            WebhookRequest,
            EquationRequest,
            UploadRequest,
            FetchRequest,
            Declaration,
            EvaluationSpec,
            FineTuningSpec,
        ):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[schema["title"]] = schema
        complete(document)
        app.openapi_schema = document
    demand_keys(app.openapi_schema, keys_required(app.state.service))
    return app.openapi_schema
