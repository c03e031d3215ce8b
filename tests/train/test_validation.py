"""The verdict on an adaptation is what the figures say."""

import math
from typing import Any

import pytest

from ups_server.errors import UserError
from ups_server.train.validation import outcome, overfitted, verdict

PERSISTENCE = (0.1, 1.0)


def scores(one_step: float, rollout: float, persistence: tuple[float, float] | None = PERSISTENCE) -> dict[str, Any]:
    """As `FileScores.as_dict` has them, as far as they are read."""
    figures: dict[str, Any] = {
        part: {key: value if math.isfinite(value) else None, "finite": math.isfinite(value)}
        for part, key, value in (("one_step", "nrmse", one_step), ("rollout", "nrmse_trajectory", rollout))
    }
    return figures if persistence is None else {**figures, "persistence": scores(*persistence, persistence=None)}


@pytest.mark.parametrize(
    ("tuned", "helps", "overfit", "mentions"),
    [
        ((0.01, 0.1), True, False, ["Tuning helped", "0.05 to 0.01"]),
        ((0.06, 0.1), False, False, ["Tuning did not help", "0.05 to 0.06"]),
        ((0.2, 0.1), False, True, ["no better than persistence in one-step", "overfitted"]),
        ((0.2, 3.0), False, False, ["persistence in one-step and rollout"]),
    ],
)
def test_verdict(tuned: tuple[float, float], helps: bool, overfit: bool, mentions: list[str]) -> None:
    figures = {"zero_shot": (0.05, 0.5), "base": (0.05, 0.5), "tuned": tuned, "persistence": PERSISTENCE}
    text = verdict(figures, True, overfit)
    assert all(mention in text for mention in mentions), text
    assert ("overfitted" in text) == overfit
    assert text.startswith("Tuning helped") == helps


def test_like_is_compared_with_like() -> None:
    """Zero-shot scores of an unknown family have other statistics; the same weights with the new ones are the base."""
    zero_shot, before = scores(0.05, 0.5), scores(0.02, 0.3)
    same = outcome(zero_shot, before, before, [], moved=False)
    assert (same["helped"], same["kept"], same["tuned"]) == (False, "base", same["base"])
    better = outcome(zero_shot, before, scores(0.01, 0.2), [], moved=True)
    assert (better["helped"], better["kept"]) == (True, "tuned")
    assert "0.02 to 0.01" in better["verdict"]
    worse_than_zero_shot = outcome(scores(0.005, 0.1), before, scores(0.01, 0.2), [], moved=True)
    assert (worse_than_zero_shot["helped"], worse_than_zero_shot["kept"]) == (False, "tuned")
    assert "statistics of each initial state alone" in worse_than_zero_shot["verdict"]


def test_the_better_weights_are_kept() -> None:
    found = outcome(scores(0.026, 0.2), scores(0.026, 0.2), scores(0.18, 0.9), [], moved=True)
    assert (found["helped"], found["kept"]) == (False, "base")
    assert found["tuned"] == found["zero_shot"]
    assert found["rejected"]["one_step"]["nrmse"] == 0.18
    assert "0.026 to 0.18" in found["verdict"]
    diverged = outcome(scores(0.026, 0.2), scores(0.026, 0.2), scores(math.inf, math.inf), [], moved=True)
    assert diverged["kept"] == "base"
    with pytest.raises(UserError) as caught:
        outcome(scores(0.1, math.inf), scores(0.1, math.inf), scores(0.05, math.inf), [], moved=True)
    assert caught.value.code == "not_finite"


def test_overfitting_is_an_error_that_grows_again() -> None:
    assert not overfitted([{"one_step": value} for value in (0.5, 0.1, 0.11)])
    assert overfitted([{"one_step": value} for value in (0.5, 0.1, 0.2)])
    assert overfitted([{"one_step": 0.1}, {"one_step": None}])
    assert not overfitted([])
