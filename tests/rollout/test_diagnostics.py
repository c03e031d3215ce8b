"""Diagnostics of states whose mean, energy and spectrum are known in closed form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rollout.planning import planned, write_card
from ups_server.pde import family
from ups_server.rollout.diagnostics import Diagnosis
from ups_server.rollout.flags import FAR
from ups_server.solvers.limits import Ended
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Frames, rollout


def wave(n: int = 32, amplitude: float = 1.0, mean: float = 0.0, cycles: int = 3) -> Frames:
    """(1, n, 1)"""
    x = (np.arange(n) + 0.5) / n
    return (mean + amplitude * np.sin(2 * np.pi * cycles * x))[None, :, None].astype(np.float32)


def values(states: Frames) -> dict[str, Any]:
    return {"values": states.tolist()}


def test_a_plane_wave_has_its_energy_at_its_wave_number(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, initial_condition=values(wave(mean=0.5)[0]))
    diagnosis = Diagnosis(todo)
    diagnosis.add(todo.initial)
    step = diagnosis.add(wave(amplitude=0.5, mean=0.75))
    assert step["energy"]["u"] == pytest.approx(0.75**2 + 0.125)
    assert step["conserved"]["u"] == {"mean": pytest.approx(0.75), "drift": pytest.approx(0.25)}
    found = diagnosis.summary()
    assert found.energy["u"] == pytest.approx([0.5**2 + 0.5, 0.75**2 + 0.125])
    assert found.conserved["u"].initial == pytest.approx(0.5)
    assert found.conserved["u"].drift == pytest.approx([0.0, 0.25])
    power = np.array(found.spectrum.power["u"])
    assert power.shape == (2, len(found.spectrum.wave_numbers))
    np.testing.assert_allclose(power[:, 3], [0.5, 0.125], rtol=1e-5)
    np.testing.assert_allclose(power.sum(1), found.energy["u"], rtol=1e-6)


def test_advection_conserves_mean_and_energy_and_burgers_loses_energy(tmp_path: Path) -> None:
    for name, keeps in (("advection", True), ("burgers", False)):
        coefficients = {} if keeps else {"nu": 0.5}  # Without fronts inside a cell, which samples do not tell.
        todo = planned(
            tmp_path, model="numerical", family=name, coefficients=coefficients, grid={"n": [128]}, n_steps=6
        )
        diagnosis = Diagnosis(todo)
        diagnosis.add(todo.initial)
        for state in rollout(load("numerical").session(todo.spec.problem, todo.initial), 6):
            diagnosis.add(state)
        found = diagnosis.summary()
        assert np.abs(found.conserved["u"].drift).max() < 1e-6
        energy = np.array(found.energy["u"])
        if keeps:
            np.testing.assert_allclose(energy, energy[0], rtol=1e-5)
        else:
            assert (np.diff(energy) < 0).all()


def test_a_batch_axis_comes_first(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, initial_condition={"sample": {"seed": 1, "count": 2}})
    diagnosis = Diagnosis(todo)
    for _ in range(3):
        diagnosis.add(todo.initial)
    found = diagnosis.summary()
    assert np.shape(found.energy["u"]) == np.shape(found.conserved["u"].drift) == (2, 3)
    assert np.shape(found.spectrum.power["u"]) == (2, 3, len(found.spectrum.wave_numbers))


def test_units_are_those_of_the_box_and_training_is_on_the_familys_own(tmp_path: Path) -> None:
    """u = L v: energies scale with L², distances from training do not change."""
    write_card(tmp_path)
    found = []
    for extent, states in ([[0.0, 1.0]], wave()), ([[0.0, 2.0]], 2 * wave()):
        todo = planned(tmp_path, initial_condition=values(states[0]), grid={"extent": extent})
        diagnosis = Diagnosis(todo)
        found.append(diagnosis.add(todo.initial))
    assert found[1]["energy"]["u"] == pytest.approx(4 * found[0]["energy"]["u"])
    assert found[1]["departure"] == {"u": pytest.approx(found[0]["departure"]["u"])}
    assert found[0]["departure"]["u"] == pytest.approx(np.sqrt(0.5) / 0.5)


def test_a_state_that_leaves_the_training_on_the_way_is_flagged_once(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, initial_condition=values(wave()[0]), save_every=2, n_steps=6)
    diagnosis = Diagnosis(todo)
    for state in (todo.initial, 4 * wave(), 5 * wave()):
        diagnosis.add(state)
    (flag,) = (entry.model_dump() for entry in diagnosis.flags)
    assert (flag["code"], flag["step"], flag["time"]) == ("state_left_trained_range", 2, pytest.approx(0.1))
    training = diagnosis.summary().out_of_distribution
    assert training.flagged is True
    assert training.checked == ["coefficients", "resolution", "states"]
    assert [reason.code for reason in training.reasons] == ["state_left_trained_range"]


def test_what_is_known_before_the_first_step_counts_too(tmp_path: Path) -> None:
    write_card(tmp_path, std=[0.01])
    todo = planned(tmp_path, initial_condition=values(wave()[0]), coefficients={"nu": 0.9})
    codes = [flag.code for flag in todo.flags]
    assert codes == ["coefficient_outside_trained_range", "state_far_from_training"]
    assert todo.flags[1].model_dump()["got"] == pytest.approx(np.sqrt(0.5) / 0.01, rel=1e-5)
    diagnosis = Diagnosis(todo)
    diagnosis.add(todo.initial)
    assert diagnosis.summary().out_of_distribution.flagged is True
    assert np.sqrt(0.5) / 0.01 > FAR


def test_nothing_unusual_and_nothing_known_are_different(tmp_path: Path) -> None:
    write_card(tmp_path)
    for model, flagged in (("small", False), ("numerical", None)):
        todo = planned(tmp_path, model=model, grid={"n": [32]})
        diagnosis = Diagnosis(todo)
        diagnosis.add(todo.initial)
        found = diagnosis.summary().out_of_distribution
        assert found.flagged is flagged
        assert bool(found.checked) == (model == "small")


def test_where_it_stopped(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path)
    diagnosis = Diagnosis(todo)
    diagnosis.add(todo.initial)
    diagnosis.stop(Ended(3, (0,), (1,), "outside_bounds"))
    diagnosis.stop(Ended(2, (0,), (0,)))
    found = diagnosis.summary()
    stopped = found.stopped
    assert stopped is not None
    assert (stopped.step, stopped.fields, stopped.states, stopped.reason) == (2, ["u"], [0], "not_finite")
    assert [(ending.step, ending.states, ending.reason) for ending in found.endings] == [
        (3, [1], "outside_bounds"),
        (2, [0], "not_finite"),
    ]
    assert stopped.time == pytest.approx(0.1)


def test_numbers_beyond_all_bounds_are_null(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, initial_condition=values(1e38 * wave()[0]), grid={"extent": [[0.0, 100.0]]})
    diagnosis = Diagnosis(todo)
    diagnosis.add(todo.initial * 100)
    assert '"energy":{"u":[null]}' in diagnosis.summary().model_dump_json()


def test_a_gas_conserves_momentum_and_energy_beside_mass(tmp_path: Path) -> None:
    todo = planned(tmp_path, model="numerical", family="compressible_ns_1d", grid={"n": [32]}, n_steps=1)
    diagnosis = Diagnosis(todo)
    diagnosis.add(todo.initial)
    names = set(family("compressible_ns_1d").conserved_means(todo.initial))
    assert set(diagnosis.summary().conserved) == names == {"density", "momentum x", "energy"}
