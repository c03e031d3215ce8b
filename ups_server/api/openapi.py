"""What the OpenAPI document says of every route alike: the right it needs, refusals at the door, examples.

Examples of answers are found by the name of their schema, of problems by status; what has no example of its own here
gets the plainest value that its schema allows.
"""

from http import HTTPStatus
from typing import Any

from ups_server.api.access import SCHEME, scope_of
from ups_server.api.problems import MEDIA_TYPE
from ups_server.errors import UserError

METHODS = ("get", "head", "put", "post", "patch", "delete")
AT_THE_DOOR = (401, 403, 421, 429)
"""No key or a wrong one; a key without the right; a service without keys, asked by another name; too often."""
OF_BODIES = (408, 415)
"""No byte comes any more; compressed in a way that is not read."""
PARAMETERS = {
    "family_id": "A family id; `/v1/families` lists them.",
    "file_id": "The id of an uploaded file; `/v1/files` lists them.",
    "job_id": "The id of a job, as its creation answered.",
    "model_id": "A model id; `/v1/models` lists them.",
    "webhook_id": "The id of a webhook; `/v1/webhooks` lists them.",
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
            for status in OF_BODIES:
                operation["responses"].setdefault(str(status), refusal(status))
        operation["responses"].setdefault("422", refusal(422))  # a parameter that is not known
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


def add_examples(document: dict[str, Any]) -> None:
    """Gives every JSON answer of the document an example."""
    schemas = document["components"]["schemas"]
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                for media_type, content in answer.get("content", {}).items():
                    if media_type.endswith("json") and "example" not in content:
                        content["example"] = _example(int(status), content["schema"], schemas)


def _example(status: int, schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    name = schema.get("$ref", "").rpartition("/")[2]
    if name == "Problem" and status in PROBLEMS:
        return PROBLEMS[status].problem()
    return ANSWERS[name] if name in ANSWERS else plainest(schema, schemas)


def plainest(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """The value a schema itself names, or else the least of its type."""
    if "$ref" in schema:
        return plainest(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for word in ("default", "const"):
        if word in schema:
            return schema[word]
    for word in ("examples", "enum"):
        if schema.get(word):
            return schema[word][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return plainest(schema[word][0], schemas)
    match schema.get("type"):
        case "object":
            return {name: plainest(entry, schemas) for name, entry in schema.get("properties", {}).items()}
        case "array":
            entries = schema.get("prefixItems") or [schema.get("items", {})] * max(1, schema.get("minItems", 1))
            return [plainest(entry, schemas) for entry in entries]
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
        case "string":
            return "string"
        case "boolean":
            return False
    return None


JOB = {
    "id": "ft-0123456789abcdef",
    "kind": "fine_tuning",
    "state": "running",
    "model": "ups-mini",
    "spec": {"kind": "fine_tuning", "training_file": "file-0123456789abcdef01234567", "n_trajectories": 10},
    "priority": 0,
    "attempt": 1,
    "cancel_requested": False,
    "created_at": 1767225600.0,
    "started_at": 1767225601.5,
    "finished_at": None,
    "result": None,
    "error": None,
}
FILE = {
    "id": "file-0123456789abcdef01234567",
    "name": "burgers.hdf5",
    "state": "validating",
    "size": 1048576,
    "offset": 1048576,
    "sha256": None,
    "created_at": "2026-01-01T00:00:00.000+00:00",
    "finished_at": None,
    "declaration": {"family": "burgers"},
    "report": None,
    "problem": None,
    "usage": None,
}
MODEL = {
    "id": "persistence",
    "kind": "builtin",
    "name": "persistence",
    "version": "1",
    "description": "Repeats the initial condition: the baseline every model has to beat.",
    "resolution": None,
    "base": None,
    "adapters_of": None,
    "families": {"burgers": {"dt": 0.05, "coefficients": {"nu": {"low": 0.0, "high": None}}, "statistics": None}},
    "adaptation": None,
    "scores": None,
    "readme": None,
}
FAMILY = {
    "id": "burgers",
    "name": "1D Burgers Equation",
    "equation": "u_t + u u_x = nu / pi u_xx",
    "dimensions": 1,
    "fields": [{"name": "u", "unit": "1", "description": "velocity", "positive": False}],
    "static_fields": [],
    "coefficients": [
        {
            "name": "nu",
            "symbol": "Nu",
            "description": "viscosity",
            "unit": "1",
            "default": 0.001,
            "low": 0.0,
            "low_included": False,
            "high": None,
        }
    ],
    "boundary": [["periodic", "periodic"]],
    "boundaries": [[["periodic", "periodic"]]],
    "initial_kinds": [
        {"name": "rand", "description": "sums of sines", "boundaries": [[["periodic", "periodic"]]]},
    ],
    "extent": [[0.0, 1.0]],
    "n": 1024,
    "dt": 0.05,
    "t_final": 2.0,
    "time_unit": "1",
    "length_unit": "1",
    "conserved": ["u"],
    "declared": False,
}
ENGINE = {
    "status": "ready",
    "reason": None,
    "device": "cpu",
    "models": ["persistence"],
    "restarts": 0,
    "active": 1,
    "queued": 0,
}
LIMITS = {"requests_per_minute": 600, "stored_bytes": None, "compute_seconds": 3600.0}
ANSWERS: dict[str, Any] = {
    "FamilyCard": FAMILY,
    "FamilyList": {"families": [FAMILY]},
    "CurrentKey": {
        "required": True,
        "key": {
            **LIMITS,
            "id": "0123456789ab",
            "name": "notebook",
            "scopes": ["run"],
            "created_at": 1767225600.0,
            "expires_at": 1769817600.0,
            "revoked_at": None,
        },
        "scopes": ["read", "run"],
        "limits": LIMITS,
        "stored_bytes": 1048576,
        "compute_seconds": 12.5,
    },
    "CheckpointList": {
        "checkpoints": [
            {"step": 100, "at": 1767225660.0, "one_step": 0.021, "rollout": 0.09, "best": True},
            {"step": 150, "at": 1767225690.0, "one_step": None, "rollout": None, "best": False},
        ]
    },
    "Job": JOB,
    "JobList": {"jobs": [JOB]},
    "JobEvents": {
        "events": [{"seq": 1, "type": "state", "at": 1767225600.0, "data": {"state": "queued"}}],
        "complete": False,
    },
    "FileRecord": FILE,
    "FileList": {"files": [FILE], "bytes_used": 1048576, "bytes_allowed": 53687091200},
    "ModelCard": MODEL,
    "ModelList": {
        "default": "ups-mini",
        "defaults": {"compressible_ns_2d": "ups-plane"},
        "models": [MODEL],
        "unreadable": [],
    },
    "Readiness": {**ENGINE, "devices": [ENGINE]},
    "RolloutAnswer": {
        "model": "ups-mini",
        "model_version": "2",
        "family": "burgers",
        "equation": "u_t + (u^2 / 2)_x = (nu / pi) u_xx",
        "fields": ["u"],
        "units": ["1"],
        "coefficients": {"nu": 0.001},
        "boundary": [["periodic", "periodic"]],
        "grid": {"n": [8], "extent": [[0.0, 1.0]], "offset": [0.5], "closed": [False]},
        "dt": 0.05,
        "n_steps": 1,
        "save_every": 1,
        "times": [0.0, 0.05],
        "time_unit": "1",
        "length_unit": "1",
        "batched": False,
        "flags": [],
        "data": [[[0.1]] * 8, [[0.1]] * 8],
    },
}

PROBLEMS = {
    400: UserError("invalid_json", "the request is not valid JSON", got="EOF while parsing an object"),
    401: UserError("missing_key", "this service asks for an API key", expected="Authorization: Bearer ups_..."),
    403: UserError("insufficient_scope", "the key 0123456789ab may not do this", got=["read"], expected="run"),
    404: UserError("unknown_model", "there is no model 'ups-maxi'", got="ups-maxi", expected=["ups-mini"]),
    406: UserError("not_acceptable", "none of the accepted formats is offered", got="image/png"),
    408: UserError("body_stalled", "no byte of the body came for 30 s", got=65536),
    409: UserError("wrong_state", "file-0123456789abcdef01234567 is ready", got="ready", expected=["uploading"]),
    413: UserError("body_too_large", "the request body is too large", expected="at most 67108864 bytes"),
    415: UserError("unsupported_media_type", "the body has a media type that is not read", got="text/xml"),
    416: UserError("range_not_satisfiable", "the range lies beyond the end", got="bytes=900-", expected="512 bytes"),
    421: UserError("foreign_host", "a service without keys answers on this machine only", got="example.org"),
    422: UserError(
        "coefficient_out_of_domain", "nu is outside the domain of the equation", got=-1.0, expected="nu >= 0"
    ),
    429: UserError("queue_full", "every place is taken and the queue is full", hint="ask again later"),
    503: UserError("engine_unavailable", "the engine stopped in the middle of this rollout", hint="ask again"),
    507: UserError("quota_exceeded", "the files of this service would exceed their quota", got=2097152),
}
"""One problem a status; `code` tells those of one status apart."""
