"""Initial states of a request: given as arrays, stored in an uploaded file, or drawn from the family's distribution.

What a request gives is looked at in two steps: its shape at once, its numbers (`GivenArrays.states`,
`StoredStart.states`) when there is memory for them. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ups_server.errors import UserError
from ups_server.files.storage import FileStorage
from ups_server.pde import Family, Grid
from ups_server.solvers.solver import Frames
from ups_server.specs import MIN_POINTS, InitialConditionSpec, SampleSpec
from ups_server.tensors import Arrays

States = tuple[Frames, Frames | None]
"""States (B, X..., C), and static fields (B, X..., S) of families that have them."""


@dataclass(frozen=True)
class GivenArrays:
    """Arrays that a request gives, their numbers not yet looked at.

    Attributes:
        values, static: (B, X..., C) and (B or 1, X..., S) of any numbers.
        batched: had the request a batch axis?
    """

    values: NDArray[Any]
    static: NDArray[Any] | None
    batched: bool

    @classmethod
    def of(cls, arrays: Arrays, equation: Family, n: tuple[int, ...] | None) -> "GivenArrays":
        """Accepts (X..., C), (B, X..., C), and without the field axis where the family has a single field.

        Args:
            n: points that the request asks for.

        Raises:
            UserError: ``wrong_shape``, ``wrong_dtype``, ``missing_static_fields``, ``unknown_array``.
        """
        values, batched = _shaped(_real(arrays, "initial_condition"), equation, len(equation.fields), n)
        if not equation.static_fields:
            if "static" in arrays:
                raise UserError("unknown_array", f"{equation.id} has no static fields", got="static")
            return cls(values, None, batched)
        if "static" not in arrays and equation.static_optional:
            return cls(values, None, batched)
        if "static" not in arrays:
            raise UserError(
                "missing_static_fields",
                f"{equation.id} needs its static fields",
                expected=[field.name for field in equation.static_fields],
            )
        points = tuple(values.shape[1:-1])
        static, _ = _shaped(_real(arrays, "static"), equation, len(equation.static_fields), points)
        if len(static) not in (1, len(values)):
            raise UserError("wrong_shape", "static needs one entry per state", got=len(static), expected=len(values))
        return cls(values, static, batched)

    @property
    def n(self) -> tuple[int, ...]:
        """Points per axis."""
        return tuple(self.values.shape[1:-1])

    @property
    def count(self) -> int:
        return len(self.values)

    def bytes(self, rescaled: bool) -> int:
        """Most memory that `states` takes beside the arrays: float32, and which are finite; once more to rescale."""
        each = 5 + 4 * rescaled + (self.values.itemsize if self.values.dtype != np.float32 else 0)
        return each * self.values.size

    def states(self, equation: Family) -> States:
        """As float32.

        Raises:
            UserError: ``non_finite_initial_condition``.
        """
        values = _finite(self.values, [field.name for field in equation.fields])
        names = [field.name for field in equation.static_fields]
        if self.static is None:
            return values, np.zeros((*values.shape[:-1], len(names)), np.float32) if names else None
        static = _finite(self.static, names)
        return values, np.ascontiguousarray(np.broadcast_to(static, (len(values), *static.shape[1:])))


@dataclass(frozen=True)
class StoredStart:
    """The first state of a trajectory of an uploaded file, not yet read.

    Attributes:
        row: its place in the stored file.
        n: points per axis, those of the file; `asked` are those of the request.
        size: numbers of the state.
    """

    files: FileStorage
    file: str
    row: int
    n: tuple[int, ...]
    asked: tuple[int, ...] | None
    size: int
    count = 1
    batched = False

    def bytes(self, rescaled: bool) -> int:
        """Most memory that `states` takes."""
        return (5 + 4 * rescaled) * self.size

    def states(self, equation: Family) -> States:
        """Read from the file.

        Raises:
            UserError: those of `GivenArrays`, ``unknown_file``.
        """
        with self.files.open_store(self.file) as store:
            arrays = {"initial_condition": store.read([self.row], [0])[0, 0]}
            static = store.read_static([self.row])
        if static is not None:
            arrays["static"] = static[0]
        return GivenArrays.of(arrays, equation, self.asked).states(equation)


def source_of(
    initial: InitialConditionSpec | None, arrays: Arrays | None, equation: Family, n: tuple[int, ...] | None
) -> GivenArrays | SampleSpec:
    """What a request that names no file starts from.

    Raises:
        UserError: ``missing_initial_condition``, ``ambiguous_initial_condition``, ``wrong_dtype``, and those of
            `GivenArrays.of`.
    """
    given = dict(arrays or {})
    unknown = sorted(set(given) - {"initial_condition", "static"})
    if unknown:
        raise UserError("unknown_array", "unknown arrays", got=unknown, expected=["initial_condition", "static"])
    if "initial_condition" in given and initial is not None:
        raise UserError("ambiguous_initial_condition", "both the request and the binary body give an initial condition")
    if initial is not None and initial.values is not None:
        given["initial_condition"] = from_lists(initial.values, "initial_condition")
    if "initial_condition" in given:
        return GivenArrays.of(given, equation, n)
    if initial is None or initial.sample is None:
        raise UserError(
            "missing_initial_condition",
            "the rollout has no initial condition",
            expected='"initial_condition": {"values": [...]} or {"sample": {"seed": 7}}, '
            "or an array `initial_condition` in a binary body",
        )
    return initial.sample


def drawn_states(sample: SampleSpec, equation: Family, grid: Grid, coefficients: Mapping[str, ArrayLike]) -> States:
    """States of a distribution of the family's on its own box; the seed decides, the grid only where it is seen.

    Args:
        coefficients: one number each, or one a state.
    """
    rng, count = np.random.default_rng(sample.seed), sample.count or 1
    values = {name: np.full(count, value, dtype=np.float64) for name, value in coefficients.items()}
    states = equation.draw_initial(rng, count, grid, values, sample.kind)
    static = equation.draw_static(rng, count, grid, sample.kind)
    return states.astype(np.float32), None if static is None else static.astype(np.float32)


def from_lists(values: list[Any], name: str) -> NDArray[Any]:
    """The array of nested lists; of numbers, unless what takes it objects.

    Raises:
        UserError: ``wrong_dtype``, ``wrong_shape``.
    """
    if _holds_truth_values(values):
        raise UserError("wrong_dtype", f"{name} must hold real numbers", got="true or false", expected="numbers")
    try:
        return np.asarray(values)
    except ValueError:
        raise UserError("wrong_shape", f"the lists of {name} are not equally long", expected="a full array") from None


def _holds_truth_values(values: list[Any]) -> bool:
    """NumPy counts a truth value among numbers as 1 or 0."""
    kinds = set(map(type, values))
    return bool in kinds or (list in kinds and any(_holds_truth_values(v) for v in values if isinstance(v, list)))


def _real(arrays: Arrays, name: str) -> NDArray[Any]:
    values = arrays[name]
    if values.dtype.kind not in "iuf":
        raise UserError(
            "wrong_dtype", f"{name} must hold real numbers", got=str(values.dtype), expected="float32 or float64"
        )
    return values


def _shaped(
    values: NDArray[Any], equation: Family, fields: int, n: tuple[int, ...] | None
) -> tuple[NDArray[Any], bool]:
    """(B, X..., fields), and whether the batch axis was there."""
    axes, shape = equation.ndim, values.shape
    has_fields = shape[-1:] == (fields,) and (n is None or len(shape) != axes + 1 or shape[:-1] == n)
    if len(shape) == axes + 1 and not has_fields and fields == 1:
        values, batched = values[..., None], True
    elif len(shape) == axes and fields == 1:
        values, batched = values[None, ..., None], False
    else:
        batched = len(shape) == axes + 2
        values = values if batched else values[None]
    points = values.shape[1:-1]
    fits = values.ndim == axes + 2 and values.shape[-1] == fields and (n is None or points == n)
    if not fits or len(values) == 0 or min(points) < MIN_POINTS:
        raise UserError(
            "wrong_shape",
            f"{equation.id} has {fields} field(s) on {axes} axis(es)",
            got=shape,
            expected=_expected_shape(equation, fields, n),
        )
    return values, batched


def _expected_shape(equation: Family, fields: int, n: tuple[int, ...] | None) -> str:
    points = ", ".join(map(str, n)) if n else ", ".join(f"n{axis} ≥ {MIN_POINTS}" for axis in "xyz"[: equation.ndim])
    return f"({points}, {fields}), with or without a leading batch axis"


def _finite(given: NDArray[Any], names: list[str]) -> Frames:
    with np.errstate(over="ignore"):
        values: Frames = given.astype(np.float32, copy=False)
    finite = np.isfinite(values)
    if finite.all():
        return values
    place = tuple(int(index) for index in np.argwhere(~finite)[0])
    raise UserError(
        "non_finite_initial_condition",
        "the initial condition holds NaN, infinity or numbers beyond float32",
        got={"count": int((~finite).sum()), "field": names[place[-1]], "state": place[0], "point": place[1:-1]},
        expected="finite values",
    )
