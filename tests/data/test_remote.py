"""Zarr behind addresses of a web server and of an object store, which is read as the same folder is on a disk."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.cases import ups
from tests.jobs.test_object_store import bucket as bucket
from tests.mapped_files import LAYOUTS
from tests.pdebench_files import values_of, write
from ups_server.data.formats import open_source
from ups_server.data.mapping import Mapping
from ups_server.data.remote import RemoteLimits, address_of, open_store
from ups_server.errors import UserError

pytest.importorskip("aiohttp")

Output = pytest.CaptureFixture[str]
Requests = list[tuple[str, str]]


class Files(SimpleHTTPRequestHandler):
    """A folder, as web servers show it. `listing`: what is in folders, too."""

    listing = False
    requests: Requests

    def do_GET(self) -> None:
        self.requests.append((self.command, self.path))
        super().do_GET()

    def do_HEAD(self) -> None:
        self.requests.append((self.command, self.path))
        super().do_HEAD()

    def list_directory(self, path: Any) -> Any:
        if self.listing:
            return super().list_directory(path)
        self.send_error(404)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def server(handler: type[SimpleHTTPRequestHandler], folder: Path) -> Iterator[tuple[str, Requests]]:
    """(address, requests so far)"""
    requests: Requests = []
    kind = type("Handler", (handler,), {"requests": requests})

    def made(*given: Any) -> SimpleHTTPRequestHandler:
        return kind(*given, directory=str(folder))  # type: ignore[no-any-return]

    with ThreadingHTTPServer(("127.0.0.1", 0), made) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()
        thread.join()


class Listed(Files):
    listing = True


def brought(name: str, folder: Path, consolidated: bool) -> np.ndarray[Any, Any]:
    """A Zarr of somebody else's in a folder; its values."""
    values = LAYOUTS[name].write(folder / name)
    if consolidated:
        with pytest.warns() if name.startswith("three") else nothing():
            zarr.consolidate_metadata(str(folder / name))
    return values


@contextmanager
def nothing() -> Iterator[None]:
    yield


def read_everywhere(address: str, values: np.ndarray[Any, Any], folder: Path, capsys: Output) -> None:
    """By every command: inspected, checked, drawn, converted, scored, copied to learn from."""
    assert ups("data", "inspect", address) == 0, capsys.readouterr().err
    written = folder / "mapping.yaml"
    written.write_text(capsys.readouterr().out)
    said = ["--map", str(written)]
    assert ups("data", "check", address, *said, "--json") == 0, capsys.readouterr().err
    report = json.loads(capsys.readouterr().out)
    assert (report["trajectories"], report["file"]) == (len(values), address)
    assert ups("data", "check", address, *said) == 0
    assert capsys.readouterr().out.startswith(f"{address}  (Zarr")
    assert ups("data", "show", address, *said, "-o", str(folder / "picture.png")) == 0
    assert ups("data", "convert", address, str(folder / "out.zip"), *said) == 0, capsys.readouterr().err
    assert ups("evaluate", "persistence", address, *said, "--json", "-") == 0, capsys.readouterr().err
    with open_source(address, mapping=Mapping.from_file(written)) as source:
        np.testing.assert_array_equal(source.read(range(len(values))), values)
        np.testing.assert_array_equal(source.read([1], [3, 2], 2, 1), values[[1]][:, [3, 2], 1::2])


@pytest.mark.parametrize(
    ("name", "consolidated", "handler"),
    [
        ("three.zarr", True, Files),
        ("two.zarr", True, Files),
        ("three.zarr", False, Listed),
        ("two.zarr", False, Listed),
    ],
)
def test_over_http(name: str, consolidated: bool, handler: type[Files], tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "shown").mkdir()
    values = brought(name, tmp_path / "shown", consolidated)
    with server(handler, tmp_path / "shown") as (url, requests):
        read_everywhere(f"{url}/{name}", values, tmp_path, capsys)
        assert {method for method, _ in requests} <= {"GET", "HEAD"}


def test_in_an_object_store(bucket: str, tmp_path: Path, capsys: Output) -> None:
    import s3fs

    values = LAYOUTS["three.zarr"].write(tmp_path / "three.zarr")
    s3fs.S3FileSystem(skip_instance_cache=True).put(
        str(tmp_path / "three.zarr"), f"{bucket}/three.zarr", recursive=True
    )
    read_everywhere(f"{bucket}/three.zarr", values, tmp_path, capsys)
    assert ups("data", "inspect", f"{bucket}/absent.zarr") == 2
    assert f"there is no Zarr at {bucket}/absent.zarr" in capsys.readouterr().err


def test_our_own_explains_itself(tmp_path: Path, capsys: Output) -> None:
    path = write(tmp_path / "own.h5", "diffusion_reaction_2d")
    assert ups("data", "convert", str(path), str(tmp_path / "own.zarr")) == 0
    with server(Files, tmp_path) as (url, requests):
        with open_source(f"{url}/own.zarr") as source:
            assert source.family == "diffusion_reaction_2d"
            requests.clear()
            np.testing.assert_array_equal(source.read([2], [1]), values_of("diffusion_reaction_2d")[2:, 1:2])
            assert 0 < len(requests) < 8, "what is not asked for is not fetched"
        assert ups("data", "check", f"{url}/own.zarr") == 0, capsys.readouterr().err


def test_a_model_is_adapted_to_some_of_it(tmp_path: Path, language_model: Path, capsys: Output) -> None:
    from tests.small_models import write_parent

    brought("three.zarr", tmp_path, True)
    write_parent(tmp_path / "tiny", language_model)
    with server(Files, tmp_path) as (url, _):
        assert ups("data", "inspect", f"{url}/three.zarr") == 0
        (tmp_path / "mapping.yaml").write_text(capsys.readouterr().out)
        words = ["--map", str(tmp_path / "mapping.yaml"), "--n-trajectories", "1", "--max-steps", "2"]
        words += ["--trajectories", "0:3", "--output", str(tmp_path / "tuned")]
        assert ups("adapt", str(tmp_path / "tiny"), f"{url}/three.zarr", *words) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "tuned" / "scores.json").read_text())
    assert report["split"] == {"training": 1, "validation": 1, "test": 1}
    assert report["training_rows"][0] in range(3)


def test_mistakes(tmp_path: Path, capsys: Output) -> None:
    brought("three.zarr", tmp_path, False)
    (tmp_path / "page.zarr").mkdir()
    (tmp_path / "page.zarr" / "zarr.json").write_text("<html>not found</html>")
    with server(Files, tmp_path) as (url, _):
        for address, words in (
            (f"{url}/absent.zarr", ("there is no Zarr at", "downloaded first")),
            (f"{url}/three.zarr", ("no arrays are found in", "consolidate_metadata")),
            (f"{url}/page.zarr", ("page.zarr is damaged or of another format",)),
            (f"{url}/three.zarr?token=1", ("no address of a Zarr folder",)),
            ("http://somebody:secret@127.0.0.1/x.zarr", ("no address of a Zarr folder",)),
        ):
            assert ups("data", "inspect", address) == 2
            said = capsys.readouterr().err
            assert all(each in said for each in words), said
            assert "secret" not in said
        closed = url
    assert ups("data", "inspect", f"{closed}/three.zarr") == 2
    assert "cannot be read" in capsys.readouterr().err


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return caught.value.code


def sums(address: str, limits: RemoteLimits) -> object:
    store = open_store(address, limits)
    try:
        return np.asarray(zarr.open_group(store, mode="r")["u"][:]).sum()  # type: ignore[index]
    finally:
        store.close()


class Endless(Files):
    """Chunks without end."""

    def do_GET(self) -> None:
        if "/c/" not in self.path:
            super().do_GET()
            return
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(2**16))
        except OSError:
            pass


class Elsewhere(Files):
    """Chunks are said to be on another machine."""

    target = ""

    def do_GET(self) -> None:
        if "/c/" not in self.path:
            super().do_GET()
            return
        self.send_response(302)
        self.send_header("Location", f"{self.target}{self.path}")
        self.end_headers()


class Failing(Files):
    def do_GET(self) -> None:
        if "/c/" not in self.path:
            super().do_GET()
        else:
            self.send_error(500)


def test_bounds(tmp_path: Path) -> None:
    values = brought("three.zarr", tmp_path, True)
    with server(Files, tmp_path) as (url, _):
        address = f"{url}/three.zarr"
        assert sums(address, RemoteLimits()) == pytest.approx(values.sum())
        assert code_of(lambda: sums(address, RemoteLimits(objects=1))) == "too_many_objects"
        assert code_of(lambda: sums(address, RemoteLimits(bytes=500))) == "too_many_bytes"
        assert code_of(lambda: sums(address, RemoteLimits(seconds=0.0))) == "too_slow"
    with server(Endless, tmp_path) as (url, _):
        assert code_of(lambda: sums(f"{url}/three.zarr", RemoteLimits(object_bytes=2**20))) == "too_many_bytes"
    with server(Failing, tmp_path) as (url, _):
        assert code_of(lambda: sums(f"{url}/three.zarr", RemoteLimits())) == "unreachable"


def test_addresses_of_this_machine_can_be_refused(tmp_path: Path) -> None:
    brought("three.zarr", tmp_path, True)
    with server(Files, tmp_path) as (url, requests):
        for host in ("127.0.0.1", "localhost"):
            address = f"{url.replace('127.0.0.1', host)}/three.zarr"
            assert code_of(lambda at=address: sums(at, RemoteLimits(private=False))) == "private_target"  # type: ignore[misc]
        assert not requests


def test_a_redirect_leads_to_no_private_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a name or a redirect leads is looked at when the connection is made."""
    values = brought("three.zarr", tmp_path, True)
    with server(Files, tmp_path) as (url, requests):
        elsewhere = url.replace("127.0.0.1", "localhost")
        with server(type("Here", (Elsewhere,), {"target": elsewhere}), tmp_path) as (first, _):
            assert sums(f"{first}/three.zarr", RemoteLimits()) == pytest.approx(values.sum())
            requests.clear()
            looks = iter([True, True])
            monkeypatch.setattr("ups_server.data.remote.is_public", lambda address: next(looks, False))
            assert code_of(lambda: sums(f"{first}/three.zarr", RemoteLimits(private=False))) == "private_target"
        assert not requests


def test_objects_in_a_bucket_are_bounded(bucket: str, tmp_path: Path) -> None:
    import s3fs

    brought("three.zarr", tmp_path, True)
    s3fs.S3FileSystem(skip_instance_cache=True).put(
        str(tmp_path / "three.zarr"), f"{bucket}/three.zarr", recursive=True
    )
    address = f"{bucket}/three.zarr"
    assert sums(address, RemoteLimits()) == pytest.approx(values_of_three())
    assert code_of(lambda: sums(address, RemoteLimits(object_bytes=1000))) == "too_many_bytes"
    assert code_of(lambda: sums(address, RemoteLimits(objects=1))) == "too_many_objects"


def values_of_three() -> float:
    from tests.mapped_files import waves

    return float(waves().sum())


def test_what_an_address_is() -> None:
    assert address_of("https://host/a/x.zarr/") == "https://host/a/x.zarr"
    assert address_of(Path("https://host/x.zarr")) == "https://host/x.zarr"
    assert address_of(Path("s3://bucket/x.zarr")) == "s3://bucket/x.zarr"
    for other in ("x.zarr", "/data/https/x.zarr", "C:/x.zarr", "https:", "file:///x.zarr"):
        assert address_of(other) is None
