"""Zarr that lies elsewhere, fetched by the service: off by default, only from where it may, bounded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.api.conftest import RunningService, running_service
from tests.api.test_files import problem
from tests.cases import ups
from tests.data.test_remote import Endless, Failing, Files, brought, server
from tests.jobs.test_object_store import bucket as bucket
from tests.pdebench_files import values_of, write
from ups_server.client import Client
from ups_server.errors import UserError
from ups_server.settings import Settings

pytest.importorskip("aiohttp")

Output = pytest.CaptureFixture[str]


def settings(folder: Path, **changes: Any) -> Settings:
    return Settings(data_dir=folder / "data", device="cpu", threads=1, worker=False, **changes)


def refusal(client: Client, address: str) -> str:
    with pytest.raises(UserError) as caught:
        client.fetch(address)
    return caught.value.code


def test_nothing_is_fetched_by_default(service: RunningService, capsys: Output) -> None:
    answer = service.send("POST", "/v1/files", {"address": "https://example.org/x.zarr"})
    assert problem(answer) == (422, "address_refused")
    assert "`ups data convert ADDRESS x.zip`" in answer.json()["hint"]
    assert ups("files", "upload", "https://example.org/x.zarr", "--url", service.url) == 2
    assert "does not read by that address" in capsys.readouterr().err


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    folder = tmp_path / "shown"
    (folder / "open").mkdir(parents=True)
    return folder


@pytest.fixture
def own(shown: Path, tmp_path: Path) -> Path:
    """A Zarr that explains itself."""
    path = write(tmp_path / "own.h5", "advection")
    assert ups("data", "convert", str(path), str(shown / "open" / "own.zarr")) == 0
    return shown


def test_what_is_allowed_is_fetched_and_examined(own: Path, tmp_path: Path, capsys: Output) -> None:
    values = brought("two.zarr", own / "open", True)
    with server(Files, own) as (url, _):
        allowed = settings(tmp_path, remote_addresses=(f"{url}/open",), remote_private=True)
        with running_service(allowed) as service, Client(service.url) as client:
            record = client.fetch(f"{url}/open/own.zarr")
            assert (record["state"], record["name"], record["family"]) == ("ready", "own.zarr", "advection")
            np.testing.assert_array_equal(client.data(record["id"])["u"].values, values_of("advection")[..., 0])
            assert ups("files", "upload", f"{url}/open/two.zarr", "--url", service.url) == 2
            capsys.readouterr()
            (refused,) = [entry for entry in client.files() if entry["name"] == "two.zarr"]
            mapping = yaml.safe_load(client.file(refused["id"])["problem"]["proposal"])
            mapped = client.declare(refused["id"], {"mapping": mapping})
            np.testing.assert_array_equal(client.data(mapped["id"])["u"].values, values[..., 0])
            assert refusal(client, f"{url}/open/absent.zarr") == "not_found"
            assert refusal(client, f"{url}/own.zarr") == "address_refused"
            assert refusal(client, f"{url}/open/../own.zarr") == "address_refused"
            assert refusal(client, f"{url}/open/%2e%2e/own.zarr") == "address_refused"
            assert refusal(client, f"{url}0/open/own.zarr") == "address_refused"


def test_addresses_of_private_networks_are_refused(own: Path, tmp_path: Path) -> None:
    with server(Files, own) as (url, requests):
        anywhere = settings(tmp_path, remote_addresses=("http://",))
        with running_service(anywhere) as service, Client(service.url) as client:
            for host in ("127.0.0.1", "localhost"):
                address = f"{url.replace('127.0.0.1', host)}/open/own.zarr"
                assert refusal(client, address) == "private_target"
        assert not requests


class Elsewhere(Files):
    def do_GET(self) -> None:
        if "/c/" not in self.path:
            super().do_GET()
            return
        self.send_response(302)
        self.send_header("Location", "/open/own.zarr/zarr.json")
        self.end_headers()


@pytest.mark.parametrize(
    ("handler", "code"), [(Endless, "too_many_bytes"), (Failing, "unreachable"), (Elsewhere, "unreachable")]
)
def test_hostile_servers(handler: type[Files], code: str, own: Path, tmp_path: Path) -> None:
    with server(handler, own) as (url, _):
        allowed = settings(tmp_path, remote_addresses=(url,), remote_private=True)
        with running_service(allowed) as service, Client(service.url) as client:
            assert refusal(client, f"{url}/open/own.zarr") == code
            assert client.files() == []
            assert not [entry for entry in (tmp_path / "data" / "files").iterdir() if "arrival" in entry.name]


def test_bounds(own: Path, tmp_path: Path) -> None:
    with server(Files, own) as (url, _):
        common: dict[str, Any] = {"remote_addresses": (url,), "remote_private": True}
        for change, codes in (
            ({"max_file_bytes": 1024}, {"too_many_bytes", "file_too_large"}),
            ({"files_quota_bytes": 1024}, {"quota_exceeded"}),
            ({"remote_timeout_s": 0.01}, {"too_slow"}),
        ):
            bounded = settings(tmp_path, **common, **change)
            with running_service(bounded) as service, Client(service.url) as client:
                assert refusal(client, f"{url}/open/own.zarr") in codes


def test_from_a_bucket_with_the_credentials_of_the_service(bucket: str, own: Path, tmp_path: Path) -> None:
    import s3fs

    source = str(own / "open" / "own.zarr")
    s3fs.S3FileSystem(skip_instance_cache=True).put(source, f"{bucket}/own.zarr", recursive=True)
    with running_service(settings(tmp_path, remote_addresses=(bucket,))) as service, Client(service.url) as client:
        record = client.fetch(f"{bucket}/own.zarr", name="mine.zarr")
        assert (record["state"], record["name"]) == ("ready", "mine.zarr")
        np.testing.assert_array_equal(client.data(record["id"])["u"].values, values_of("advection")[..., 0])
        assert refusal(client, "s3://another/own.zarr") == "address_refused"


@pytest.mark.parametrize("address", ["ftp://host/x.zarr", "https://host/x.zarr?a=1", "https://u:p@host/x", "", 3])
def test_what_is_no_address(service: RunningService, address: Any) -> None:
    assert problem(service.send("POST", "/v1/files", {"address": address})) == (422, "invalid_request")


def test_a_long_address_is_refused_as_a_short_one(service: RunningService) -> None:
    """A file's name is its last part, and shorter."""
    found = problem(service.send("POST", "/v1/files", {"address": "s3://" + 2000 * "0"}))
    assert found == problem(service.send("POST", "/v1/files", {"address": "s3://bucket/x.zarr"}))
    assert found[1] == "address_refused"
