"""Initial conditions of a request: given as an array, or drawn from the family's distribution. Imports no torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde import Family, Grid
from ups_server.solvers.solver import Frames
from ups_server.specs import MIN_POINTS, InitialConditionSpec

States = tuple[Frames, Frames | None, bool]
"""(B, X..., C), static (B, X..., S) or None, and whether the request had a batch axis."""


def initial_array(
    initial: InitialConditionSpec | None, arrays: Mapping[str, NDArray[Any]] | None
) -> dict[str, NDArray[Any]] | None:
    """The arrays a request starts from, or None where it asks for a sample.

    Raises:
        UserError: ``missing_initial_condition``, ``ambiguous_initial_condition``, ``wrong_dtype``, ``wrong_shape``.
    """
    given = dict(arrays or {})
    unknown = sorted(set(given) - {"initial_condition", "static"})
    if unknown:
        raise UserError("unknown_array", "unknown arrays", got=unknown, expected=["initial_condition", "static"])
    if "initial_condition" in given and initial is not None:
        raise UserError("ambiguous_initial_condition", "both the request and the binary body give an initial condition")
    if initial is not None and initial.values is not None:
        given["initial_condition"] = _from_lists(initial.values)
    if "initial_condition" in given:
        return given
    if initial is None:
        raise UserError(
            "missing_initial_condition",
            "the rollout has no initial condition",
            expected='"initial_condition": {"values": [...]} or {"sample": {"seed": 7}}, '
            "or an array `initial_condition` in a binary body",
        )
    return None


def as_states(given: Mapping[str, NDArray[Any]], equation: Family, n: tuple[int, ...] | None) -> States:
    """Given arrays as float32 states.

    Accepts (X..., C), (B, X..., C), and without the field axis where the family has a single field.

    Raises:
        UserError: ``wrong_shape``, ``wrong_dtype``, ``non_finite_initial_condition``, ``missing_static_fields``.
    """
    names = [field.name for field in equation.fields]
    values, batched = _shaped(_floats(given["initial_condition"], "initial_condition"), equation, len(names), n)
    _check_finite(values, names)
    if not equation.static_fields:
        if "static" in given:
            raise UserError("unknown_array", f"{equation.id} has no static fields", got="static")
        return values, None, batched
    if "static" not in given and equation.static_optional:
        return values, np.zeros((*values.shape[:-1], len(equation.static_fields)), np.float32), batched
    if "static" not in given:
        raise UserError(
            "missing_static_fields",
            f"{equation.id} needs its static fields",
            expected=[field.name for field in equation.static_fields],
        )
    static, _ = _shaped(
        _floats(given["static"], "static"), equation, len(equation.static_fields), tuple(values.shape[1:-1])
    )
    _check_finite(static, [field.name for field in equation.static_fields])
    if len(static) not in (1, len(values)):
        raise UserError("wrong_shape", "static needs one entry per state", got=len(static), expected=len(values))
    return values, np.ascontiguousarray(np.broadcast_to(static, (len(values), *static.shape[1:]))), batched


def drawn_states(
    initial: InitialConditionSpec | None, equation: Family, grid: Grid, coefficients: Mapping[str, float]
) -> tuple[Frames, Frames | None]:
    """(B, X..., C) states, and static fields, of a distribution of the family's on its own box; the seed decides."""
    sample = initial and initial.sample
    if not sample:
        raise UserError("missing_initial_condition", "the rollout has no initial condition")
    rng, count = np.random.default_rng(sample.seed), sample.count or 1
    values = {name: np.full(count, value) for name, value in coefficients.items()}
    states = equation.draw_initial(rng, count, grid, values, sample.kind)
    static = equation.draw_static(rng, count, grid, sample.kind)
    return states.astype(np.float32), None if static is None else static.astype(np.float32)


def _from_lists(values: list[Any]) -> NDArray[Any]:
    if _holds_truth_values(values):
        raise UserError(
            "wrong_dtype", "initial_condition must hold real numbers", got="true or false", expected="numbers"
        )
    try:
        return np.asarray(values)
    except ValueError:
        raise UserError(
            "wrong_shape", "the lists of the initial condition are not equally long", expected="a full array"
        ) from None


def _holds_truth_values(values: list[Any]) -> bool:
    """NumPy counts a truth value among numbers as 1 or 0."""
    kinds = set(map(type, values))
    return bool in kinds or (list in kinds and any(_holds_truth_values(v) for v in values if isinstance(v, list)))


def _floats(values: NDArray[Any], name: str) -> Frames:
    if values.dtype.kind not in "iuf":
        raise UserError(
            "wrong_dtype", f"{name} must hold real numbers", got=str(values.dtype), expected="float32 or float64"
        )
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def _shaped(values: Frames, equation: Family, fields: int, n: tuple[int, ...] | None) -> tuple[Frames, bool]:
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


def _check_finite(values: Frames, names: list[str]) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    place = tuple(int(index) for index in np.argwhere(~finite)[0])
    raise UserError(
        "non_finite_initial_condition",
        "the initial condition holds NaN, infinity or numbers beyond float32",
        got={"count": int((~finite).sum()), "field": names[place[-1]], "state": place[0], "point": place[1:-1]},
        expected="finite values",
    )
