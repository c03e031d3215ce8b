"""Scores of several fields at once, where one of them stands still, and how they read."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from ups_server.evaluation.scores import FileScores, PersistenceScores, one_step_scores, render, rollout_scores
from ups_server.pde.metrics import ErrorMoments, error_moments

FIELDS = ["moving", "still", "large"]


def two_solvers() -> tuple[ErrorMoments, ErrorMoments]:
    """A model half as wrong as persistence on two fields; the third never changes and is hit exactly."""
    rng = np.random.default_rng(0)
    target = rng.normal(size=(3, 4, 8, 6, 3)) * [1.0, 0.0, 100.0] + [0.0, 5.0, 0.0]
    error = rng.normal(size=target.shape) * [0.2, 0.0, 1.0]
    return error_moments(target + error / 2, target), error_moments(target + error, target)


def file_scores() -> FileScores:
    ours, theirs = two_solvers()
    return FileScores(
        file="fields.h5",
        model="half",
        family="three_fields",
        fields=FIELDS,
        coefficients={"nu": 0.1, "beta": [1.0, 2.0, 3.0]},
        dt=0.1,
        resolution=[8, 6],
        trajectories=3,
        steps=4,
        one_step=one_step_scores(ours, theirs, FIELDS),
        rollout=rollout_scores(ours, theirs, FIELDS),
        persistence=PersistenceScores(
            one_step=one_step_scores(theirs, theirs, FIELDS), rollout=rollout_scores(theirs, theirs, FIELDS)
        ),
    )


def test_skill_leaves_out_a_field_that_stands_still() -> None:
    scores = one_step_scores(*two_solvers(), FIELDS)
    assert scores.skill_per_field == {"moving": pytest.approx(0.5), "still": None, "large": pytest.approx(0.5)}
    assert scores.skill == pytest.approx(0.5)


def test_skill_is_null_where_nothing_moves() -> None:
    target = np.ones((2, 3, 4, 1))
    still = error_moments(target, target)
    assert one_step_scores(still, still, ["u"]).skill is None


def test_a_large_field_rules_the_lumped_norm_only() -> None:
    scores = rollout_scores(*two_solvers(), FIELDS)
    assert scores.per_field["moving"] == pytest.approx(0.1, rel=0.1)
    assert scores.per_field["large"] == pytest.approx(0.005, rel=0.1)
    assert scores.nrmse_trajectory == pytest.approx(0.005, rel=0.1)


def test_a_file_without_wave_numbers_of_a_band_is_valid_json() -> None:
    document = json.loads(json.dumps(file_scores().as_dict(), allow_nan=False))
    assert document["one_step"]["frmse_high"] is None
    assert document["one_step"]["finite"] is True


def test_the_table_gives_every_field_a_row() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(render([file_scores()]))
    lines = console.export_text().splitlines()
    assert lines[1].startswith("three_fields, nu=0.1, dt=0.1, n=8x6, 3 trajectories")
    for name in FIELDS:
        assert sum(line.strip().startswith(name) for line in lines) == 4
    assert max(map(len, lines)) <= 80
