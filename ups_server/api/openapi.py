"""What the OpenAPI document says of every route alike: the right it needs, refusals at the door, examples."""

from http import HTTPStatus
from typing import Any

from ups_server.api.access import SCHEME, scope_of
from ups_server.api.examples import add_examples
from ups_server.api.problems import MEDIA_TYPE

METHODS = ("get", "head", "put", "post", "patch", "delete")
AT_THE_DOOR = (401, 403, 421, 429)
"""No key or a wrong one; a key without the right; a service without keys, asked by another name; too often."""
PARAMETERS = {
    "family_id": "A family id; `/v1/families` lists them.",
    "file_id": "The id of an uploaded file; `/v1/files` lists them.",
    "job_id": "The id of a job, as its creation answered.",
    "model_id": "A model id; `/v1/models` lists them.",
    "limit": "Most entries of the answer.",
}
"""Descriptions of parameters that mean the same everywhere."""
RETRY_AFTER = {"description": "Seconds after which asking again is worth it.", "schema": {"type": "integer"}}
HEADERS = {
    "401": {"WWW-Authenticate": {"description": "How to show a key.", "schema": {"type": "string"}}},
    "429": {"Retry-After": RETRY_AFTER},
    "503": {"Retry-After": RETRY_AFTER},
}
"""Headers of answers by status."""
FOREIGN = ("HTTPValidationError", "ValidationError")
"""FastAPI's own form of 422, which this service never answers: that is a problem document as well."""


def complete(document: dict[str, Any]) -> None:
    """Adds what the routes do not say themselves."""
    for operation in _operations(document):
        if "requestBody" in operation:
            operation["responses"].setdefault("408", refusal(408))
        if "HTTPValidationError" in str(operation["responses"].get("422", "")):
            operation["responses"]["422"] = refusal(422)
        for parameter in operation.get("parameters", ()):
            if parameter["name"] in PARAMETERS:
                parameter.setdefault("description", PARAMETERS[parameter["name"]])
    for name in FOREIGN:
        document["components"]["schemas"].pop(name, None)
    describe_doors(document)
    for operation in _operations(document):
        for status in HEADERS.keys() & operation["responses"].keys():
            operation["responses"][status].setdefault("headers", {}).update(HEADERS[status])
    add_examples(document)


def describe_doors(document: dict[str, Any]) -> None:
    """Adds the security scheme, and to each guarded operation the refusals at the door."""
    scheme = {"type": "http", "scheme": "bearer", "description": "A key made by `ups keys create`."}
    document["components"].setdefault("securitySchemes", {})[SCHEME] = scheme
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if _scope(path, method, operation) is not None:
                for status in AT_THE_DOOR:
                    operation["responses"].setdefault(str(status), refusal(status))


def demand_keys(document: dict[str, Any], required: bool) -> None:
    """Says of each operation which right it needs; where no key is required, none need be shown."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = _scope(path, method, operation)
            if scope is not None:
                shown: dict[str, list[str]] = {SCHEME: [scope]}
                operation["security"] = [shown] if required else [{}, shown]


def refusal(status: int) -> dict[str, Any]:
    """A problem document with its status."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": HTTPStatus(status).phrase, "content": content}


def _scope(path: str, method: str, operation: dict[str, Any]) -> str | None:
    scope = scope_of(path, method.upper(), operation.get("tags", [])) if method in METHODS else None
    return None if scope is None else scope.value


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for operations in document["paths"].values() for operation in operations.values()]
