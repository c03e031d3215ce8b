"""Everything that goes wrong, as RFC 9457 problem documents."""

import logging
import math
import sqlite3
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import DBAPIError, OperationalError
from starlette.exceptions import HTTPException

from ups_server.api.access import LimitReached
from ups_server.api.middleware import HEADERS as SECURITY_HEADERS
from ups_server.api.middleware import route_path
from ups_server.errors import UserError
from ups_server.files.uploads import is_full, storage_full
from ups_server.settings import Settings

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

MOST_TEXT = 1000
"""Characters of a text in a problem document."""
MOST_ENTRIES = 50
"""Entries of a list in it."""
MOST_PATH = 200
"""Characters of a path that are repeated."""

RETRY = frozenset({"queue_full", "engine_unavailable", "database_busy"})
"""Errors that go away by themselves: their answers carry Retry-After."""
INFERENCE = "/v2/"
"""Addresses of the Open Inference Protocol, whose clients read the member `error`."""
CHALLENGED = frozenset({"missing_key", "invalid_key"})
"""Errors whose answers say how to show a key (RFC 6750)."""


class ProblemDocument(BaseModel):
    """A problem document (RFC 9457). `code` is stable; `got`, `expected` and `hint` are there where they help."""

    model_config = ConfigDict(title="Problem")
    type: str
    title: str
    status: int
    detail: str
    code: str
    got: Any = None
    expected: Any = None
    hint: str | None = None


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with problem documents."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def problem_document(error: Exception) -> dict[str, Any]:
    """Any exception as a problem document; what is not a UserError says nothing about our insides."""
    if isinstance(error, UserError):
        return {key: _short(_finite(value)) for key, value in error.problem().items()}
    return _plain_problem(500, "internal_error", "the service failed; its log says why")


def outer_fault(error: Exception) -> Exception:
    """What the disk or the database refused, as a problem that its reader understands; any other exception as it is."""
    reason = error.orig if isinstance(error, DBAPIError) else error
    if is_full(error) or getattr(reason, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return storage_full()
    if isinstance(error, OperationalError):
        return UserError(
            "database_busy", "the database does not answer", got=str(error.orig), hint="ask again in some seconds"
        )
    return error


def install(app: FastAPI, settings: Settings) -> None:
    """Makes every error answer of the app a problem document."""

    async def user_error(request: Request, error: Exception) -> JSONResponse:
        document = problem_document(error)
        if route_path(request.scope).startswith(INFERENCE):
            document["error"] = str(error)
        headers = {"Retry-After": str(settings.retry_after_s)} if document["code"] in RETRY else {}
        if isinstance(error, LimitReached):
            headers["Retry-After"] = str(error.retry_after)
        if document["code"] in CHALLENGED:
            headers["WWW-Authenticate"] = 'Bearer realm="ups"'
        if document["code"] == "unsupported_encoding":
            headers["Accept-Encoding"] = "gzip, deflate"
        return JSONResponse(document, document["status"], headers, MEDIA_TYPE)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(sorted(app.state.methods(route_path(request.scope))))
        phrase = HTTPStatus(error.status_code).phrase
        code = phrase.lower().replace(" ", "_")
        path = request.url.path
        detail = f"{phrase}: {request.method} {path[:MOST_PATH]}{'…' if len(path) > MOST_PATH else ''}"
        return JSONResponse(_plain_problem(error.status_code, code, detail), error.status_code, headers, MEDIA_TYPE)

    async def validation_error(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, RequestValidationError):
            raise error
        places = {".".join(map(str, entry["loc"])): entry["msg"] for entry in error.errors()}
        return await user_error(
            request, UserError("invalid_request", "the request does not follow the specification", expected=places)
        )

    async def refusal(request: Request, error: Exception) -> JSONResponse:
        known = outer_fault(error)
        if known is error:
            raise error
        logger.warning("%s %s: %s", request.method, request.url.path, error)
        return await user_error(request, known)

    async def failure(request: Request, error: Exception) -> JSONResponse:
        # This answer is made outside of every middleware.
        return JSONResponse(problem_document(error), 500, SECURITY_HEADERS, MEDIA_TYPE)

    app.add_exception_handler(UserError, user_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(OperationalError, refusal)
    app.add_exception_handler(OSError, refusal)
    app.add_exception_handler(Exception, failure)


def _plain_problem(status: int, code: str, detail: str) -> dict[str, Any]:
    return {
        "type": f"urn:ups:error:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": detail,
        "code": code,
    }


def _short(value: Any) -> Any:
    """What a problem document repeats, long texts and lists cut; it says how much is left out."""
    if isinstance(value, str) and len(value) > MOST_TEXT:
        return f"{value[:MOST_TEXT]}… ({len(value) - MOST_TEXT} more characters)"
    if isinstance(value, dict):
        kept = {key: _short(entry) for key, entry in list(value.items())[:MOST_ENTRIES]}
        return kept if len(kept) == len(value) else {**kept, "…": f"{len(value) - len(kept)} more are left out"}
    if isinstance(value, list | tuple):
        first = [_short(entry) for entry in value[:MOST_ENTRIES]]
        return first if len(first) == len(value) else [*first, f"… {len(value) - len(first)} more are left out"]
    return value


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value
