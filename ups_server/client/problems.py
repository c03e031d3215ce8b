"""Problem documents as `UserError`, identifiers as parts of addresses."""

from typing import Any
from urllib.parse import quote

import httpx

from ups_server.errors import UserError


def segment(identifier: str) -> str:
    """An id as one part of a path."""
    return quote(identifier, safe="")


def check(response: httpx.Response) -> None:
    """Raises the UserError of a problem document, or httpx.HTTPStatusError for anything else that failed."""
    if not response.is_error:
        return
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        raise user_error(response.json())
    response.raise_for_status()


def user_error(problem: dict[str, Any]) -> UserError:
    return UserError(
        problem["code"],
        problem["detail"],
        got=problem.get("got"),
        expected=problem.get("expected"),
        hint=problem.get("hint"),
    )
