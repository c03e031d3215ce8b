"""Flags of a plan whose points do not show its initial state to an exact solver."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rollout.planning import planned
from ups_server.rollout.flags import UNRESOLVED
from ups_server.rollout.plan import Plan


def numerical(folder: Path, **changes: Any) -> Plan:
    return planned(folder, model="numerical", diagnostics=False, **changes)


def unresolved(todo: Plan) -> dict[str, Any] | None:
    found = [flag.model_dump() for flag in todo.flags if flag.code == "state_not_resolved"]
    assert len(found) <= 1
    return found[0] if found else None


def wave(cycles: int, points: int = 32) -> dict[str, Any]:
    x = (np.arange(points) + 0.5) / points
    return {"values": np.sin(2.0 * np.pi * cycles * x).tolist()}


def test_a_drawn_state_is_measured_against_itself_at_more_points(tmp_path: Path) -> None:
    drawn = {"sample": {"seed": 17}}
    found = unresolved(numerical(tmp_path, initial_condition=drawn, grid={"n": [16]}))
    assert found is not None
    assert found["got"] > UNRESOLVED
    assert f"{100 * found['got']:.2g} % away" in found["message"]
    assert "points between the 16 of the request would show it" in found["message"]
    assert unresolved(numerical(tmp_path, initial_condition=drawn, grid={"n": [512]})) is None


def test_a_given_state_is_measured_by_every_second_point(tmp_path: Path) -> None:
    """A wave of 15 cycles is seen at 32 points, and mistaken for one of a single cycle at 16."""
    found = unresolved(numerical(tmp_path, initial_condition=wave(15)))
    assert found is not None
    assert found["got"] == pytest.approx(np.sqrt(2.0), rel=0.05)
    assert "every second of its points would show it half as well" in found["message"]
    assert unresolved(numerical(tmp_path, initial_condition=wave(2))) is None


def test_nothing_is_said_where_nothing_is_measured(tmp_path: Path) -> None:
    """Of an odd number of points there is no half; a model answers for its own; some equations have no others."""
    assert unresolved(numerical(tmp_path, initial_condition=wave(15, 33))) is None
    assert unresolved(planned(tmp_path, model="persistence", initial_condition=wave(15))) is None
    assert unresolved(numerical(tmp_path, family="incompressible_ns_2d", grid={"n": [8, 8]})) is None
    assert unresolved(numerical(tmp_path, initial_condition=wave(15), output_resolution=[64])) is None
