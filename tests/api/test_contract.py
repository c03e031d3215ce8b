"""The OpenAPI document is kept, in a small number of cases; `python -m tests.api.contract` makes more."""

import json
from typing import Any

from ups_server.api.app import create_app
from ups_server.settings import Settings


def test_every_route_and_every_error_has_an_example() -> None:
    document: dict[str, Any] = create_app(Settings()).openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            place = f"{method} {path}"
            body = operation.get("requestBody", {}).get("content", {})
            for media_type, content in body.items():
                if media_type == "application/json":
                    assert content.get("example"), f"{place}: the body has no example"
            for status, answer in operation["responses"].items():
                for media_type, content in answer.get("content", {}).items():
                    if media_type.endswith("json"):
                        assert content.get("example"), f"{place}: {status} {media_type} has no example"
                        json.dumps(content["example"], allow_nan=False)
            for parameter in operation.get("parameters", ()):
                assert parameter.get("description"), f"{place}: {parameter['name']} is not described"
            assert operation.get("summary")
            assert operation.get("description")
