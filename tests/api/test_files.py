"""Users' files over HTTP: uploads whole and in parts, reports, refusals, and the client."""

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import DEADLINE_S, RunningService, wait_until
from tests.pdebench_files import plain, values_of
from ups_server.api.body import PIECE
from ups_server.client import Client
from ups_server.errors import UserError

HDF5 = {"Content-Type": "application/x-hdf5"}


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return plain(tmp_path / "1D_Advection_Sols_beta0.4.hdf5", {"beta": 0.4}).read_bytes()


def post(service: RunningService, content: bytes, **options: Any) -> httpx.Response:
    headers = {**HDF5, **options.pop("headers", {})}
    return httpx.post(f"{service.url}/v1/files", params=options, content=content, headers=headers, timeout=DEADLINE_S)


def place(service: RunningService, size: int, **options: Any) -> str:
    """The address of a new file's content."""
    document = {"name": "file.h5", "size": size, **options}
    answer = httpx.post(f"{service.url}/v1/files", json=document, timeout=DEADLINE_S)
    assert answer.status_code == 201, answer.text
    return f"{service.url}{answer.headers['Location']}/content"


def put(address: str, content: bytes, start: int, size: int) -> httpx.Response:
    headers = {"Content-Range": f"bytes {start}-{start + len(content) - 1}/{size}", **HDF5}
    return httpx.put(address, content=content, headers=headers, timeout=DEADLINE_S)


def offset(address: str) -> int:
    answer = httpx.head(address, timeout=DEADLINE_S)
    assert answer.status_code == 204
    return int(answer.headers["Upload-Offset"])


def examined(service: RunningService, file_id: str) -> dict[str, Any]:
    path = f"/v1/files/{file_id}"
    wait_until(lambda: service.get(path).json()["state"] in ("ready", "refused"), "the file is examined")
    return dict(service.get(path).json())


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_one_request(service: RunningService, content: bytes) -> None:
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    said = json.dumps({"family": "advection"})
    answer = post(service, content, name="mine.h5", declaration=said, headers={"Repr-Digest": f"sha-256=:{digest}:"})
    assert answer.status_code == 201
    assert answer.json()["state"] == "validating"
    record = examined(service, answer.json()["id"])
    assert (record["state"], record["name"]) == ("ready", "mine.h5")
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["report"]["check"]["coefficients"] == {"beta": [0.4, 0.4]}
    picture = service.get(f"/v1/files/{record['id']}/preview")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    listed = service.get("/v1/files").json()
    (entry,) = [entry for entry in listed["files"] if entry["id"] == record["id"]]
    assert entry["report"] is None
    assert listed["bytes_used"] >= record["report"]["store_bytes"]
    assert httpx.delete(f"{service.url}/v1/files/{record['id']}", timeout=DEADLINE_S).status_code == 204
    assert problem(service.get(f"/v1/files/{record['id']}")) == (404, "unknown_file")


def test_in_parts(service: RunningService, content: bytes) -> None:
    size, half = len(content), len(content) // 2
    address = place(service, size, declaration={"family": "advection"})
    assert offset(address) == 0
    assert put(address, content[:half], 0, size).json()["offset"] == offset(address) == half
    assert problem(put(address, content[half + 1 :], half + 1, size)) == (409, "offset_mismatch")
    assert problem(put(address, content[half:], half, size + 1)) == (422, "invalid_range")
    assert put(address, content[half - 10 :], half - 10, size).json()["state"] == "validating"
    assert offset(address) == size
    record = examined(service, address.split("/")[-2])
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert problem(put(address, content, 0, size)) == (409, "wrong_state")


def test_a_connection_that_breaks_loses_nothing(service: RunningService) -> None:
    """The client ends in the middle of a body; what had arrived stays, and another request goes on."""
    content = os.urandom(PIECE + 5000)
    size, arrived = len(content), PIECE + 1000
    address = place(service, size)

    def breaking() -> Iterator[bytes]:
        yield content[:arrived]
        wait_until(lambda: offset(address) >= PIECE, "a piece has arrived")
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        httpx.put(address, content=breaking(), headers={**HDF5, "Content-Length": str(size)}, timeout=DEADLINE_S)
    wait_until(lambda: offset(address) == arrived, "the bytes are written")
    assert put(address, content[arrived:], arrived, size).json()["state"] == "validating"


def test_a_hanging_request_is_taken_over(service: RunningService) -> None:
    content = os.urandom(3 * PIECE)
    address = place(service, len(content))
    go_on, codes = threading.Event(), list[tuple[int, str]]()

    def hanging() -> Iterator[bytes]:
        yield content[:PIECE]
        go_on.wait(DEADLINE_S)
        yield b"x" * PIECE

    def send() -> None:
        headers = {"Content-Range": f"bytes 0-{2 * PIECE - 1}/{len(content)}", "Content-Length": str(2 * PIECE)}
        codes.append(problem(httpx.put(address, content=hanging(), headers=headers | HDF5, timeout=DEADLINE_S)))

    thread = threading.Thread(target=send)
    thread.start()
    wait_until(lambda: offset(address) == PIECE, "a piece has arrived")
    put(address, content[PIECE : PIECE + 500], PIECE, len(content))
    go_on.set()
    thread.join()
    assert codes == [(409, "upload_displaced")]
    assert offset(address) == PIECE + 500
    put(address, content[PIECE + 500 :], PIECE + 500, len(content))
    record = examined(service, address.split("/")[-2])
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["problem"]["code"] == "not_hdf5"


def test_idempotency(service: RunningService, content: bytes) -> None:
    key = {"Idempotency-Key": "one-" + hashlib.sha256(content).hexdigest()}
    first = post(service, content, name="a.h5", headers=key)
    again = post(service, content, name="a.h5", headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert problem(post(service, content, name="b.h5", headers=key)) == (409, "idempotency_conflict")


def test_a_wrong_checksum(service: RunningService, content: bytes) -> None:
    address = place(service, len(content), sha256="0" * 64)
    put(address, content, 0, len(content))
    record = examined(service, address.split("/")[-2])
    assert (record["state"], record["problem"]["code"]) == ("refused", "checksum_mismatch")
    assert record["problem"]["got"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("status", "code", "request_"),
    [
        (400, "invalid_json", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        (422, "invalid_request", {"json": {"name": "a.h5"}}),
        (422, "empty_file", {"json": {"name": "a.h5", "size": 0}}),
        (422, "not_mappable", {"json": {"name": "a", "size": 1, "declaration": {"family": "compressible_ns_3d"}}}),
        (404, "unknown_family", {"json": {"name": "a", "size": 1, "declaration": {"family": "x"}}}),
        (413, "file_too_large", {"json": {"name": "a.h5", "size": 10**12}}),
        (413, "body_too_large", {"json": {"name": "a" * 2**19, "size": 1}}),
        (415, "unsupported_media_type", {"content": b"a", "headers": {"Content-Type": "text/plain"}}),
        (422, "invalid_digest", {"content": b"a", "headers": {**HDF5, "Repr-Digest": "md5=:AAAA:"}}),
        (422, "empty_file", {"content": iter([]), "headers": HDF5}),
        (422, "empty_file", {"headers": {**HDF5, "Content-Length": "0"}}),
        (404, "unknown_family", {"content": iter([]), "headers": HDF5, "params": {"declaration": '{"family": "x"}'}}),
        (400, "invalid_json", {"content": b"a", "headers": HDF5, "params": {"declaration": "{"}}),
    ],
)
def test_mistakes(service: RunningService, status: int, code: str, request_: dict[str, Any]) -> None:
    assert problem(httpx.post(f"{service.url}/v1/files", timeout=DEADLINE_S, **request_)) == (status, code)


def test_a_file_whose_length_nobody_announced(service: RunningService, content: bytes) -> None:
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    headers = {**HDF5, "Repr-Digest": f"sha-256=:{digest}:", "Idempotency-Key": "piped"}
    address = f"{service.url}/v1/files?name=piped.h5&declaration=" + json.dumps({"family": "advection"})
    answers = []
    for _ in range(2):
        pieces = (content[place : place + 1000] for place in range(0, len(content), 1000))
        answers.append(httpx.post(address, content=pieces, headers=headers, timeout=DEADLINE_S))
    assert [answer.status_code for answer in answers] == [201, 200]
    first, again = (answer.json() for answer in answers)
    assert (first["id"], first["size"], first["state"]) == (again["id"], len(content), "validating")
    record = examined(service, first["id"])
    assert (record["state"], record["sha256"]) == ("ready", hashlib.sha256(content).hexdigest())


def test_the_client(service: RunningService, tmp_path: Path) -> None:
    path = plain(tmp_path / "client.h5", {})
    said = {"family": "advection", "coefficients": {"beta": 0.4}}
    seen: list[tuple[int, int]] = []
    with Client(service.url) as client:
        with pytest.raises(UserError) as caught:
            client.upload(path, progress=lambda done, total: seen.append((done, total)))
        assert caught.value.code == "family_unknown"
        assert seen[-1] == (path.stat().st_size, path.stat().st_size)
        (refused,) = [entry for entry in client.files() if entry["name"] == "client.h5"]
        assert client.declare(refused["id"], said)["state"] == "ready"
        assert client.preview(refused["id"]).startswith(b"\x89PNG")
        seen.clear()
        record = client.upload(path, said)
        assert (record["state"], record["report"]["declared"]) == ("ready", ["family", "coefficients"])
        assert client.upload(path, said)["id"] == record["id"]
        for entry in (refused, record):
            client.delete_file(entry["id"])
        with pytest.raises(UserError, match="no file"):
            client.file(record["id"])


def test_a_rollout_from_a_file(service: RunningService, content: bytes) -> None:
    """From the first state of a trajectory, with its coefficients: unless the request has others."""
    values = values_of("advection")[..., 0]
    answer = post(service, content, name="mine.h5", declaration=json.dumps({"family": "advection"}))
    record = examined(service, answer.json()["id"])
    request = {
        "model": "numerical",
        "family": "advection",
        "initial_condition": {"file": record["id"], "trajectory": 2},
        "n_steps": 1,
    }
    rollout = service.post(request).json()
    assert rollout["coefficients"] == {"beta": 0.4}
    np.testing.assert_array_equal(np.array(rollout["data"][0], np.float32)[:, 0], values[2, 0])
    for spelling in ("beta", "Advection_Speed"):
        assert service.post(request | {"coefficients": {spelling: 1.0}}).json()["coefficients"] == {"beta": 1.0}
    assert problem(service.post(request | {"family": "burgers"})) == (422, "family_mismatch")
    missing = {"initial_condition": {"file": record["id"], "trajectory": 3}}
    assert problem(service.post(request | missing)) == (422, "row_out_of_range")
    assert problem(service.post(request | {"initial_condition": {"file": "file-1"}})) == (404, "unknown_file")
    assert rollout["grid"]["offset"] == [0.5]
    elsewhere = service.post(request | {"grid": {"points": "nodes"}})
    assert problem(elsewhere) == (422, "points_mismatch")
    both = {"initial_condition": {"file": record["id"], "sample": {}}}
    assert problem(service.post(request | both)) == (422, "invalid_request")


def test_trajectories_have_the_numbers_of_the_file(service: RunningService, tmp_path: Path) -> None:
    values = numbered = values_of("advection", 6)[..., 0].copy()
    values[2, 3, 4] = values[4, 0, 0] = np.nan
    content = plain(tmp_path / "file.h5", {"beta": 0.4}, tensor=values).read_bytes()
    answer = post(service, content, name="mine.h5", declaration=json.dumps({"family": "advection"}))
    record = examined(service, answer.json()["id"])
    report = record["report"]
    assert (report["rows"], report["check"]["trajectories"], report["preview_row"]) == (4, 6, 0)
    assert report["check"]["left_out"] == [{"reason": "u holds values that are not finite", "rows": [2, 4]}]
    start = {"file": record["id"]}
    request = {"model": "persistence", "family": "advection", "initial_condition": start, "n_steps": 1}
    for row in (0, 1, 3, 5):
        rollout = service.post(request | {"initial_condition": start | {"trajectory": row}}).json()
        np.testing.assert_array_equal(np.array(rollout["data"][0], np.float32)[:, 0], numbered[row, 0])
    for row in (2, 4):
        answer = service.post(request | {"initial_condition": start | {"trajectory": row}})
        assert problem(answer) == (422, "unusable_row")
        assert answer.json()["detail"].endswith("cannot be used: u holds values that are not finite")
    beyond = service.post(request | {"initial_condition": start | {"trajectory": 6}})
    assert problem(beyond) == (422, "row_out_of_range")
    assert beyond.json()["expected"] == "0 to 5"
