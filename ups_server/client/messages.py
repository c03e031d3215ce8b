"""What goes over the wire: bodies of requests, events of streams, what an answer says beside its arrays."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.tensors import SAFETENSORS, to_safetensors

InitialCondition = NDArray[Any] | Mapping[str, Any]


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, data) of server-sent events; comments are skipped."""
    name, data = "message", list[str]()
    for line in lines:
        if line == "":
            if data:
                yield name, json.loads("\n".join(data))
            name, data = "message", []
        elif line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))


def request(initial: InitialCondition, document: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """(body, headers) of a rollout: arrays travel as safetensors."""
    if isinstance(initial, Mapping):
        text = json.dumps({**document, "initial_condition": dict(initial)})
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
    asked = ("diagnostics", "reference", "super_resolution", "methods", "errors", "ensemble")
    return {name: header[name] for name in (*always, *asked) if name in header}
