"""The door: every route asks for its right; without keys only this machine is answered."""

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from ups_server.access.keys import KeyStore
from ups_server.access.scopes import Scope, granted
from ups_server.api.access import CHANGES, OPEN, scope_of
from ups_server.api.app import ROUTERS, create_app
from ups_server.api.server import serve
from ups_server.cli import main
from ups_server.client import Client
from ups_server.errors import UserError
from ups_server.jobs.database import open_database
from ups_server.settings import Settings

ROUTES = sorted(
    {
        (route.path, method, str(route.tags[0]) if route.tags else "")
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
)
LOCAL = ("127.0.0.1", 50000)
URL = "http://127.0.0.1:8000"


def settings_of(folder: Path) -> Settings:
    return Settings(data_dir=folder, worker=False, default_model="persistence", device="cpu", threads=1)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, dict[Scope, str]]]:
    """A service, and a key with each right."""
    app = create_app(settings_of(tmp_path_factory.mktemp("guarded")))
    with TestClient(app, base_url=URL, client=LOCAL) as client:
        store = KeyStore(app.state.service.jobs.database)
        yield client, {scope: store.create(scope.value, [scope], 1)[1] for scope in Scope}


@pytest.fixture
def unguarded(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings_of(tmp_path)), base_url=URL, client=LOCAL) as client:
        yield client


def ask(client: TestClient, path: str, method: str, key: str | None = None) -> Any:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    filled = path.replace("{name:path}", "main.js")
    for name in ("family_id", "file_id", "job_id", "model_id"):
        filled = filled.replace(f"{{{name}}}", "absent")
    return client.request(method, filled, headers=headers)


@pytest.mark.parametrize(("path", "method", "tag"), ROUTES)
def test_every_route_refuses_without_the_right(
    guarded: tuple[TestClient, dict[Scope, str]], path: str, method: str, tag: str
) -> None:
    client, keys = guarded
    needed = scope_of(path, method, [tag])
    if path in OPEN:
        assert needed is None
        assert ask(client, path, method).status_code not in (401, 403)
        return
    assert needed is not None
    without = ask(client, path, method)
    assert without.status_code == 401
    assert without.headers["WWW-Authenticate"].startswith("Bearer")
    for scope, key in keys.items():
        status = ask(client, path, method, key).status_code
        if needed in granted([scope]):
            assert status not in (401, 403)
        else:
            assert status == 403


def test_who_changes_something_needs_more_than_reading() -> None:
    for path, method, tag in ROUTES:
        if path not in OPEN and method not in ("GET", "HEAD"):
            assert tag in CHANGES, f"{method} {path}: what right does it need?"
            assert scope_of(path, method, [tag]) not in (None, Scope.READ)
    assert scope_of("/v1/new", "POST", ["new"]) is Scope.ADMIN


def test_what_is_no_route_needs_no_key(guarded: tuple[TestClient, dict[Scope, str]]) -> None:
    client, _ = guarded
    assert client.get("/absent").status_code == 404
    assert client.get("/openapi.json").status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ups_1_2", "Basic dXNlcjpwYXNz", "Bearer \xff"])
def test_wrong_keys(guarded: tuple[TestClient, dict[Scope, str]], header: str) -> None:
    client, _ = guarded
    answer = client.get("/v1/families", headers={b"Authorization": header.encode("latin-1")})
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_key")


def test_the_current_key(guarded: tuple[TestClient, dict[Scope, str]]) -> None:
    client, keys = guarded
    answer = ask(client, "/v1/keys/current", "GET", keys[Scope.ADAPT]).json()
    assert (answer["required"], answer["scopes"], answer["key"]["name"]) == (True, ["read", "adapt"], "adapt")


def test_the_document_says_what_each_route_needs(
    guarded: tuple[TestClient, dict[Scope, str]], unguarded: TestClient
) -> None:
    client, _ = guarded
    for asked, optional in ((client, False), (unguarded, True)):
        paths: dict[str, Any] = asked.get("/openapi.json").json()["paths"]
        assert "security" not in paths["/healthz"]["get"]
        assert paths["/v1/rollouts"]["post"]["security"][-1] == {"ApiKey": ["run"]}
        assert ({} in paths["/v1/rollouts"]["post"]["security"]) is optional


def test_without_keys_this_machine_is_answered(unguarded: TestClient) -> None:
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert unguarded.get("/v1/families", headers={"Host": host}).status_code == 200
    same = {"Host": "localhost:8000", "Origin": "http://localhost:8000"}
    assert unguarded.get("/v1/families", headers=same).status_code == 200
    assert unguarded.get("/v1/keys/current").json()["required"] is False


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "attacker.example"}, "foreign_host"),
        ({"Host": "[::"}, "foreign_host"),
        ({"Host": ""}, "foreign_host"),
        ({"Origin": "https://attacker.example"}, "foreign_origin"),
        ({"Origin": "null"}, "foreign_origin"),
        ({"Authorization": "Bearer ups_0"}, "invalid_key"),
    ],
)
def test_without_keys_no_page_of_another_site_is_answered(
    unguarded: TestClient, headers: dict[str, str], code: str
) -> None:
    assert unguarded.get("/v1/families", headers=headers).json()["code"] == code


def test_without_keys_no_other_machine_is_answered(tmp_path: Path) -> None:
    with TestClient(create_app(settings_of(tmp_path)), base_url=URL, client=("192.0.2.1", 50000)) as client:
        assert client.get("/v1/families").json()["code"] == "foreign_host"


def test_from_the_first_key_to_the_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Keys count from the moment they are made, and revoking them opens nothing."""
    caplog.set_level(logging.DEBUG)
    app = create_app(settings_of(tmp_path))
    with TestClient(app, base_url=URL, client=LOCAL) as client:
        store = KeyStore(app.state.service.jobs.database)
        assert client.get("/v1/families").status_code == 200
        made, key = store.create("first", [Scope.READ], None)
        assert client.get("/v1/families").status_code == 401
        assert ask(client, "/v1/families", "GET", key).status_code == 200
        store.revoke(made.id)
        assert ask(client, "/v1/families", "GET", key).status_code == 401
        assert client.get("/v1/families").status_code == 401
        store.delete(made.id)
        assert client.get("/v1/families").status_code == 200
    assert key.split("_", 2)[2] not in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_other_machines_are_served_only_with_a_key(tmp_path: Path, host: str) -> None:
    settings = Settings(host=host, port=1, data_dir=tmp_path)
    with pytest.raises(UserError) as caught:
        serve(settings)
    assert caught.value.code == "remote_not_allowed"
    database = open_database(tmp_path)
    made, _ = KeyStore(database).create("first", [Scope.READ], None)
    KeyStore(database).revoke(made.id)
    with pytest.raises(UserError, match="without an API key"):
        serve(settings)
    KeyStore(database).create("second", [Scope.READ], None)
    database.close()
    from ups_server.api.server import check_host

    check_host(settings)


def test_the_client_shows_its_key(
    guarded: tuple[TestClient, dict[Scope, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, keys = guarded[0].app, guarded[1]

    class Transport(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            inside = TestClient(app, base_url=URL, client=LOCAL)
            answer = inside.request(request.method, request.url.path, headers=dict(request.headers))
            kind = {"Content-Type": answer.headers["Content-Type"]}  # the content is unpacked already
            return httpx.Response(answer.status_code, headers=kind, content=answer.content)

    monkeypatch.delenv("UPS_KEY", raising=False)
    with Client(URL, Transport()) as client, pytest.raises(UserError) as caught:
        client.families()
    assert caught.value.code == "missing_key"
    with Client(URL, Transport(), key=keys[Scope.READ]) as client:
        assert client.families()
        assert keys[Scope.READ] not in repr(vars(client))
    monkeypatch.setenv("UPS_KEY", keys[Scope.READ])
    with Client(URL, Transport()) as client:
        assert client.families()


def test_keys_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ups(*words: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--data-dir", str(tmp_path)])
        captured = capsys.readouterr()
        assert not ended.value.code, captured.err
        return captured.out, captured.err

    key, note = ups("keys", "create", "notebook", "--scope", "run", "--days", "2")
    assert key.strip() not in note
    database = open_database(tmp_path)
    made = KeyStore(database).find(key.strip())
    assert (made.name, made.scopes) == ("notebook", (Scope.RUN,))
    listed, _ = ups("keys", "list")
    assert made.id in listed
    assert "active" in listed
    assert key.strip() not in listed + ups("keys", "list", "--json")[0]
    ups("keys", "revoke", made.id)
    assert "revoked" in ups("keys", "list")[0]
    assert "asks for no key" in ups("keys", "delete", made.id)[1]
    assert list(itertools.chain(KeyStore(database).all())) == []
    database.close()
