"""Random equations: what training sees, and what it never does."""

import math

import numpy as np
import pytest

from ups_server.pde.equation import TERMS, Equation, recognise
from ups_server.pde.families.evolution_1d import (
    ALWAYS_HELD_OUT,
    BURGERS,
    UNSEEN_TERM,
    all_sets,
    draw_coefficients,
    draw_training_coefficients,
    held_out_sets,
    training_sets,
    unseen_coefficients,
)


def test_sets_are_seen_or_held_out_and_never_both() -> None:
    seen, kept = set(training_sets()), set(held_out_sets())
    assert not seen & kept
    assert seen | kept | {names for names in all_sets() if UNSEEN_TERM in names} == set(all_sets())
    assert len(kept) >= 40
    assert len(seen) >= 200
    assert ALWAYS_HELD_OUT in kept
    assert BURGERS in seen
    assert set().union(*seen) == set(TERMS) - {UNSEEN_TERM}
    assert set().union(*kept) == set(TERMS) - {UNSEEN_TERM}


def test_what_training_draws_keeps_the_protocol() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_training_coefficients(rng) for _ in range(3000)]
    assert len({frozenset(found) for found in drawn}) > 200
    for found in drawn:
        Equation.of(found).check()
        assert UNSEEN_TERM not in found
        assert frozenset(found) not in held_out_sets()
        if "forcing" in found:
            continue  # no family has it
        known = recognise(Equation.of(found))
        assert known.family != "diffusion_reaction_1d"
        if known.family == "advection":
            assert not 0.6 <= abs(known.coefficients["beta"]) <= 0.8
        if known.family == "burgers":
            assert not 0.003 <= known.coefficients["nu"] <= 0.006
            assert known.coefficients["nu"] < 0.8


@pytest.mark.parametrize("names", [names for names in all_sets() if len(names) < 3], ids=sorted)
def test_coefficients_lie_in_their_ranges(names: frozenset[str]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = draw_coefficients(rng, names)
        assert set(found) == names
        for name, value in found.items():
            low, high = TERMS[name].magnitude
            assert low <= abs(value) <= high
            assert math.copysign(1, value) in TERMS[name].signs
        Equation.of(found).check()


def test_gaps_of_the_families_that_exist() -> None:
    assert unseen_coefficients(frozenset({"transport"}), {"transport": -0.7})
    assert not unseen_coefficients(frozenset({"transport"}), {"transport": -0.5})
    assert unseen_coefficients(BURGERS, {"self_advection": -1.0, "diffusion": 0.004 / math.pi})
    assert not unseen_coefficients(BURGERS, {"self_advection": -0.5, "diffusion": 0.004 / math.pi})
    assert not unseen_coefficients(BURGERS, {"self_advection": -1.0, "diffusion": 0.01})
