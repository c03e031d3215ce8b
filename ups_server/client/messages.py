"""What goes over the wire: options and bodies of requests, documents and events of answers."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from ups_server.tensors import SAFETENSORS, to_safetensors

InitialCondition = NDArray[Any] | Mapping[str, Any]
"""An array (X..., C) in physical units, (X...) for a single field, a leading axis for a batch; or a distribution."""

T = TypeVar("T")


class SuperResolutionOptions(TypedDict, total=False):
    """What a rollout may say beside family, steps, initial condition and output resolution; as `RolloutRequest`.

    Attributes:
        equation: in symbols, instead of a family.
        times: of the answer, ascending, instead of `n_steps`, `dt` and `save_every`.
        t_final: the last time, instead of `n_steps`.
        coefficients: by name; a sequence has one for each state of a batch.
        grid: "n", "extent", "points", "offset".
        boundary: (low, high) kind per axis.
        method: how the answer comes to its output resolution.
        ensemble: "members", "seed", "amplitude".
        deterministic: the same bits every time.
    """

    equation: str | None
    times: Sequence[float] | None
    t_final: float | None
    model: str | None
    coefficients: Mapping[str, float | Sequence[float] | NDArray[np.floating]] | None
    grid: Mapping[str, Any] | None
    boundary: Sequence[Sequence[str]] | None
    dt: float | None
    save_every: int | None
    method: Literal["resolution-free", "interpolation"] | None
    ensemble: Mapping[str, Any] | None
    diagnostics: bool | None
    reference: bool | None
    deterministic: bool | None


class RolloutOptions(SuperResolutionOptions, total=False):
    """What a rollout may say beside family, steps and initial condition.

    Attributes:
        output_resolution: points per axis of the answer.
    """

    output_resolution: Sequence[int] | None


def rollout_body(initial: InitialCondition | None, document: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """(body, headers) of a rollout, without what is left open (None): arrays travel as safetensors."""
    given = {name: value for name, value in document.items() if value is not None}
    if initial is None or isinstance(initial, Mapping):
        text = _json(given if initial is None else {**given, "initial_condition": dict(initial)})
        return text.encode(), {"Content-Type": "application/json"}
    body = to_safetensors({"initial_condition": np.asarray(initial)}, {"request": _json(given)})
    return body, {"Content-Type": SAFETENSORS}


def _json(document: Mapping[str, Any]) -> str:
    """Numbers and arrays of NumPy are numbers and lists."""
    return json.dumps(document, default=lambda value: np.asarray(value).tolist())


class Entry(Generic[T]):
    """An entry of a document as an attribute."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, document: None, owner: type) -> "Entry[T]": ...
    @overload
    def __get__(self, document: "Document", owner: type) -> T: ...
    def __get__(self, document: "Document | None", owner: type) -> "Entry[T] | T":
        if document is None:
            return self
        value: T = document[self._name]
        return value


class Document(dict[str, Any]):
    """A JSON document of the service: a dict whose usual entries are attributes too, and a table in notebooks."""

    def facts(self) -> dict[str, str]:
        """What a line or a table says of it."""
        return {name: brief(value) for name, value in self.items() if value is not None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self.facts().items())})"

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><th style='text-align: left'>{html.escape(name)}</th>"
            f"<td style='text-align: left'>{html.escape(value)}</td></tr>"
            for name, value in self.facts().items()
        ]
        return f"<table><caption>{type(self).__name__.removesuffix('Document')}</caption>{''.join(rows)}</table>"


def brief(value: object) -> str:
    """A value in a few characters; of what is longer, its size."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping) and len(value) > 4:
        return f"{{{len(value)}}}"
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {brief(entry)}" for name, entry in value.items())
    if isinstance(value, list) and (len(value) > 4 or any(isinstance(entry, dict | list) for entry in value)):
        return f"[{len(value)}]"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


ERRORS = ("one_step", "rollout")


class ReportDocument(Document):
    """What an evaluation or an adaptation found: the errors of a model, beside those of what it is compared with."""

    def facts(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, value in self.items():
            if isinstance(value, Mapping):
                parts = {f"{name}, {part}": value[part] for part in ERRORS if isinstance(value.get(part), Mapping)}
                for part, errors in (parts or {name: value}).items():
                    numbers = [f"{key} {brief(entry)}" for key, entry in errors.items() if isinstance(entry, float)]
                    found |= {part.replace("_", "-"): ", ".join(numbers)} if numbers else {}
            elif value is not None:
                found[name] = brief(value)
        return found


class JobDocument(Document):
    """A job: what was ordered, its state, and its result or error once it has ended. Times are Unix times."""

    id = Entry[str]()
    kind = Entry[str]()
    state = Entry[str]()
    model = Entry[str | None]()
    attempt = Entry[int]()
    created_at = Entry[float]()
    started_at = Entry[float | None]()
    finished_at = Entry[float | None]()

    @property
    def report(self) -> ReportDocument | None:
        """The result of a job that succeeded."""
        return None if self["result"] is None else ReportDocument(self["result"])

    @property
    def problem(self) -> Document | None:
        """The problem document of a job that failed."""
        return None if self["error"] is None else Document(self["error"])

    def facts(self) -> dict[str, str]:
        found = {name: brief(self[name]) for name in ("id", "kind", "state", "model", "attempt") if self.get(name)}
        if self.get("error") is not None:
            found["error"] = brief(self["error"]["detail"])
        if self.get("result") is not None and "verdict" in self["result"]:
            found["verdict"] = brief(self["result"]["verdict"])
        return found


class CheckpointDocument(Document):
    """A step from which a fine-tuning job can go on, with its errors on validation trajectories where it was scored."""

    step = Entry[int]()
    at = Entry[float]()
    one_step = Entry[float | None]()
    rollout = Entry[float | None]()
    best = Entry[bool]()


class FileDocument(Document):
    """An uploaded data set: its state; once it is examined, what it holds or why it was refused."""

    id = Entry[str]()
    name = Entry[str]()
    state = Entry[str]()
    size = Entry[int]()

    @property
    def report(self) -> Document | None:
        """What was found in an accepted file."""
        return None if self.get("report") is None else Document(self["report"])

    @property
    def problem(self) -> Document | None:
        """Why the file was refused."""
        return None if self.get("problem") is None else Document(self["problem"])

    def facts(self) -> dict[str, str]:
        found = {name: brief(self[name]) for name in ("id", "name", "state", "size") if name in self}
        if self.problem is not None:
            found["problem"] = brief(self.problem["detail"])
        if self.report is not None:
            check = self.report["check"]
            found |= {name: brief(check[name]) for name in ("family", "trajectories", "frames", "coefficients")}
        return found


class ModelDocument(Document):
    """A model: the families it solves, with the ranges of its training."""

    id = Entry[str]()
    kind = Entry[str]()
    name = Entry[str]()
    version = Entry[str]()
    description = Entry[str]()
    resolution = Entry[int | None]()

    def facts(self) -> dict[str, str]:
        names = ("id", "kind", "version", "description", "resolution")
        return {
            **{name: brief(self[name]) for name in names if self.get(name) is not None},
            "families": ", ".join(self.get("families", ())),
        }


class FamilyDocument(Document):
    """A PDE family: its equation, fields, coefficients with their physical domains, default grid and time step."""

    id = Entry[str]()
    name = Entry[str]()
    equation = Entry[str]()
    dimensions = Entry[int]()
    n = Entry[int]()
    dt = Entry[float]()

    def facts(self) -> dict[str, str]:
        return {
            **{name: brief(self[name]) for name in ("id", "name", "equation", "dimensions", "n", "dt")},
            "fields": ", ".join(field["name"] for field in self["fields"]),
            "coefficients": ", ".join(f"{entry['name']} = {entry['default']:g}" for entry in self["coefficients"]),
        }


class EquationDocument(Document):
    """An equation as it was read from symbols, or a proposal for a description in words.

    Attributes:
        equation: in canonical form; None where no equation is clear enough.
    """

    equation = Entry[str | None]()


class KeyDocument(Document):
    """What the key of the client may do, and what it has used."""

    required = Entry[bool]()
    scopes = Entry[list[str]]()
    stored_bytes = Entry[int]()
    compute_seconds = Entry[float]()


class ServerEvent(NamedTuple):
    """One event of a stream."""

    name: str
    data: Document


class Step(NamedTuple):
    """One state of a stream: (X..., C), or (B, X..., C) where the request had a batch axis."""

    step: int
    time: float
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]

    def __repr__(self) -> str:
        return f"Step(step={self.step}, time={self.time:g}, values={self.values.dtype} {self.values.shape})"
