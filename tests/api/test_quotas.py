"""Limits of a key: how often, how much, how long. Other origins are answered where the settings say so."""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.conftest import RunningService, running_service, wait_until
from ups_server.access.keys import KeyLimits, KeyStore
from ups_server.access.scopes import Scope
from ups_server.access.usage import KeyUsage
from ups_server.api.app import create_app
from ups_server.jobs.database import open_database
from ups_server.settings import Settings

LOCAL = ("127.0.0.1", 50000)
URL = "http://127.0.0.1:8000"
ROLLOUT = {
    "model": "persistence",
    "family": "burgers",
    "grid": {"n": [16]},
    "initial_condition": {"sample": {"seed": 0}},
    "n_steps": 2,
}


@pytest.fixture
def limited(settings: Settings) -> Iterator[RunningService]:
    with running_service(settings) as running:
        yield running


def key_of(service: RunningService, **limits: Any) -> dict[str, str]:
    """The header of a new key with these limits."""
    _, key = KeyStore(service.jobs.database).create("limited", [Scope.ADMIN], 1, KeyLimits(**limits))
    return {"Authorization": f"Bearer {key}"}


def test_a_key_is_held_to_its_limits(limited: RunningService) -> None:
    often = key_of(limited, requests_per_minute=3)
    answers = [limited.send("GET", "/v1/families", **often) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].json()["code"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 20

    stored = key_of(limited, stored_bytes=1000)
    first = limited.send("POST", "/v1/files", {"name": "a.h5", "size": 600}, **stored)
    assert first.status_code == 201
    second = limited.send("POST", "/v1/files", {"name": "b.h5", "size": 401}, **stored)
    assert (second.status_code, second.json()["code"]) == (507, "quota_exceeded")
    assert limited.send("GET", "/v1/keys/current", **stored).json()["stored_bytes"] == 600
    other = key_of(limited)
    assert limited.send("POST", "/v1/files", {"name": "b.h5", "size": 401}, **other).status_code == 201
    assert limited.send("DELETE", f"/v1/files/{first.json()['id']}", **stored).status_code == 204
    assert limited.send("POST", "/v1/files", {"name": "b.h5", "size": 401}, **stored).status_code == 201

    computing = key_of(limited, compute_seconds=1000.0)
    assert limited.send("POST", "/v1/rollouts", ROLLOUT, **computing).status_code == 200
    used = limited.send("GET", "/v1/keys/current", **computing).json()
    assert 0 < used["compute_seconds"] < 1000
    KeyUsage(limited.jobs.database).add({used["key"]["id"]: 1000.0})
    refused = limited.send("POST", "/v1/rollouts", ROLLOUT, **computing)
    assert (refused.status_code, refused.json()["code"]) == (429, "compute_quota_exceeded")
    assert 1 <= int(refused.headers["Retry-After"]) <= 86400
    assert limited.send("GET", "/v1/families", **computing).status_code == 200


def test_results_count_towards_the_bytes_of_a_key(limited: RunningService) -> None:
    """Three frames of 16 points take 192 bytes, beside what is written of the request."""

    def stored() -> int:
        return int(limited.send("GET", "/v1/keys/current", **header).json()["stored_bytes"])

    header = key_of(limited, stored_bytes=10_000)
    detached = {**header, "Prefer": "respond-async"}
    first = limited.send("POST", "/v1/rollouts", ROLLOUT, **detached, Idempotency_Key="one")
    assert first.status_code == 202
    assert 192 < stored() < 10_000
    large = {**ROLLOUT, "n_steps": 200}
    refused = limited.send("POST", "/v1/rollouts", large, **detached)
    assert (refused.status_code, refused.json()["code"]) == (507, "quota_exceeded")
    assert refused.json()["got"] == 4 * 201 * 16
    file = limited.send("POST", "/v1/files", {"name": "a.h5", "size": 9900}, **header)
    assert file.json()["code"] == "quota_exceeded", "files and results share the quota"
    again = limited.send("POST", "/v1/rollouts", ROLLOUT, **detached, Idempotency_Key="one")
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert limited.send("POST", "/v1/rollouts", large, **key_of(limited), Prefer="respond-async").status_code == 202
    address = f"/v1/rollouts/{first.json()['id']}"
    wait_until(lambda: limited.send("DELETE", address, **header).status_code == 204, "it has ended, and is deleted")
    assert stored() == 0


def test_what_is_asked_for_at_once_shares_the_quota(limited: RunningService) -> None:
    """Twenty files of 600 kB, and as many results, where one megabyte is allowed: one of each kind fits."""
    header = key_of(limited, stored_bytes=10**6)
    rollout = {**ROLLOUT, "grid": {"n": [1000]}, "n_steps": 149}
    with ThreadPoolExecutor(20) as senders:
        uploads = list(
            senders.map(
                lambda number: limited.send("POST", "/v1/files", {"name": f"{number}.h5", "size": 600_000}, **header),
                range(20),
            )
        )
        assert sorted(answer.status_code for answer in uploads) == [201] + [507] * 19
        file = next(answer.json()["id"] for answer in uploads if answer.status_code == 201)
        assert limited.send("DELETE", f"/v1/files/{file}", **header).status_code == 204
        detached = {**header, "Prefer": "respond-async"}
        results = list(senders.map(lambda _: limited.send("POST", "/v1/rollouts", rollout, **detached), range(20)))
    assert sorted(answer.status_code for answer in results) == [202] + [507] * 19
    assert {answer.json()["code"] for answer in (*uploads, *results) if answer.status_code == 507} == {"quota_exceeded"}
    assert limited.send("GET", "/v1/keys/current", **header).json()["stored_bytes"] < 10**6


def test_what_a_dead_process_reserved_is_free_again(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    usage = KeyUsage(database)

    def nothing(resources: Collection[str]) -> dict[str, int]:
        return {}

    assert usage.reserve("key", "file-a", 60, 100, nothing) == 100
    assert usage.reserve("key", "file-b", 60, 100, nothing) == 40
    assert usage.reserve("other", "file-b", 60, 100, nothing) == 100
    assert usage.taken("key", nothing) == 60
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE key_resources SET reserved_until = 1")
    assert usage.taken("key", nothing) == 0
    assert usage.taken("key", lambda resources: dict.fromkeys(resources, 7)) == 7
    database.close()


def test_keys_do_not_see_each_others_idempotency_keys(limited: RunningService) -> None:
    one, other = key_of(limited), key_of(limited)
    detached = {"Prefer": "respond-async", "Idempotency_Key": "same"}
    first = limited.send("POST", "/v1/rollouts", ROLLOUT, **one, **detached)
    again = limited.send("POST", "/v1/rollouts", ROLLOUT, **one, **detached)
    foreign = limited.send("POST", "/v1/rollouts", {**ROLLOUT, "n_steps": 3}, **other, **detached)
    assert [answer.status_code for answer in (first, again, foreign)] == [202, 200, 202]
    assert first.json()["id"] == again.json()["id"] != foreign.json()["id"]
    conflict = limited.send("POST", "/v1/rollouts", ROLLOUT, **other, **detached)
    assert conflict.json()["code"] == "idempotency_conflict"
    files = [
        limited.send("POST", "/v1/files", {"name": "a.h5", "size": size}, Idempotency_Key="file", **key)
        for key, size in ((one, 10), (one, 10), (other, 20))
    ]
    assert [answer.status_code for answer in files] == [201, 200, 201]
    assert files[0].json()["id"] == files[1].json()["id"] != files[2].json()["id"]


def test_seconds_of_the_engine_outlive_the_service(settings: Settings) -> None:
    with running_service(settings) as first:
        header = key_of(first)
        assert first.send("POST", "/v1/rollouts", ROLLOUT, **header).status_code == 200
    with running_service(settings) as second:
        assert second.send("GET", "/v1/keys/current", **header).json()["compute_seconds"] > 0


def test_the_settings_hold_where_a_key_has_no_limit(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path, worker=False, default_model="persistence", device="cpu", key_requests_per_minute=2
    )
    app = create_app(settings)
    with TestClient(app, base_url=URL, client=LOCAL) as client:
        assert {client.get("/v1/families").status_code for _ in range(5)} == {200}, "without keys there is no limit"
        _, key = KeyStore(app.state.service.jobs.database).create("any", [Scope.READ], 1)
        header = {"Authorization": f"Bearer {key}"}
        assert [client.get("/v1/families", headers=header).status_code for _ in range(3)] == [200, 200, 429]
        assert client.get("/healthz", headers=header).status_code == 200


@pytest.mark.parametrize("allowed", [False, True])
def test_other_origins(tmp_path: Path, allowed: bool) -> None:
    origins = ("https://lab.example",) if allowed else ()
    settings = Settings(
        data_dir=tmp_path, worker=False, default_model="persistence", device="cpu", cors_origins=origins
    )
    asked = {"Origin": "https://lab.example", "Access-Control-Request-Method": "POST"}
    with TestClient(create_app(settings), base_url=URL, client=LOCAL) as client:
        answer = client.options("/v1/rollouts", headers=asked)
        assert (answer.headers.get("Access-Control-Allow-Origin") == "https://lab.example") is allowed
        assert "Access-Control-Allow-Credentials" not in answer.headers
        other = client.options("/v1/rollouts", headers={**asked, "Origin": "https://attacker.example"})
        assert "Access-Control-Allow-Origin" not in other.headers
