"""Server-sent events of an answer, as tests look at them."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

Event = tuple[str, dict[str, Any]]
"""(name, data)."""


def events(lines: Iterable[str]) -> Iterator[Event]:
    """All events, put together line by line; comments are skipped."""
    name, data = "message", list[str]()
    for line in lines:
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif line == "":
            if data:
                yield name, json.loads("\n".join(data))
            name, data = "message", []
