import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from ups_server.data.simulate import (
    CoefficientDraw,
    Draw,
    SameAs,
    complete_draws,
    complete_kinds,
    draw_table,
    pick_kind,
)
from ups_server.errors import UserError
from ups_server.pde import family


def test_log_uniform() -> None:
    drawn = CoefficientDraw(low=1e-3, high=0.5).sample(np.random.default_rng(0), 4000)
    low, high = np.log(1e-3), np.log(0.5)
    assert stats.kstest(np.log(drawn), "uniform", (low, high - low)).pvalue > 1e-3


def test_gaps_are_never_drawn_and_the_rest_is_uniform() -> None:
    draw = CoefficientDraw(low=0.0, high=4.0, scale="linear", gaps=((1.0, 2.0), (1.5, 3.0)))
    drawn = draw.sample(np.random.default_rng(1), 4000)
    assert not ((drawn > 1.0) & (drawn < 3.0)).any()
    squeezed = np.where(drawn >= 3.0, drawn - 2.0, drawn)
    assert stats.kstest(squeezed, "uniform", (0.0, 2.0)).pvalue > 1e-3


def test_a_share_lies_at_given_values() -> None:
    drawn = CoefficientDraw(low=0.1, high=4.0, also=(0.4, 1.0), also_share=0.5).sample(np.random.default_rng(2), 4000)
    for value in (0.4, 1.0):
        assert abs((drawn == value).mean() - 0.25) < 0.03


def test_a_fixed_value() -> None:
    assert (CoefficientDraw.fixed(-0.3).sample(np.random.default_rng(3), 5) == -0.3).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"low": 2.0, "high": 1.0},
        {"low": 0.0, "high": 1.0, "scale": "log"},
        {"low": 1.0, "high": 2.0, "gaps": [[0.5, 3.0]]},
        {"low": 1.0, "high": 2.0, "gaps": [[1.2, 1.4]], "also": [1.3]},
        {"low": 1.0, "high": 2.0, "also_share": 1.5},
        {"low": 1.0, "high": 2.0, "step": 3},
    ],
)
def test_contradictions_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CoefficientDraw.model_validate(settings)


def test_a_coefficient_may_be_the_same_as_another() -> None:
    gas = family("compressible_ns_1d")
    draws = complete_draws(gas, {"Zeta": SameAs(same_as="Eta"), "eta": CoefficientDraw(low=1e-3, high=0.3)})
    assert list(draws) == ["eta", "zeta"]
    table = draw_table(draws, seed=3, rows=range(20))
    np.testing.assert_array_equal(table[:, 0], table[:, 1])
    assert len(set(table[:, 0])) == 20
    alone = complete_draws(gas, {"eta": CoefficientDraw(low=1e-3, high=0.3)})
    np.testing.assert_array_equal(draw_table(alone, seed=3, rows=range(20))[:, 0], table[:, 0])


@pytest.mark.parametrize(
    ("draws", "code"),
    [
        ({"zeta": SameAs(same_as="eta")}, "invalid_draw"),
        ({"eta": SameAs(same_as="zeta"), "zeta": SameAs(same_as="eta")}, "invalid_draw"),
        ({"eta": CoefficientDraw(low=-1.0, high=1.0, scale="linear")}, "coefficient_out_of_domain"),
        ({"nu": 0.1}, "unknown_coefficient"),
        ({"eta": 0.1, "Eta": 0.2}, "coefficient_given_twice"),
    ],
)
def test_draws_that_do_not_fit_the_family_are_refused(draws: dict[str, Draw | float], code: str) -> None:
    with pytest.raises(UserError) as caught:
        complete_draws(family("compressible_ns_1d"), draws)
    assert caught.value.code == code


def test_kinds_are_picked_by_their_shares() -> None:
    rng = np.random.default_rng(0)
    picked = [pick_kind(rng, {"rand": 3.0, "turb": 1.0, "none": 0.0}) for _ in range(4000)]
    assert abs(picked.count("turb") / 4000 - 0.25) < 0.03
    assert "none" not in picked


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        ({"rand": -1.0, "turb": 2.0}, "invalid_draw"),
        ({"turb": 0.0}, "invalid_draw"),
        ({"shock": 1.0}, "unknown_initial_kind"),
        ({"kh": 1.0}, "boundary_not_supported"),
    ],
)
def test_kinds_that_do_not_fit_the_family_are_refused(kinds: dict[str, float], code: str) -> None:
    with pytest.raises(UserError) as caught:
        complete_kinds(family("compressible_ns_2d"), kinds)
    assert caught.value.code == code
    assert complete_kinds(family("compressible_ns_2d"), {}) == {"rand": 1.0}
