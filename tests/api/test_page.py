"""The page and its files over HTTP: cached by content, from the package only, under a strict policy."""

import re

import httpx
import pytest

from tests.api.conftest import RunningService
from ups_server.api.middleware import HEADERS
from ups_server.api.routes.page import FOLDER, page_files

MOST_LINES = 400


@pytest.mark.parametrize("path", ["/", "/web/main.js", "/v1/models", "/v1/families/absent", "/absent", "/healthz"])
def test_security_headers_are_on_every_answer(service: RunningService, path: str) -> None:
    answer = service.get(path)
    for name, value in HEADERS.items():
        assert answer.headers.get_list(name) == [value]
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_streams_have_them_too(service: RunningService) -> None:
    request = {"family": "burgers", "grid": {"n": [16]}, "n_steps": 1, "initial_condition": {"sample": {}}}
    answer = service.post(request, Accept="text/event-stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_file_is_served_and_revalidated(service: RunningService) -> None:
    assert set(page_files()) == {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.*")}
    for name, file in page_files().items():
        answer = service.get(f"/web/{name}")
        assert (answer.status_code, answer.content) == (200, file.content)
        assert answer.headers["cache-control"] == "no-cache"
        again = httpx.get(f"{service.url}/web/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = httpx.get(f"{service.url}/web/{name}", headers={"If-None-Match": '"other"'})
        assert other.status_code == 200


def test_the_page_is_html_and_head_has_no_body(service: RunningService) -> None:
    assert service.get("/").headers["content-type"] == "text/html; charset=utf-8"
    head = httpx.head(service.url)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", ["/web/", "/web/absent.js", "/web/..%2fapi%2fapp.py", "/web/%2e%2e/settings.py"])
def test_nothing_else_is_served(service: RunningService, path: str) -> None:
    answer = service.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_the_page_is_no_part_of_the_interface(service: RunningService) -> None:
    paths = service.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith("/web")]


def test_nothing_comes_from_elsewhere() -> None:
    """Every import and link stays inside the folder, and nothing is written that the policy forbids."""
    for name, file in page_files().items():
        text = file.content.decode()
        assert len(text.splitlines()) <= MOST_LINES, name
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|document\.write", text), name
        for wanted in re.findall(r'from "([^"]+)"', text):
            path = (FOLDER / name).parent / wanted
            assert path.resolve().relative_to(FOLDER).as_posix() in page_files(), f"{name} imports {wanted}"
    index = page_files()["index.html"].content.decode()
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", index)
    for link in re.findall(r'(?:href|src)="web/([^"]+)"', index):
        assert link in page_files()
