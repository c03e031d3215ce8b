"""The client for coroutines against a real service; the two clients are one interface."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
import xarray as xr

from tests.api.conftest import DEADLINE_S, RunningService, running_service
from ups_server.access.keys import KeyLimits, KeyStore
from ups_server.access.scopes import Scope
from ups_server.client import AsyncClient, Client
from ups_server.errors import UserError
from ups_server.settings import Settings

LONG: dict[str, Any] = {"model": "persistence", "grid": {"n": [2**11]}}


def methods(client: type) -> dict[str, Callable[..., Any]]:
    """Everything public but opening and closing."""
    found = inspect.getmembers(client, inspect.isfunction)
    return {name: method for name, method in found if not name.startswith("_") and name not in ("close", "aclose")}


def with_client(service: RunningService, work: Callable[[AsyncClient], Coroutine[Any, Any, Any]], **more: Any) -> Any:
    """The result of `work` with a client of its own."""

    async def run() -> Any:
        async with AsyncClient(service.url, **more) as client:
            return await work(client)

    return asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """Polls until a condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.02)


def test_both_clients_offer_the_same() -> None:
    blocking, asynchronous = methods(Client), methods(AsyncClient)
    assert {"rollout", "stream", "upload", "fine_tune", "follow", "result", "jobs"} <= blocking.keys()
    assert blocking.keys() == asynchronous.keys()
    for name, method in blocking.items():
        assert inspect.signature(method) == inspect.signature(asynchronous[name])
        assert method.__doc__ == asynchronous[name].__doc__
        assert method.__doc__
        assert next(iter(inspect.signature(method).parameters)) == "self"
    assert [*inspect.signature(Client.rollout).parameters][1:4] == ["family", "n_steps", "initial_condition"]


def test_the_catalogue(service: RunningService) -> None:
    async def look(client: AsyncClient) -> None:
        families, models = await asyncio.gather(client.families(), client.models())
        with Client(service.url) as blocking:
            assert (families, models) == (blocking.families(), blocking.models())
        assert (await client.family("burgers"))["id"] == "burgers"
        assert (await client.model("numerical"))["kind"] == "builtin"
        assert (await client.current_key())["required"] is False

    with_client(service, look)


def test_gathered_rollouts_are_those_of_one_after_another(service: RunningService) -> None:
    options: dict[str, Any] = {"model": "numerical", "grid": {"n": [32]}, "deterministic": True}

    async def together(client: AsyncClient) -> list[xr.Dataset]:
        return await asyncio.gather(
            *(client.rollout("burgers", 3, {"sample": {"seed": seed}}, **options) for seed in range(4))
        )

    gathered = with_client(service, together)
    with Client(service.url) as client:
        for seed, solution in enumerate(gathered):
            xr.testing.assert_identical(solution, client.rollout("burgers", 3, {"sample": {"seed": seed}}, **options))


def test_rollouts_run_at_once_and_end_with_their_tasks(service: RunningService) -> None:
    async def cancelled(client: AsyncClient) -> None:
        tasks = [
            asyncio.create_task(client.rollout("burgers", 10_000, {"sample": {}}, save_every=10_000, **LONG))
            for _ in range(3)
        ]
        await until(lambda: service.engine.health().active == 3)
        tasks[0].cancel()
        await until(lambda: service.engine.health().active == 2)
        assert not tasks[1].done()
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        await until(lambda: service.engine.health().active == 0)

    with_client(service, cancelled)


def test_a_stream_and_its_end(service: RunningService) -> None:
    initial = np.sin(2 * np.pi * (np.arange(32) + 0.5) / 32)

    async def streamed(client: AsyncClient) -> None:
        steps = [step async for step in client.stream("burgers", 4, initial, model="numerical", save_every=2)]
        whole = await client.rollout("burgers", 4, initial, model="numerical", save_every=2)
        assert [(step, time) for step, time, _ in steps] == [*enumerate(whole["time"].values.tolist())]
        np.testing.assert_array_equal(np.stack([step.values for step in steps])[..., 0], whole["u"])
        async with aclosing(client.stream("burgers", 10_000, {"sample": {}}, **LONG)) as endless:
            await anext(endless)
        await until(lambda: service.engine.health().active == 0)
        names = [name async for name, _ in client.stream_events("burgers", 1, initial, diagnostics=True)]
        assert names[-1] == "end"

    with_client(service, streamed)


def test_a_queued_rollout(service: RunningService, tmp_path: Path) -> None:
    async def queued(client: AsyncClient) -> None:
        job = await client.submit("advection", 3, {"sample": {"seed": 1}}, grid={"n": [8]})
        told = [data async for name, data in client.follow(job["id"]) if name == "state"]
        assert told[-1]["state"] == "succeeded"
        assert job["id"] in [entry["id"] for entry in await client.jobs("rollout")]
        assert job["id"] in [entry["id"] for entry in await client.jobs()]
        said: list[tuple[str, int, int]] = []
        ended = await client.wait(job["id"], progress=lambda *report: said.append(report))
        assert ended.finished_at is not None
        assert said[-1][0] == "frames"
        lazy = await client.result(job["id"])
        loaded = await asyncio.to_thread(lazy.load)
        await client.download(job["id"], tmp_path / "result.nc")
        with xr.open_dataset(tmp_path / "result.nc", decode_times=False) as file:
            np.testing.assert_array_equal(file["u"], loaded["u"])
        await client.delete_rollout(job["id"])
        with pytest.raises(UserError, match="no job"):
            await client.download(job["id"], tmp_path / "gone.nc")
        assert [path.name for path in tmp_path.iterdir()] == ["result.nc"], "no half files"
        with pytest.raises(UserError, match="no kind of job"):
            await client.jobs("eval")

    with_client(service, queued)


def test_problems_are_user_errors(service: RunningService) -> None:
    async def wrong(client: AsyncClient) -> None:
        with pytest.raises(UserError) as caught:
            await client.rollout("navier", 1, {"sample": {}})
        assert (caught.value.code, caught.value.got) == ("unknown_family", "navier")
        with pytest.raises(UserError) as caught:
            await anext(client.stream("burgers", 1, {"sample": {}}, coefficients={"nu": -1.0}))
        assert caught.value.code == "coefficient_out_of_domain"
        with pytest.raises(UserError) as caught:
            await client.job("burgers")
        assert caught.value.code == "unknown_job"

    with_client(service, wrong)


class Cut(httpx.AsyncByteStream):
    """A body whose connection breaks after two parts."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(2):
            yield await anext(self._body)
        raise httpx.WriteError("the connection is cut")


class BreaksOnce(httpx.AsyncHTTPTransport):
    """The network, which cuts the first upload in the middle and keeps the first answer to a creation to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[str] = []
        self.keys: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            self.ranges.append(request.headers["Content-Range"])
            if len(self.ranges) == 1:
                assert isinstance(request.stream, httpx.AsyncByteStream)
                request.stream = Cut(aiter(request.stream))
        response = await super().handle_async_request(request)
        if request.headers.get("Prefer") == "respond-async":
            self.keys.append(request.headers["Idempotency-Key"])
            if len(self.keys) == 1:
                await response.aclose()
                raise httpx.ReadError("the answer is lost")
        return response


def test_an_upload_goes_on_where_it_was_cut(service: RunningService, tmp_path: Path) -> None:
    path, shape = tmp_path / "cut.h5", (8, 10, 4096)
    with h5py.File(path, "w") as stored:
        stored["tensor"] = np.random.default_rng(0).random(shape, np.float32)
        stored["x-coordinate"], stored["t-coordinate"] = (np.arange(4096) + 0.5) / 4096, np.arange(10) * 0.01
    network, seen = BreaksOnce(), list[int]()

    async def uploaded(client: AsyncClient) -> None:
        said = {"family": "advection", "coefficients": {"beta": 0.4}}
        record = await client.upload(path, said, lambda done, total: seen.append(done))
        assert record["state"] == "ready"
        assert (await client.preview(record["id"])).startswith(b"\x89PNG")
        assert (await client.upload(path, said))["id"] == record["id"]
        await client.delete_file(record["id"])
        assert record["id"] not in [entry["id"] for entry in await client.files()]

    with_client(service, uploaded, transport=network)
    first, second = (int(text.removeprefix("bytes ").partition("-")[0]) for text in network.ranges)
    assert first == 0 < second < path.stat().st_size, "the service kept what had arrived"
    assert seen[-1] == path.stat().st_size


def test_a_creation_whose_answer_is_lost_makes_one_job(service: RunningService) -> None:
    network = BreaksOnce()

    async def made(client: AsyncClient) -> None:
        before = {entry["id"] for entry in await client.jobs("rollout", limit=100)}
        job = await client.submit("advection", 1, {"sample": {}}, grid={"n": [8]})
        assert {entry["id"] for entry in await client.jobs("rollout", limit=100)} - before == {job["id"]}

    with_client(service, made, transport=network)
    assert len(network.keys) == 2
    assert len(set(network.keys)) == 1


def test_both_wait_where_the_service_asks_them_to(settings: Settings) -> None:
    """30 requests at once, the 31st two seconds later; what would take longer is told."""
    with running_service(settings) as guarded:
        store = KeyStore(guarded.jobs.database)
        _, often = store.create("often", [Scope.READ], None, KeyLimits(requests_per_minute=30))
        _, seldom = store.create("seldom", [Scope.READ], None, KeyLimits(requests_per_minute=1))

        async def asked(client: AsyncClient) -> None:
            assert all([await client.models() for _ in range(31)])

        with_client(guarded, asked, key=often)
        with Client(guarded.url, key=often) as client:
            assert client.models()
        with Client(guarded.url, key=seldom) as client:
            assert client.models()
            with pytest.raises(UserError) as caught:
                client.models()
        assert caught.value.code == "rate_limited"


class ComesBack(httpx.HTTPTransport):
    """The network, which cuts the first stream of events after its first part and is gone for a while then."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            return super().handle_request(request)
        self.streams += 1
        if 1 < self.streams < 8:
            raise httpx.ConnectError("nobody listens")
        response = super().handle_request(request)
        if self.streams == 1:
            assert isinstance(response.stream, httpx.SyncByteStream)
            response.stream = FirstPart(response.stream)
        return response


class FirstPart(httpx.SyncByteStream):
    def __init__(self, body: httpx.SyncByteStream) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield next(iter(self._body))
        raise httpx.ReadError("the connection is cut")

    def close(self) -> None:
        self._body.close()


def test_a_job_is_followed_through_a_break(service: RunningService) -> None:
    network = ComesBack()
    with Client(service.url, network) as client:
        job = client.submit("advection", 3, {"sample": {}}, grid={"n": [8]})
        told = list(client.follow(job["id"]))
    assert network.streams == 8
    assert [data["seq"] for _, data in told] == list(range(1, len(told) + 1))
    assert told[-1][1]["state"] == "succeeded"


def test_nobody_there() -> None:
    """A service that does not answer is asked a few times, then the error is the network's."""
    asked: list[str] = []

    class Dead(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            raise httpx.ReadError("gone")

    with Client(transport=Dead()) as client:
        with pytest.raises(httpx.ReadError):
            client.models()
        assert asked == ["/v1/models"] * 4
        asked.clear()
        with pytest.raises(httpx.ReadError):
            client.cancel("ft-1")
        assert len(asked) == 1, "nobody knows whether it was cancelled"
