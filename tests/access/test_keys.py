"""Keys open what they are for, until they end, and are stored nowhere."""

import time

import pytest
import sqlalchemy as sa

from tests.jobs.conftest import database, database_url, postgresql  # noqa: F401 (fixtures)
from ups_server.access.keys import KeyStore
from ups_server.access.scopes import Scope, granted
from ups_server.errors import UserError
from ups_server.jobs.database import Database, open_database


@pytest.fixture
def keys(database: Database) -> KeyStore:  # noqa: F811
    return KeyStore(database)


def refused(keys: KeyStore, key: str) -> bool:
    with pytest.raises(UserError) as caught:
        keys.find(key)
    told = key != "" and key in str(caught.value.problem())
    return caught.value.code == "invalid_key" and not told


def test_a_key_is_recognised_and_listed(keys: KeyStore) -> None:
    assert not keys.any()
    made, key = keys.create("notebook", [Scope.RUN, Scope.ADAPT], 30)
    assert keys.any()
    assert keys.any_active()
    assert keys.find(key) == made == keys.all()[0]
    assert (made.scopes, made.state(time.time())) == ((Scope.RUN, Scope.ADAPT), "active")
    assert made.expires_at is not None
    assert made.expires_at - made.created_at == pytest.approx(30 * 86400, abs=1)


def test_no_column_holds_the_key(database: Database) -> None:  # noqa: F811
    _, key = KeyStore(database).create("notebook", [Scope.READ], None)
    secret = key.split("_", 2)[2]
    with database.read() as connection:
        row = connection.execute(sa.text("SELECT * FROM api_keys")).one()
    assert not [value for value in row if secret in str(value)]


def test_another_secret_with_the_same_id(keys: KeyStore) -> None:
    _, key = keys.create("notebook", [Scope.READ], None)
    last = "A" if key[-1] != "A" else "B"
    for wrong in (key[:-1] + last, key + "A", key[:-1], "", "ups_", key.upper(), f"{key}\n"):
        assert refused(keys, wrong)


def test_an_expired_key(keys: KeyStore) -> None:
    _, key = keys.create("gone", [Scope.READ], -1 / 86400)
    assert refused(keys, key)
    assert not keys.any_active()
    assert keys.all()[0].state(time.time()) == "expired"


def test_a_revoked_key_stays_revoked_until_it_is_deleted(keys: KeyStore) -> None:
    made, key = keys.create("lost", [Scope.ADMIN], None)
    with pytest.raises(UserError, match="revoke it first"):
        keys.delete(made.id)
    at = keys.revoke(made.id).revoked_at
    assert keys.revoke(made.id).revoked_at == at
    assert refused(keys, key)
    assert keys.any(), "the service still asks for keys"
    keys.delete(made.id)
    assert not keys.any()
    for action in (keys.revoke, keys.delete):
        with pytest.raises(UserError) as caught:
            action(made.id)
        assert caught.value.code == "unknown_key"


def test_a_name_is_printable(keys: KeyStore) -> None:
    for name in ("", "x" * 65, "a\nb"):
        with pytest.raises(UserError) as caught:
            keys.create(name, [Scope.READ], None)
        assert caught.value.code == "invalid_key_name"


def test_keys_outlive_the_service(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("data")
    first = open_database(folder)
    made, key = KeyStore(first).create("notebook", [Scope.READ], None)
    first.close()
    second = open_database(folder)
    assert KeyStore(second).find(key) == made
    second.close()


def test_what_scopes_come_to() -> None:
    assert granted([]) == {Scope.READ}
    assert granted([Scope.RUN]) == {Scope.READ, Scope.RUN}
    assert granted([Scope.ADMIN]) == set(Scope)
