"""The two clients: every method has an operation happen, `Client` by waiting for it, `AsyncClient` in coroutines."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterable
from contextlib import aclosing, closing
from functools import cached_property
from types import TracebackType
from typing import Any, Concatenate, Self

import httpx
from httpx_sse import EventSource

from ups_server.client import operations
from ups_server.client.exchange import (
    DEFAULT_URL,
    TIMEOUT_S,
    Ask,
    Effect,
    InThread,
    ItemT,
    Operation,
    P,
    Pause,
    Stream,
    T,
    advance,
    connection,
    described,
)


def awaiting(
    operation: Callable[P, Operation[T]],
) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]":
    """The coroutine function that returns an operation's value."""

    async def method(client: "AsyncClient", /, *arguments: P.args, **named: P.kwargs) -> T:
        return await client._run(operation(*arguments, **named))

    described(method, operation)
    return method


def iterating(
    stream: Callable[P, Stream[ItemT]],
) -> "Callable[Concatenate[AsyncClient, P], AsyncGenerator[ItemT]]":
    """The method that yields the items of a stream."""

    def method(client: "AsyncClient", /, *arguments: P.args, **named: P.kwargs) -> AsyncGenerator[ItemT]:
        return client._iterate(stream(*arguments, **named))

    described(method, stream)
    return method


class AsyncClient:
    """Talks to a running service from one event loop; `asyncio.gather` has several rollouts in progress at once.

    Cancelling a task closes its connection, and the service stops computing what it waited for. Leaving an
    `async for` early does so where the iterator is closed: `contextlib.aclosing`.

    Args:
        transport: replaces the network, as httpx understands it; not for the values of `result`.
        timeout: seconds without an answer.
        key: API key; by default that of the environment variable UPS_KEY.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = TIMEOUT_S,
        key: str | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(transport=transport, **connection(base_url, timeout, key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if "_blocking" in vars(self):
            self._blocking.close()
        await self._http.aclose()

    families = awaiting(operations.families)
    family = awaiting(operations.family)
    equation = awaiting(operations.equation)
    models = awaiting(operations.models)
    model = awaiting(operations.model)
    delete_model = awaiting(operations.delete_model)
    current_key = awaiting(operations.current_key)

    rollout = awaiting(operations.rollout)
    super_resolution = awaiting(operations.super_resolution)
    stream = iterating(operations.stream)
    stream_events = iterating(operations.stream_events)
    submit = awaiting(operations.submit)
    result = awaiting(operations.result)
    download = awaiting(operations.download)
    delete_rollout = awaiting(operations.delete_rollout)

    upload = awaiting(operations.upload)
    fetch = awaiting(operations.fetch)
    examined_file = awaiting(operations.examined_file)
    file = awaiting(operations.file)
    preview = awaiting(operations.preview)
    data = awaiting(operations.data)
    download_data = awaiting(operations.download_data)
    declare = awaiting(operations.declare)
    delete_file = awaiting(operations.delete_file)
    files = awaiting(operations.files)

    evaluate = awaiting(operations.evaluate)
    fine_tune = awaiting(operations.fine_tune)
    job = awaiting(operations.job)
    wait = awaiting(operations.wait)
    follow = iterating(operations.follow)
    checkpoints = awaiting(operations.checkpoints)
    cancel = awaiting(operations.cancel)
    resume = awaiting(operations.resume)
    jobs = awaiting(operations.jobs)

    @cached_property
    def _blocking(self) -> httpx.Client:
        """For what is read in threads."""
        http = self._http
        return httpx.Client(base_url=http.base_url, headers=http.headers, timeout=http.timeout)

    async def _run(self, operation: Operation[T]) -> T:
        outcome: Any = None
        with closing(operation):
            while True:
                try:
                    effect = advance(operation, outcome)
                except StopIteration as end:
                    value: T = end.value
                    return value
                try:
                    outcome = await self._perform(effect)
                except httpx.TransportError as error:
                    outcome = error

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Ask():
                return await self._answer(effect)
            case Pause():
                return await asyncio.sleep(effect.seconds)
            case InThread():
                return await asyncio.to_thread(effect.function, self._blocking)

    async def _answer(self, ask: Ask) -> httpx.Response:
        content = ask.content if isinstance(ask.content, bytes | None) else _passed_on(ask.content)
        request = self._http.build_request(
            ask.method, ask.path, content=content, headers=ask.headers, params=ask.params
        )
        response = await self._http.send(request, stream=True)
        if ask.streamed and response.is_success:
            return response
        async with aclosing(response):
            if ask.into is not None and response.is_success:
                with ask.into.open("wb") as file:
                    async for part in response.aiter_bytes():
                        file.write(part)
            else:
                await response.aread()
        return response

    async def _iterate(self, stream: Stream[ItemT]) -> AsyncGenerator[ItemT]:
        while not stream.ended:
            broken: httpx.TransportError | None = None
            async with aclosing(await self._run(stream.connect())) as response:
                try:
                    async with aclosing(EventSource(response).aiter_sse()) as events:
                        async for event in events:
                            for item in stream.read(event):
                                yield item
                            if stream.ended:
                                return
                except httpx.TransportError as error:
                    broken = error
            await self._run(stream.disconnected(broken))


async def _passed_on(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Parts small enough to be read between two others' turns."""
    for part in parts:
        yield part


def waiting(operation: Callable[P, Operation[T]]) -> "Callable[Concatenate[Client, P], T]":
    """The method that returns an operation's value."""

    def method(client: "Client", /, *arguments: P.args, **named: P.kwargs) -> T:
        return client._run(operation(*arguments, **named))

    described(method, operation)
    return method


def waiting_for_each(stream: Callable[P, Stream[ItemT]]) -> "Callable[Concatenate[Client, P], Generator[ItemT]]":
    """The method that yields the items of a stream."""

    def method(client: "Client", /, *arguments: P.args, **named: P.kwargs) -> Generator[ItemT]:
        return client._iterate(stream(*arguments, **named))

    described(method, stream)
    return method


class Client:
    """Talks to a running service.

    Args:
        transport: replaces the network, as httpx understands it.
        timeout: seconds without an answer.
        key: API key; by default that of the environment variable UPS_KEY.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        transport: httpx.BaseTransport | None = None,
        timeout: float = TIMEOUT_S,
        key: str | None = None,
    ) -> None:
        self._http = httpx.Client(transport=transport, **connection(base_url, timeout, key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    families = waiting(operations.families)
    family = waiting(operations.family)
    equation = waiting(operations.equation)
    models = waiting(operations.models)
    model = waiting(operations.model)
    delete_model = waiting(operations.delete_model)
    current_key = waiting(operations.current_key)

    rollout = waiting(operations.rollout)
    super_resolution = waiting(operations.super_resolution)
    stream = waiting_for_each(operations.stream)
    stream_events = waiting_for_each(operations.stream_events)
    submit = waiting(operations.submit)
    result = waiting(operations.result)
    download = waiting(operations.download)
    delete_rollout = waiting(operations.delete_rollout)

    upload = waiting(operations.upload)
    fetch = waiting(operations.fetch)
    examined_file = waiting(operations.examined_file)
    file = waiting(operations.file)
    preview = waiting(operations.preview)
    data = waiting(operations.data)
    download_data = waiting(operations.download_data)
    declare = waiting(operations.declare)
    delete_file = waiting(operations.delete_file)
    files = waiting(operations.files)

    evaluate = waiting(operations.evaluate)
    fine_tune = waiting(operations.fine_tune)
    job = waiting(operations.job)
    wait = waiting(operations.wait)
    follow = waiting_for_each(operations.follow)
    checkpoints = waiting(operations.checkpoints)
    cancel = waiting(operations.cancel)
    resume = waiting(operations.resume)
    jobs = waiting(operations.jobs)

    def _run(self, operation: Operation[T]) -> T:
        outcome: Any = None
        with closing(operation):
            while True:
                try:
                    effect = advance(operation, outcome)
                except StopIteration as end:
                    value: T = end.value
                    return value
                try:
                    outcome = self._perform(effect)
                except httpx.TransportError as error:
                    outcome = error

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Ask():
                return self._answer(effect)
            case Pause():
                return time.sleep(effect.seconds)
            case InThread():
                return effect.function(self._http)

    def _answer(self, ask: Ask) -> httpx.Response:
        request = self._http.build_request(
            ask.method, ask.path, content=ask.content, headers=ask.headers, params=ask.params
        )
        response = self._http.send(request, stream=True)
        if ask.streamed and response.is_success:
            return response
        with closing(response):
            if ask.into is not None and response.is_success:
                with ask.into.open("wb") as file:
                    for part in response.iter_bytes():
                        file.write(part)
            else:
                response.read()
        return response

    def _iterate(self, stream: Stream[ItemT]) -> Generator[ItemT]:
        while not stream.ended:
            broken: httpx.TransportError | None = None
            with closing(self._run(stream.connect())) as response:
                try:
                    for event in EventSource(response).iter_sse():
                        yield from stream.read(event)
                        if stream.ended:
                            return
                except httpx.TransportError as error:
                    broken = error
            self._run(stream.disconnected(broken))
