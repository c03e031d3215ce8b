import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from ups_server.data.draw import CoefficientDraw


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
