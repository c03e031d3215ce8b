"""The client that waits: every method has an operation happen."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from types import TracebackType
from typing import Any, Concatenate, Self

import httpx

from ups_server.client import catalogue, files, jobs, rollouts
from ups_server.client.connection import DEFAULT_URL, TIMEOUT_S, connection
from ups_server.client.listening import ItemT, Listening
from ups_server.client.operation import Ask, Effect, Operation, P, Pause, T, Work, advance, described


def waiting(operation: Callable[P, Operation[T]]) -> "Callable[Concatenate[Client, P], T]":
    """The method that returns an operation's value."""

    def method(client: "Client", /, *arguments: P.args, **named: P.kwargs) -> T:
        return client._run(operation(*arguments, **named))

    described(method, operation)
    return method


def iterating(listening: Callable[P, Listening[ItemT]]) -> "Callable[Concatenate[Client, P], Generator[ItemT]]":
    """The method that yields what is heard."""

    def method(client: "Client", /, *arguments: P.args, **named: P.kwargs) -> Generator[ItemT]:
        return client._hear(listening(*arguments, **named))

    described(method, listening)
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

    families = waiting(catalogue.families)
    family = waiting(catalogue.family)
    equation = waiting(catalogue.equation)
    models = waiting(catalogue.models)
    model = waiting(catalogue.model)
    delete_model = waiting(catalogue.delete_model)
    current_key = waiting(catalogue.current_key)

    rollout = waiting(rollouts.rollout)
    super_resolution = waiting(rollouts.super_resolution)
    stream = iterating(rollouts.stream)
    stream_events = iterating(rollouts.stream_events)
    submit = waiting(rollouts.submit)
    result = waiting(rollouts.result)
    download = waiting(rollouts.download)
    delete_rollout = waiting(rollouts.delete_rollout)

    upload = waiting(files.upload)
    examined_file = waiting(files.examined_file)
    file = waiting(files.file)
    preview = waiting(files.preview)
    declare = waiting(files.declare)
    delete_file = waiting(files.delete_file)
    files = waiting(files.files)

    evaluate = waiting(jobs.evaluate)
    fine_tune = waiting(jobs.fine_tune)
    job = waiting(jobs.job)
    follow = iterating(jobs.follow)
    checkpoints = waiting(jobs.checkpoints)
    cancel = waiting(jobs.cancel)
    resume = waiting(jobs.resume)
    jobs = waiting(jobs.jobs)

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
            case Work():
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

    def _hear(self, listening: Listening[ItemT]) -> Generator[ItemT]:
        while not listening.ended:
            broken: httpx.TransportError | None = None
            with closing(self._run(listening.connect())) as response:
                try:
                    for line in response.iter_lines():
                        yield from listening.read(line)
                        if listening.ended:
                            return
                except httpx.TransportError as error:
                    broken = error
            self._run(listening.left(broken))
