"""Streams of server-sent events, over as many connections as it takes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import httpx

from ups_server.client.messages import EventParser
from ups_server.client.operation import Operation

ItemT = TypeVar("ItemT")


class Listening(ABC, Generic[ItemT]):
    """What a client hears: it opens a connection, reads it line by line, and the next one, until `ended`."""

    def __init__(self) -> None:
        self.ended = False
        self._parser = EventParser()

    def connect(self) -> Operation[httpx.Response]:
        """Opens a connection; the body of the response is still to be read."""
        self._parser = EventParser()
        return self._connect()

    def read(self, line: str) -> Iterator[ItemT]:
        """What a line completes."""
        event = self._parser.feed(line)
        if event is not None:
            yield from self._take(*event)

    @abstractmethod
    def left(self, error: httpx.TransportError | None) -> Operation[None]:
        """A connection is over, by an error or without. Sets `ended`, raises, or does nothing: then connect again."""

    @abstractmethod
    def _connect(self) -> Operation[httpx.Response]: ...

    @abstractmethod
    def _take(self, name: str, data: dict[str, Any]) -> Iterator[ItemT]:
        """What an event is to the caller. Sets `ended` with the last one."""
