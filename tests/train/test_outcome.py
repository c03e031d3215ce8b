"""The verdict on an adaptation is what the figures say."""

import pytest

from ups_server.train.outcome import overfitted, verdict


@pytest.mark.parametrize(
    ("tuned", "helped", "overfit", "mentions"),
    [
        ((0.01, 0.1), True, False, ["Tuning helped", "0.05 to 0.01"]),
        ((0.06, 0.1), False, False, ["Tuning did not help", "0.05 to 0.06"]),
        ((0.2, 0.1), False, True, ["no better than persistence in one-step", "overfitted"]),
        ((0.2, 3.0), False, False, ["persistence in one-step and rollout"]),
    ],
)
def test_verdict(tuned: tuple[float, float], helped: bool, overfit: bool, mentions: list[str]) -> None:
    figures = {"zero_shot": (0.05, 0.5), "tuned": tuned, "persistence": (0.1, 1.0)}
    text = verdict(figures, helped, overfit)
    assert all(mention in text for mention in mentions), text
    assert ("overfitted" in text) == overfit


def test_overfitting_is_an_error_that_grows_again() -> None:
    assert not overfitted([{"one_step": value} for value in (0.5, 0.1, 0.11)])
    assert overfitted([{"one_step": value} for value in (0.5, 0.1, 0.2)])
    assert overfitted([{"one_step": 0.1}, {"one_step": None}])
    assert not overfitted([])
