"""What goes over the wire: bodies of requests, events of streams, what an answer says beside its arrays."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.tensors import SAFETENSORS, to_safetensors

InitialCondition = NDArray[Any] | Mapping[str, Any]
Event = tuple[str, dict[str, Any]]
"""(name, data)."""


class EventParser:
    """Puts server-sent events together, line by line; comments are skipped."""

    def __init__(self) -> None:
        self._name, self._data = "message", list[str]()

    def feed(self, line: str) -> Event | None:
        """The event that a line completes."""
        if line == "":
            name, data = self._name, self._data
            self._name, self._data = "message", []
            return (name, json.loads("\n".join(data))) if data else None
        if line.startswith("event:"):
            self._name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            self._data.append(line.removeprefix("data:").removeprefix(" "))
        return None


def request(initial: InitialCondition | None, document: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """(body, headers) of a rollout: arrays travel as safetensors."""
    if initial is None or isinstance(initial, Mapping):
        text = json.dumps(document if initial is None else {**document, "initial_condition": dict(initial)})
        return text.encode(), {"Content-Type": "application/json"}
    body = to_safetensors({"initial_condition": np.asarray(initial)}, {"request": json.dumps(document)})
    return body, {"Content-Type": SAFETENSORS}


def declared_family(card: Mapping[str, Any]) -> Any:
    """An equation of a user's from its entry in the list of families."""
    from ups_server.files.declaration import EquationSpec

    same = ("id", "name", "equation", "extent", "boundary", "dt", "time_unit", "length_unit")
    fields = [
        {"name": entry["name"], "slot": slot, "unit": entry["unit"], "description": entry["description"]}
        for slot, entry in enumerate(card["fields"])
    ]
    document = {name: card[name] for name in same} | {"fields": fields}
    return EquationSpec.model_validate_json(json.dumps(document)).family()


def attributes(header: dict[str, Any]) -> dict[str, Any]:
    """What the service says beside the problem itself."""
    always = ("model", "model_version", "dt", "n_steps", "save_every", "flags")
    asked = ("equation", "terms", "diagnostics", "reference", "super_resolution", "methods", "errors", "ensemble")
    return {name: header[name] for name in (*always, *asked) if name in header}
