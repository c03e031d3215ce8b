"""Server-sent events of an answer, as tests look at them."""

from collections.abc import Iterable, Iterator

from ups_server.client.messages import Event, EventParser


def events(lines: Iterable[str]) -> Iterator[Event]:
    """(name, data) of all events."""
    parser = EventParser()
    for line in lines:
        event = parser.feed(line)
        if event is not None:
            yield event
