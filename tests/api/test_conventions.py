"""HTTP as its clients expect it, asked with raw sockets and with httpx."""

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.api.conftest import RunningService
from tests.api.test_problems import REQUEST, check
from ups_server.api.conventions import takes_gzip

PLAIN = {"Accept-Encoding": "identity"}


def raw(service: RunningService, request: bytes, half_close: bool = False) -> bytes:
    """All that comes back on a connection of its own."""
    url = httpx.URL(service.url)
    with closing(socket.create_connection((url.host, url.port or 80), timeout=60)) as connection:
        connection.sendall(request)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(2**16):
            received += piece
    return received


def head_and_body(answer: bytes) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers by lower-case name, body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    named = (line.partition(":") for line in lines)
    return status, {name.lower(): value.strip() for name, _, value in named}, body


def asked(service: RunningService, method: str, path: str, *headers: str) -> tuple[str, dict[str, str], bytes]:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    return head_and_body(raw(service, "\r\n".join(lines).encode()))


@pytest.fixture(scope="module")
def stored(service: RunningService) -> str:
    """The address of a rollout that has ended."""
    queued = service.post(REQUEST, prefer="respond-async")
    address = queued.headers["Location"]
    with httpx.stream("GET", service.url + address + "/events", headers={"Accept": "text/event-stream"}) as events:
        events.read()
    return str(address)


LOOKS = [
    "/",
    "/web/main.js",
    "/healthz",
    "/readyz",
    "/v1/families",
    "/v1/families/burgers",
    "/v1/models/persistence",
    "/v1/files",
    "/v1/evaluations",
    "/openapi.json",
    "/v1/keys/current",
    "/v1/families/absent",
]
CHANGING = {"date", "x-request-id"}


@pytest.mark.parametrize("path", LOOKS)
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_head_is_get_without_its_body(service: RunningService, path: str, coding: str) -> None:
    got = asked(service, "GET", path, f"Accept-Encoding: {coding}")
    status, headers, body = asked(service, "HEAD", path, f"Accept-Encoding: {coding}")
    assert (status, body) == (got[0], b"")
    assert {name: value for name, value in headers.items() if name not in CHANGING} == {
        name: value for name, value in got[1].items() if name not in CHANGING
    }
    assert int(headers["content-length"]) == len(got[2]) > 0


def test_head_of_a_stored_result_and_of_its_events(service: RunningService, stored: str) -> None:
    status, headers, body = asked(service, "HEAD", f"{stored}/result", "Accept: application/x-npz")
    assert (status, body) == ("HTTP/1.1 200 OK", b"")
    whole = httpx.get(f"{service.url}{stored}/result", headers={"Accept": "application/x-npz"})
    assert int(headers["content-length"]) == len(whole.content)
    status, headers, body = asked(service, "HEAD", f"{stored}/events", "Accept: text/event-stream")
    assert (status, body) == ("HTTP/1.1 200 OK", b"")
    assert headers["content-type"].startswith("text/event-stream")


def test_head_of_an_upload_still_says_its_offset(service: RunningService) -> None:
    made = service.send("POST", "/v1/files", {"name": "a.h5", "size": 8})
    answer = service.send("HEAD", f"{made.headers['Location']}/content")
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, "0")
    other = service.send("HEAD", "/v1/super-resolution")
    assert (other.status_code, other.headers["Allow"]) == (405, "POST")
    assert service.send("PATCH", "/v1/families").headers["Allow"] == "GET, HEAD"


def test_answers_are_compressed_for_who_accepts_it(service: RunningService) -> None:
    _, plain, text = asked(service, "GET", "/v1/families")
    assert "content-encoding" not in plain
    _, headers, body = asked(service, "GET", "/v1/families", "Accept-Encoding: br, gzip;q=0.5")
    assert headers["content-encoding"] == "gzip"
    assert len(body) < len(text) / 3
    assert gzip.decompress(body) == text
    assert "Accept-Encoding" in plain["vary"]
    assert plain["vary"] == headers["vary"]
    assert headers["etag"] == f"W/{plain['etag']}", "other bytes: only as good as the same"
    assert "content-encoding" not in asked(service, "GET", "/v1/families", "Accept-Encoding: gzip;q=0")[1]


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("gzip", True),
        ("deflate, GZIP ; q=0.1", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=0.000", False),
        ("gzip;q=much", False),
        ("identity", False),
        ("", False),
    ],
)
def test_weights_of_codings(header: str, taken: bool) -> None:
    assert takes_gzip([header]) is taken


@pytest.mark.parametrize("media_type", ["application/x-npz", "application/vnd.safetensors", "text/event-stream"])
def test_arrays_and_streams_are_sent_as_they_are(service: RunningService, media_type: str) -> None:
    request = {**REQUEST, "model": "persistence", "grid": {"n": [4096]}}
    answer = service.post(request, accept=media_type, accept_encoding="gzip")
    assert answer.status_code == 200
    assert "content-encoding" not in answer.headers
    assert answer.headers["Vary"] == "Accept"
    assert service.post(request, accept_encoding="gzip").headers["Content-Encoding"] == "gzip"


def test_what_depends_on_accept_says_so(service: RunningService, stored: str) -> None:
    for part, accepted in (("result", "application/x-npz"), ("events", "text/event-stream")):
        for accept in ("*/*", accepted):
            answer = httpx.get(f"{service.url}{stored}/{part}", headers={"Accept": accept})
            assert answer.status_code == 200
            assert "Accept" in answer.headers["Vary"].split(", ")


def compressed(kind: str, data: bytes) -> bytes:
    return gzip.compress(data) if kind == "gzip" else zlib.compress(data)


def send_coded(service: RunningService, coding: str, body: bytes, path: str = "/v1/rollouts") -> httpx.Response:
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    return httpx.post(service.url + path, content=body, headers=headers, timeout=60)


@pytest.mark.parametrize("kind", ["gzip", "deflate"])
def test_compressed_bodies_are_unpacked(service: RunningService, kind: str) -> None:
    text = json.dumps(REQUEST).encode()
    answer = send_coded(service, kind, compressed(kind, text))
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == service.post(REQUEST).json()["data"]
    assert send_coded(service, "identity", text).status_code == 200


def test_members_one_after_another_and_pieces(service: RunningService) -> None:
    text = json.dumps(REQUEST).encode()
    body = gzip.compress(text[:20]) + gzip.compress(text[20:])

    def pieces() -> Iterator[bytes]:
        for place in range(0, len(body), 7):
            yield body[place : place + 7]

    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = httpx.post(f"{service.url}/v1/rollouts", content=pieces(), headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", ["/v1/rollouts", "/v1/evaluations", "/v1/files"])
def test_what_a_body_unpacks_to_is_limited(service: RunningService, path: str) -> None:
    bomb = gzip.compress(b" " * 2**26)
    assert len(bomb) < 2**17
    check(send_coded(service, "gzip", bomb, path), "body_too_large", 413)


def test_bodies_that_cannot_be_unpacked(service: RunningService) -> None:
    body = gzip.compress(json.dumps(REQUEST).encode())
    check(send_coded(service, "gzip", body[:-9]), "invalid_body", 400)
    check(send_coded(service, "gzip", body + b"more"), "invalid_body", 400)
    check(send_coded(service, "gzip", b"{}"), "invalid_body", 400)
    check(send_coded(service, "gzip", b""), "invalid_json", 400)
    for coding in ("br", "zstd", "gzip, gzip"):
        answer = send_coded(service, coding, body)
        assert check(answer, "unsupported_encoding", 415)["got"] == coding
        assert answer.headers["Accept-Encoding"] == "gzip, deflate"


def test_the_bytes_of_a_file_are_not_unpacked(service: RunningService) -> None:
    body, coded = gzip.compress(b"abc"), {"Content-Encoding": "gzip", "Content-Type": "application/x-hdf5"}
    check(httpx.post(f"{service.url}/v1/files", content=body, headers=coded), "unsupported_encoding", 415)
    made = service.send("POST", "/v1/files", {"name": "a.h5", "size": len(body)})
    answer = httpx.put(f"{service.url}{made.headers['Location']}/content", content=body, headers=coded)
    check(answer, "unsupported_encoding", 415)


@pytest.mark.parametrize("path", ["/v1/families", "/v1/families/burgers", "/v1/models", "/v1/models/persistence", "/"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_what_the_client_has_is_not_sent_again(service: RunningService, path: str, coding: str) -> None:
    coded = {"Accept-Encoding": coding}
    first = httpx.get(service.url + path, headers=coded)
    assert first.headers["Cache-Control"] == "no-cache"
    for known in (first.headers["ETag"], f'"other", {first.headers["ETag"]}', "*"):
        again = httpx.get(service.url + path, headers={**coded, "If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"].removeprefix("W/") == first.headers["ETag"].removeprefix("W/")
        assert "content-length" not in again.headers
    for unknown in ('"other"', ""):
        assert httpx.get(service.url + path, headers={**coded, "If-None-Match": unknown}).status_code == 200


def test_a_list_that_changed_has_another_tag(service: RunningService) -> None:
    before = service.get("/v1/files").headers["ETag"]
    assert service.get("/v1/files").headers["ETag"] == before
    service.send("POST", "/v1/files", {"name": "new.h5", "size": 8})
    changed = service.send("GET", "/v1/files", if_none_match=before)
    assert (changed.status_code, changed.headers["ETag"] != before) == (200, True)


@pytest.mark.parametrize("part", ["result", "result/zarr.json", "result/u/c.0.0"])
def test_stored_results_have_tags(service: RunningService, stored: str, part: str) -> None:
    address = f"{service.url}{stored}/{part}"
    first = httpx.get(address, headers=PLAIN)
    assert first.status_code == 200, first.text
    again = httpx.get(address, headers={**PLAIN, "If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    ranged = httpx.get(address, headers={**PLAIN, "Range": "bytes=0-3", "If-None-Match": first.headers["ETag"]})
    assert ranged.status_code == 304, "the tag is looked at before the range"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/families?familly=burgers"),
        ("GET", "/v1/evaluations?limit=3&offset=3"),
        ("GET", "/v1/models/persistence?full"),
        ("POST", "/v1/rollouts?encoding=list&steps=3"),
        ("POST", "/v1/super-resolution?encoding=list"),
        ("GET", "/readyz?verbose=1"),
        ("HEAD", "/v1/files?page=2"),
    ],
)
def test_unknown_parameters_are_refused(service: RunningService, method: str, path: str) -> None:
    answer = service.send(method, path)
    if method == "HEAD":
        assert answer.status_code == 422
        return
    problem: dict[str, Any] = check(answer, "unknown_parameter", 422)
    assert problem["got"] == [path.rpartition("?")[2].rpartition("&")[2].partition("=")[0]]
    assert isinstance(problem["expected"], list)


def test_the_page_may_be_asked_with_a_query(service: RunningService) -> None:
    assert service.get("/?from=mail").status_code == 200


@pytest.mark.parametrize("path", ["/v1/rollouts", "/v1/evaluations", "/v1/fine-tuning/jobs", "/v1/files"])
def test_an_empty_idempotency_key_is_refused(service: RunningService, path: str) -> None:
    problem = check(service.send("POST", path, REQUEST, idempotency_key=""), "invalid_request", 422)
    assert "header.idempotency-key" in problem["expected"]
