"""HTTP as its clients expect it, asked with raw sockets and with httpx."""

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from tests.api.conftest import RunningService, running_service, wait_until
from tests.api.test_problems import REQUEST, check
from ups_server.api.conventions import takes_gzip
from ups_server.client import Client
from ups_server.errors import UserError
from ups_server.settings import Settings

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
    "given",
    ["lines=0-3", "items=1", "bytes", "bytes=", "bytes=a-b", "bytes=4-1", "bytes=1-2,x", f"bytes={'9' * 5000}-"],
)
def test_ranges_that_are_none_are_ignored(service: RunningService, stored: str, given: str) -> None:
    whole = httpx.get(f"{service.url}{stored}/result/zarr.json", headers=PLAIN)
    answer = httpx.get(f"{service.url}{stored}/result/zarr.json", headers={**PLAIN, "Range": given})
    assert (answer.status_code, answer.content) == (200, whole.content)


def test_ranges_of_bytes(service: RunningService, stored: str) -> None:
    address = f"{service.url}{stored}/result/zarr.json"
    whole = httpx.get(address, headers=PLAIN).content
    for given, part in (("bytes=0-3", whole[:4]), ("Bytes = 4-", whole[4:]), ("bytes=-8", whole[-8:])):
        answer = httpx.get(address, headers={"Range": given})
        assert (answer.status_code, answer.content) == (206, part)
    beyond = httpx.get(address, headers={"Range": f"bytes={len(whole)}-"})
    check(beyond, "range_not_satisfiable", 416)
    assert beyond.headers["Content-Range"] == f"bytes */{len(whole)}"


@pytest.mark.parametrize("path", ["/v1/none/{}", "/v1/models/{}", "/v1/rollouts/ro-{}", "/{}"])
def test_long_paths_are_not_repeated(service: RunningService, path: str) -> None:
    answer = service.get(path.format("x" * 20_000))
    assert answer.status_code == 404
    assert len(answer.text) < 4000


def test_long_lists_of_errors_say_how_many_are_left_out(service: RunningService) -> None:
    problem = check(service.post({**REQUEST, **{f"extra_{n}": n for n in range(500)}}), "invalid_request", 422)
    assert len(problem["got"]) == len(problem["expected"]) == 51
    assert problem["expected"]["…"] == "450 more are left out"
    query = "&".join(f"p{n}=1" for n in range(80))
    problem = check(service.get(f"/v1/families?{query}"), "unknown_parameter", 422)
    assert problem["got"][50:] == ["… 30 more are left out"]


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that a proxy shows at /tools/ups."""
    settings = Settings(
        default_model="persistence",
        data_dir=tmp_path_factory.mktemp("proxied"),
        device="cpu",
        threads=1,
        worker=False,
        root_path="/tools/ups",
        max_file_bytes=2**20,
        files_quota_bytes=3 * 2**19,
    )
    with running_service(settings) as running:
        yield running


def test_behind_a_proxy_addresses_have_its_prefix(behind_proxy: RunningService) -> None:
    assert behind_proxy.get("/openapi.json").json()["servers"] == [{"url": "/tools/ups"}]
    made = behind_proxy.send("POST", "/v1/files", {"name": "a.h5", "size": 8})
    queued = behind_proxy.post(REQUEST, prefer="respond-async")
    for answer in (made, queued):
        place = answer.headers["Location"]
        assert place.startswith("/tools/ups/v1/")
        found = behind_proxy.get(place.removeprefix("/tools/ups"))
        assert found.json()["id"] == answer.json()["id"]
    slash = behind_proxy.get("/v1/families/?x=1")
    assert (slash.status_code, slash.headers["Location"]) == (307, "/tools/ups/v1/families?x=1")
    assert behind_proxy.send("HEAD", "/v1/families").status_code == 200
    assert behind_proxy.send("PATCH", "/v1/families").headers["Allow"] == "GET, HEAD"


def test_a_file_without_a_length_is_taken_up_to_the_limit(behind_proxy: RunningService) -> None:
    def sent(size: int) -> httpx.Response:
        pieces = (bytes(2**16) for _ in range(size // 2**16))
        headers = {"Content-Type": "application/x-hdf5"}
        return httpx.post(f"{behind_proxy.url}/v1/files", content=pieces, headers=headers, timeout=60)

    before = behind_proxy.get("/v1/files").json()["bytes_used"]
    check(sent(2**20 + 2**16), "file_too_large", 413)
    assert behind_proxy.get("/v1/files").json()["bytes_used"] == before
    whole = sent(2**20)
    assert (whole.status_code, whole.json()["size"]) == (201, 2**20)
    wait_until(lambda: behind_proxy.get("/v1/files").json()["files"][0]["state"] == "refused", "it is examined")
    check(sent(2**20), "quota_exceeded", 507)
    assert behind_proxy.get("/v1/files").json()["bytes_used"] == before + 2**20


def test_a_redirect_does_not_name_the_host(service: RunningService) -> None:
    _, headers, _ = asked(service, "GET", "/v1/models/", "X-Forwarded-Proto: https")
    assert headers["location"] == "/v1/models"


def test_a_prefix_is_a_path() -> None:
    for wrong in ("ups", "/ups/", "/a b", "https://example.org"):
        with pytest.raises(ValidationError):
            Settings(root_path=wrong)


def final(answer: bytes) -> tuple[str, dict[str, str], bytes]:
    """What comes after 102 Processing."""
    while answer.startswith(b"HTTP/1.1 102 "):
        answer = answer.partition(b"\r\n\r\n")[2]
    return head_and_body(answer)


def message(path: str, document: object = None, version: str = "1.1") -> bytes:
    body = b"" if document is None else json.dumps(document).encode()
    method = "GET" if document is None else "POST"
    head = f"{method} {path} HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


SLOW = {**REQUEST, "model": "numerical", "family": "diffusion_sorption", "grid": {"n": [256]}, "n_steps": 100}


def test_a_client_that_sends_no_more_is_answered(service: RunningService) -> None:
    status, _, body = final(raw(service, message("/v1/families"), half_close=True))
    assert (status, len(json.loads(body)["families"]) > 5) == ("HTTP/1.1 200 OK", True)
    request = {**SLOW, "n_steps": 20}
    status, _, body = final(raw(service, message("/v1/rollouts", request), half_close=True))
    assert status == "HTTP/1.1 200 OK"
    assert len(json.loads(body)["data"]) == 21
    streamed = message("/v1/rollouts", request).replace(b"Host:", b"Accept: text/event-stream\r\nHost:")
    status, headers, body = final(raw(service, streamed, half_close=True))
    assert headers["content-type"].startswith("text/event-stream")
    assert body.count(b"event: step") == 21
    assert b"event: end" in body


def test_the_oldest_clients_are_answered_too(service: RunningService) -> None:
    status, _, body = head_and_body(raw(service, message("/v1/families", version="1.0"), half_close=True))
    assert (status, len(json.loads(body)["families"]) > 5) == ("HTTP/1.1 200 OK", True)


def test_two_requests_at_once_and_then_no_more(service: RunningService) -> None:
    both = raw(service, message("/healthz") + message("/v1/families/burgers"), half_close=True)
    assert both.count(b"HTTP/1.1 200 OK") == 2


def test_a_client_that_is_gone_stops_its_rollout(service: RunningService) -> None:
    url = httpx.URL(service.url)
    before = service.get("/readyz").json()["active"]
    with closing(socket.create_connection((url.host, url.port or 80))) as connection:
        connection.sendall(message("/v1/rollouts", {**SLOW, "n_steps": 10_000, "save_every": 1000}))
        wait_until(lambda: service.get("/readyz").json()["active"] > before, "it is being computed")
    wait_until(lambda: service.get("/readyz").json()["active"] == before, "nobody computes it")


def test_half_a_request_is_not_answered(service: RunningService) -> None:
    assert raw(service, message("/v1/rollouts", REQUEST)[:-5], half_close=True) == b""
    assert raw(service, b"GET /v1/fam", half_close=True) == b""


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


def test_files_come_in_pages_and_by_what_they_are(tmp_path: Path) -> None:
    settings = Settings(default_model="persistence", data_dir=tmp_path, device="cpu", threads=1, worker=False)
    with running_service(settings) as service, Client(service.url) as client:
        made = [service.send("POST", "/v1/files", {"name": f"{n}.h5", "size": 8}).json()["id"] for n in range(5)]
        refused = httpx.post(f"{service.url}/v1/files", content=b"no", headers={"Content-Type": "application/x-hdf5"})
        wait_until(lambda: client.file(refused.json()["id"]).state == "refused", "it is examined")
        assert len(service.get("/v1/files").json()["files"]) == 6
        assert service.get("/v1/files").json()["next"] is None
        seen: list[str] = []
        page = service.get("/v1/files?limit=2&state=uploading").json()
        while page["next"] is not None:
            seen += [entry["id"] for entry in page["files"]]
            page = service.get(f"/v1/files?limit=2&state=uploading&before={page['next']}").json()
        seen += [entry["id"] for entry in page["files"]]
        assert sorted(seen) == sorted(made)
        assert [record.id for record in client.files(state="refused")] == [refused.json()["id"]]
        assert client.files(family="burgers") == []
        assert len(client.files(limit=3)) == 3
        check(service.get("/v1/files?before=file-0"), "unknown_file", 404)
        check(service.get("/v1/files?state=odd"), "invalid_request", 422)
        queued = [service.post(REQUEST, prefer="respond-async").json()["id"] for _ in range(3)]
        wait_until(lambda: all(client.job(name).state == "succeeded" for name in queued), "they are computed")
        first = service.get("/v1/rollouts?limit=2").json()
        assert first["next"] == first["jobs"][-1]["id"] == queued[1]
        last = service.get(f"/v1/rollouts?limit=2&before={first['next']}").json()
        assert ([entry["id"] for entry in last["jobs"]], last["next"]) == (queued[:1], None)
        assert [entry.id for entry in client.jobs("rollout", state="succeeded")] == queued[::-1]
        assert client.jobs("rollout", state="failed") == []


def test_families_and_models_by_what_they_are(service: RunningService) -> None:
    with Client(service.url) as client:
        plane = client.families(dimensions=2)
        assert {entry["dimensions"] for entry in plane} == {2}
        assert len(plane) < len(client.families())
        assert {entry["kind"] for entry in client.models(kind="builtin")} == {"builtin"}
        assert all("darcy_flow" in entry["families"] for entry in client.models(family="darcy_flow"))
        assert client.models(family="absent") == []
        with pytest.raises(UserError) as caught:
            client.models(kind="odd")
        assert caught.value.code == "invalid_request"
