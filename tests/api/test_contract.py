"""The OpenAPI document is kept, in a small number of cases; `python -m tests.api.contract` makes more."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import validator_for

from tests.api.contract import DRAWN, runs
from ups_server.api.app import create_app
from ups_server.settings import Settings


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_route_keeps_to_the_document(tmp_path: Path) -> None:
    for kind, ran in runs(tmp_path, examples=2, seed=0, open_phases=DRAWN).items():
        assert ran.code == 0, f"{kind}:\n{ran.output[-20_000:]}"
        assert ran.cases > 100


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
            if "429" in operation["responses"]:
                assert "Retry-After" in operation["responses"]["429"]["headers"], place
            for parameter in operation.get("parameters", ()):
                assert parameter.get("description"), f"{place}: {parameter['name']} is not described"
            assert operation.get("summary")
            assert operation.get("description")


def test_examples_follow_their_schemas() -> None:
    document: dict[str, Any] = create_app(Settings()).openapi()
    checked = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            for content in (content for body in bodies for content in body.get("content", {}).values()):
                if "example" in content and content["schema"].get("type") != "string":
                    schema = {**content["schema"], "components": document["components"]}
                    problems = [str(error) for error in validator_for(schema).iter_errors(content["example"])]
                    assert not problems, f"{method} {path}"
                    checked += 1
    assert checked > 100
