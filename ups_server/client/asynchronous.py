"""The client for coroutines: the same operations as the blocking one's, awaited."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing, closing
from functools import cached_property
from types import TracebackType
from typing import Any, Concatenate, Self

import httpx

from ups_server.client import catalogue, files, jobs, rollouts
from ups_server.client.connection import DEFAULT_URL, TIMEOUT_S, connection
from ups_server.client.listening import ItemT, Listening
from ups_server.client.operation import Ask, Effect, Operation, P, Pause, T, Work, advance, described


def awaiting(
    operation: Callable[P, Operation[T]],
) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]":
    """The coroutine function that returns an operation's value."""

    async def method(client: "AsyncClient", /, *arguments: P.args, **named: P.kwargs) -> T:
        return await client._run(operation(*arguments, **named))

    described(method, operation)
    return method


def iterating(
    listening: Callable[P, Listening[ItemT]],
) -> "Callable[Concatenate[AsyncClient, P], AsyncGenerator[ItemT]]":
    """The method that yields what is heard."""

    def method(client: "AsyncClient", /, *arguments: P.args, **named: P.kwargs) -> AsyncGenerator[ItemT]:
        return client._hear(listening(*arguments, **named))

    described(method, listening)
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

    families = awaiting(catalogue.families)
    family = awaiting(catalogue.family)
    equation = awaiting(catalogue.equation)
    models = awaiting(catalogue.models)
    model = awaiting(catalogue.model)
    delete_model = awaiting(catalogue.delete_model)
    current_key = awaiting(catalogue.current_key)

    rollout = awaiting(rollouts.rollout)
    super_resolution = awaiting(rollouts.super_resolution)
    stream = iterating(rollouts.stream)
    stream_events = iterating(rollouts.stream_events)
    submit = awaiting(rollouts.submit)
    result = awaiting(rollouts.result)
    download = awaiting(rollouts.download)
    delete_rollout = awaiting(rollouts.delete_rollout)

    upload = awaiting(files.upload)
    examined_file = awaiting(files.examined_file)
    file = awaiting(files.file)
    preview = awaiting(files.preview)
    declare = awaiting(files.declare)
    delete_file = awaiting(files.delete_file)
    files = awaiting(files.files)

    evaluate = awaiting(jobs.evaluate)
    fine_tune = awaiting(jobs.fine_tune)
    job = awaiting(jobs.job)
    follow = iterating(jobs.follow)
    checkpoints = awaiting(jobs.checkpoints)
    cancel = awaiting(jobs.cancel)
    resume = awaiting(jobs.resume)
    jobs = awaiting(jobs.jobs)

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
            case Work():
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

    async def _hear(self, listening: Listening[ItemT]) -> AsyncGenerator[ItemT]:
        while not listening.ended:
            broken: httpx.TransportError | None = None
            async with aclosing(await self._run(listening.connect())) as response:
                try:
                    async for line in response.aiter_lines():
                        for item in listening.read(line):
                            yield item
                        if listening.ended:
                            return
                except httpx.TransportError as error:
                    broken = error
            await self._run(listening.left(broken))


async def _passed_on(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Parts small enough to be read between two others' turns."""
    for part in parts:
        yield part
