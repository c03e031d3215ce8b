"""Every mistake of a user is a problem document with a stable code."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from tests.api.conftest import RunningService
from ups_server.api.body import decode
from ups_server.errors import UserError

REQUEST: dict[str, Any] = {
    "model": "numerical",
    "family": "burgers",
    "grid": {"n": [16]},
    "initial_condition": {"sample": {"seed": 0}},
    "n_steps": 1,
}


def values(entries: object) -> dict[str, Any]:
    return {"initial_condition": {"values": entries}, "grid": {}}


CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("unknown_family", 404, {"family": "navier"}),
    ("unknown_model", 404, {"model": "../../etc"}),
    ("unknown_coefficient", 422, {"coefficients": {"beta": 1.0}}),
    ("coefficient_out_of_domain", 422, {"coefficients": {"nu": -1.0}}),
    ("coefficient_out_of_domain", 422, {"coefficients": {"nu": float("nan")}}),
    ("coefficient_given_twice", 422, {"coefficients": {"nu": 0.3, "viscosity": 0.01}}),
    ("coefficient_given_twice", 422, {"coefficients": {"nu": 0.3, "NU": 0.3}}),
    ("dt_mismatch", 422, {"dt": 1e6}),
    ("too_many_steps", 422, {"n_steps": 10_001}),
    ("too_many_points", 422, {"n_steps": 10_000, "grid": {"n": [2**13]}}),
    ("too_many_points", 422, {"initial_condition": {"sample": {"count": 4096}}, "n_steps": 9_999}),
    ("wrong_shape", 422, values([[1.0, 2.0]] * 16)),
    ("wrong_shape", 422, values([1.0] * 7)),
    ("wrong_shape", 422, values([])),
    ("wrong_shape", 422, values([[1.0] * 16, [1.0] * 15])),
    ("wrong_shape", 422, {**values([1.0] * 16), "grid": {"n": [32]}}),
    ("wrong_dtype", 422, values(["1.0"] * 16)),
    ("wrong_dtype", 422, values([None] * 16)),
    ("wrong_dtype", 422, values([True] * 16)),
    ("wrong_dtype", 422, values([0.5] * 15 + [True])),
    ("wrong_dtype", 422, values([[[0.5]] * 16, [[0.5]] * 15 + [[False]]])),
    ("non_finite_initial_condition", 422, values([1.0] * 15 + [float("nan")])),
    ("non_finite_initial_condition", 422, values([1.0] * 15 + [float("inf")])),
    ("non_finite_initial_condition", 422, values([1.0] * 15 + [1e39])),
    ("missing_initial_condition", 422, {"initial_condition": None}),
    ("invalid_grid", 422, {"grid": {"n": [16, 16]}}),
    ("invalid_grid", 422, {"grid": {"extent": [[1.0, 0.0]]}}),
    ("invalid_request", 422, {"grid": {"offset": [1.0]}}),
    ("invalid_request", 422, {"grid": {"points": "nodes", "offset": [0.0]}}),
    ("extent_not_rescalable", 422, {"grid": {"extent": [[0.0, 1e30]]}}),
    ("extent_not_rescalable", 422, {"family": "diffusion_sorption", "grid": {"extent": [[0.0, 2.0]]}}),
    ("boundary_not_supported", 422, {"boundary": [["dirichlet", "dirichlet"]]}),
    ("invalid_request", 422, {"boundary": [["sticky", "sticky"]]}),
    ("invalid_request", 422, {"n_steps": 0}),
    ("invalid_request", 422, {"n_steps": "many"}),
    ("invalid_request", 422, {"steps": 3}),
    ("invalid_request", 422, {"dt": -0.1}),
    ("invalid_request", 422, {"save_every": 2}),
    ("invalid_request", 422, {"grid": {"n": [4]}}),
    ("invalid_request", 422, {"initial_condition": {}}),
    ("invalid_request", 422, {"initial_condition": {"sample": {}, "values": [1.0]}}),
]


def check(response: httpx.Response, code: str, status: int) -> dict[str, Any]:
    """A complete problem document of that code."""
    assert response.headers["content-type"] == "application/problem+json"
    problem = dict(response.json())
    assert (problem["code"], problem["status"], response.status_code) == (code, status, status)
    assert problem["type"] == f"urn:ups:error:{code}"
    assert problem["title"]
    assert problem["detail"]
    return problem


def send(service: RunningService, body: bytes | Iterator[bytes], content_type: str) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/rollouts", content=body, headers={"Content-Type": content_type}, timeout=60)


@pytest.mark.parametrize(("code", "status", "change"), CASES)
def test_user_errors(service: RunningService, code: str, status: int, change: dict[str, Any]) -> None:
    body = json.dumps({**REQUEST, **change}).encode()
    check(send(service, body, "application/json"), code, status)


def test_got_and_expected_name_the_place(service: RunningService) -> None:
    problem = check(service.post({**REQUEST, "grid": {"n": ["a"]}}), "invalid_request", 422)
    assert problem["got"]["grid.n.0"] == "a"
    assert "grid.n.0" in problem["expected"]
    problem = check(service.post({**REQUEST, "family": "navier"}), "unknown_family", 404)
    assert problem["got"] == "navier"
    assert "burgers" in problem["expected"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[1, 2",
        b'{"family": "burgers", "n_steps": 1, "initial_condition": {"values": [1, 2], [3]}}',
        b'{"family": "burgers", "n_steps": 1, "initial_condition": {"values": [01, 2]}}',
        b'{"family": "burgers", "n_steps": 1, "initial_condition": {"values": [[1, 2]]',
    ],
)
def test_invalid_json(service: RunningService, body: bytes) -> None:
    check(send(service, body, "application/json"), "invalid_json", 400)


def test_json_that_is_no_object(service: RunningService) -> None:
    check(send(service, b"[]", "application/json"), "invalid_request", 422)


def test_body_too_large(service: RunningService) -> None:
    check(send(service, b" " * (2**20 + 1), "application/json"), "body_too_large", 413)


def test_body_too_large_without_announcement(service: RunningService) -> None:
    """Chunked: the length is only known while reading."""
    chunks = iter([b" " * 2**16] * 17)
    check(send(service, chunks, "application/json"), "body_too_large", 413)


def test_json_beside_the_numbers_is_short() -> None:
    """Everything but `values` is read as Python objects, which take a multiple of their text."""
    numbers = b"0," * 2**20 + b"0"
    for text in (b'{"n_steps": [%s]}' % numbers, b'{"initial_condition": {"values": [true, %s]}}' % numbers):
        with pytest.raises(UserError) as caught:
            decode(text, "application/json", 2**26, 2**25)
        assert caught.value.code == "body_too_large"


@pytest.mark.parametrize(
    "text",
    [
        b'{"family": "burgers", "n_steps": 1, "n_steps": 2}',
        b'{"family": "burgers", "n_steps": 1, "initial_condition": {"values": [1, 2], "values": [3]}}',
        b'{"family": "burgers", "n_steps": 1, "coefficients": {"nu": 1, "n\\u0075": 2}}',
    ],
)
def test_a_name_given_twice_is_refused(text: bytes) -> None:
    bodies = (("application/json", text), ("application/vnd.safetensors", save({}, {"request": text.decode()})))
    for kind, body in bodies:
        with pytest.raises(UserError) as caught:
            decode(body, kind, 2**20, 2**20)
        assert (caught.value.code, caught.value.expected) == ("invalid_json", "each name once")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/rollouts", b'{"model": "numerical", "model": "persistence"}'),
        ("POST", "/v1/evaluations", b'{"file": "a", "file": "b"}'),
        ("POST", "/v1/fine-tuning/jobs", b'{"training_file": "a", "seed": 1, "seed": 2}'),
        ("POST", "/v1/equations", b'{"equation": "u_t = u_xx", "equation": "u_t = 0"}'),
        ("POST", "/v1/files", b'{"name": "a.h5", "size": 8, "size": 9}'),
        ("PUT", "/v1/files/file-0/declaration", b'{"family": "burgers", "family": "advection"}'),
    ],
)
def test_every_route_refuses_a_name_given_twice(service: RunningService, method: str, path: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = httpx.request(method, service.url + path, content=body, headers=headers)
    check(answer, "invalid_json", 400)


def test_values_elsewhere_are_no_initial_condition() -> None:
    elsewhere = b'{"family": "burgers", "n_steps": 1, "coefficients": {"values": [1, 2]}}'
    with pytest.raises(UserError) as caught:
        decode(elsewhere, "application/json", 2**20, 2**20)
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize("prefer", ["respond-async", "wait=60"])
@pytest.mark.parametrize("points", [8192, 20_000, 2**20])
def test_states_are_refused_by_their_shape(service: RunningService, prefer: str, points: int) -> None:
    """Before anything is drawn: a second one would not fit into a machine's memory, a third into its addresses."""
    request = {**REQUEST, "family": "compressible_ns_2d", "grid": {"n": [points, points]}}
    began = time.monotonic()
    answer = service.post(request, prefer=prefer)
    check(answer, answer.json()["code"], 422)
    assert answer.json()["code"] in ("too_much_memory", "too_many_points")
    assert time.monotonic() - began < 5


def test_media_types(service: RunningService) -> None:
    check(send(service, b"<a/>", "text/xml"), "unsupported_media_type", 415)
    check(service.post(REQUEST, accept="image/png"), "not_acceptable", 406)
    check(service.post(REQUEST, accept="application/json;q=0"), "not_acceptable", 406)


def test_large_answers_are_not_json(service: RunningService) -> None:
    request = {**REQUEST, "model": "persistence", "grid": {"n": [2**16]}, "n_steps": 32}
    problem = check(service.post(request), "not_acceptable", 406)
    assert "safetensors" in problem["hint"]
    assert service.post(request, accept="application/vnd.safetensors").status_code == 200


def test_routes_that_do_not_exist(service: RunningService) -> None:
    check(service.get("/v1/nothing"), "not_found", 404)
    check(service.get("/v1/super-resolution"), "method_not_allowed", 405)
    other = service.send("OPTIONS", "/v1/files/absent/content")
    check(other, "method_not_allowed", 405)
    assert other.headers["Allow"] == "HEAD, PUT", "of all routes of the path"
    check(service.get("/v1/families/navier"), "unknown_family", 404)
    check(service.get("/v1/models/..%2F..%2Fetc"), "not_found", 404)
    check(service.get("/v1/models/etc"), "unknown_model", 404)


def npz(**entries: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **entries)
    return buffer.getvalue()


TEXT = json.dumps({"family": "burgers", "n_steps": 1})
STATE = np.zeros((16, 1), dtype=np.float32)


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def misdeclared(archive: bytes, name: str, size: int) -> bytes:
    """The archive, whose directory says another unpacked size of an entry."""
    place = archive.rindex(name.encode()) - 46
    assert archive[place : place + 4] == b"PK\x01\x02"
    return archive[: place + 24] + size.to_bytes(4, "little") + archive[place + 28 :]


def many_entries(count: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number}.npy", b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("invalid_body", b"PK"),
        ("invalid_body", many_entries(2000)),
        ("invalid_body", npz(initial_condition=STATE, request=TEXT) + b"PK"),
        ("invalid_body", misdeclared(npz(initial_condition=np.zeros(2**22)), "initial_condition.npy", 2**19)),
        ("invalid_body", misdeclared(npz(initial_condition=STATE), "initial_condition.npy", 2**19)),
        ("body_too_large", npz(initial_condition=STATE, request="x" * 2**18)),
        ("invalid_body", npz(initial_condition=STATE)),
        ("invalid_body", zipped("initial_condition.npy", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 100)),
        (
            "invalid_body",
            zipped(
                "initial_condition.npy",
                b"\x93NUMPY\x01\x00\x80\x00"
                + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}".ljust(127)
                + b"\n",
            ),
        ),
        ("body_too_large", npz(initial_condition=np.zeros(2**20), request=TEXT)),
        ("wrong_dtype", npz(initial_condition=STATE.astype(complex), request=TEXT)),
        ("wrong_dtype", npz(initial_condition=np.array([{}], dtype=object), request=TEXT)),
        ("unknown_array", npz(initial_condition=STATE, other=STATE, request=TEXT)),
        (
            "ambiguous_initial_condition",
            npz(
                initial_condition=STATE,
                request=json.dumps({**json.loads(TEXT), "initial_condition": {"sample": {"seed": 0}}}),
            ),
        ),
        ("invalid_json", npz(initial_condition=STATE, request="{")),
    ],
)
def test_hostile_npz(service: RunningService, code: str, body: bytes) -> None:
    response = send(service, body, "application/x-npz")
    check(response, code, response.status_code)
    assert response.status_code in (400, 413, 422)


def described(shape: list[int], offsets: list[int]) -> bytes:
    """Safetensors of 64 bytes, whose header says anything."""
    entry = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
    header = json.dumps({"__metadata__": {"request": TEXT}, "initial_condition": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(64)


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("invalid_body", b"\x08"),
        ("invalid_body", b"\xff" * 64),
        ("invalid_body", save({"initial_condition": STATE})),
        ("wrong_dtype", save({"initial_condition": STATE > 0}, {"request": TEXT})),
        ("missing_initial_condition", save({}, {"request": TEXT})),
        ("wrong_shape", save({"initial_condition": STATE[:4]}, {"request": TEXT})),
        ("invalid_body", described([0, 2**62], [0, 0])),
        ("invalid_body", described([2**62], [0, 64])),
        ("invalid_body", described([16], [-64, 0])),
        ("invalid_body", described([16], [8, 72])),
        ("invalid_body", described([True, 16], [0, 64])),
        ("invalid_body", described([4, 4], [0, 64]) + b"more"),
        ("invalid_body", b"\x02" + bytes(7) + b"[]"),
        ("invalid_body", (10**5).to_bytes(8, "little") + b"[" * 10**5),
    ],
)
def test_hostile_safetensors(service: RunningService, code: str, body: bytes) -> None:
    response = send(service, body, "application/vnd.safetensors")
    check(response, code, response.status_code)
    assert response.status_code in (400, 422)
