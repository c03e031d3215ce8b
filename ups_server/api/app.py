"""The application: routes, problem documents, and an engine and a worker that start and end with it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ups_server import __version__
from ups_server.api.problems import Problem, install
from ups_server.api.routes import ROUTERS
from ups_server.api.security import SecurityHeaders
from ups_server.api.service import Service
from ups_server.catalog import Catalog
from ups_server.files.declaration import Declaration
from ups_server.files.examiner import Examiner
from ups_server.files.expiry import UploadExpiry
from ups_server.files.limits import Limits
from ups_server.files.records import UploadRequest
from ups_server.files.storage import FileStorage
from ups_server.jobs.local import LocalJobs
from ups_server.jobs.spec import EvaluationSpec, FineTuningSpec
from ups_server.settings import Settings
from ups_server.solve.engine import Engine
from ups_server.solve.engine_local import LocalEngine
from ups_server.specs import RolloutRequest

logger = logging.getLogger(__name__)

DESCRIPTION = "One model for many partial differential equations."


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        engine: the engine of this machine by default; started and closed with the application.
    """
    settings = settings or Settings()
    catalog = Catalog(settings.data_dir)
    parts = (engine or LocalEngine(settings, catalog), examiner_of(settings), LocalJobs(settings))
    service = Service(settings, catalog, *parts)
    expiry = UploadExpiry(service.files, settings.upload_expiry_s)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.jobs.start()
        await service.engine.start()
        await asyncio.to_thread(service.examiner.start)
        expiry.start()
        try:
            yield
        finally:
            await asyncio.to_thread(expiry.close)
            await asyncio.to_thread(service.examiner.close)
            await service.engine.close()
            await service.jobs.close()

    app = FastAPI(
        title="UPS",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    install(app, settings)
    app.add_middleware(SecurityHeaders)
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]
    return app


def examiner_of(settings: Settings) -> Examiner:
    """The examiner of users' files, in the service's data folder."""
    storage = FileStorage(settings.data_dir / "files", settings.files_quota_bytes, settings.max_file_bytes)
    limits = Limits(memory_bytes=settings.examination_memory_bytes)
    return Examiner(storage, limits, settings.examination_timeout_s, settings.examinations)


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas of bodies that the routes read themselves."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (Problem, RolloutRequest, UploadRequest, Declaration, EvaluationSpec, FineTuningSpec):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        app.openapi_schema = document
    return app.openapi_schema
