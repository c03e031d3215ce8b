"""Splits depend on the row alone; what is held out is of the same problem, and none of what is trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ups_server.data.simulate import build_store
from ups_server.data.splits import (
    FRACTIONS,
    Split,
    check_agreement,
    check_disjoint,
    few_shot_split,
    held_out_split,
    split_rows,
)
from ups_server.data.store import GridRecord, Store, StoreLayout
from ups_server.data.writer import StoreWriter
from ups_server.errors import UserError
from ups_server.pde import family


def test_splits_are_disjoint_and_complete() -> None:
    parts = [split_rows(5000, split) for split in Split]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(5000))


@pytest.mark.parametrize("split", list(Split))
def test_a_row_keeps_its_split_in_longer_files(split: Split) -> None:
    assert set(split_rows(137, split)) == {row for row in split_rows(5000, split) if row < 137}


@pytest.mark.parametrize("split", list(Split))
def test_fractions_within_four_standard_deviations(split: Split) -> None:
    count, share = 20000, FRACTIONS[split]
    assert abs(len(split_rows(count, split)) - share * count) < 4 * np.sqrt(count * share * (1 - share))


def test_another_seed_is_another_split() -> None:
    assert not np.array_equal(split_rows(1000, Split.TEST, 0), split_rows(1000, Split.TEST, 1))


def test_the_rule_never_changes() -> None:
    """Checkpoints were chosen with it: another rule would leak their training rows into tests."""
    assert split_rows(40, Split.TRAIN)[:8].tolist() == [3, 4, 6, 7, 8, 10, 11, 12]
    assert split_rows(40, Split.VALIDATION).tolist() == [1, 2, 24]
    assert split_rows(40, Split.CALIBRATION).tolist() == [0, 15, 19]
    assert split_rows(40, Split.TEST).tolist() == [5, 9]


def test_few_shot_split_keeps_the_same_rows_apart_in_every_file() -> None:
    split = few_shot_split(100, 10)
    parts = (split.training, split.validation, split.test)
    assert [len(part) for part in parts] == [10, 22, 68]
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    assert set(split.training) <= set(split_rows(100, Split.TRAIN))
    assert set(few_shot_split(100, 5).training) < set(split.training)
    assert len(few_shot_split(1000, 10).validation) == 32
    assert [len(part) for part in vars(few_shot_split(3, 1)).values()] == [1, 1, 1]
    with pytest.raises(UserError, match="one trajectory for validation"):
        few_shot_split(3, 2)


def test_a_second_file_is_held_out_whole() -> None:
    split = held_out_split(100, 10, 20)
    np.testing.assert_array_equal(split.training, few_shot_split(100, 10).training)
    assert [len(part) for part in (split.validation, split.test)] == [5, 15]
    assert sorted(np.concatenate([split.validation, split.test]).tolist()) == list(range(20))
    assert held_out_split(10, 10, 2).training.tolist() == list(range(10))  # all of a file can be trained on
    for sizes, words in (((9, 10, 20), "fewer trajectories"), ((10, 10, 1), "the validation file needs")):
        with pytest.raises(UserError, match=words) as caught:
            held_out_split(*sizes)
        assert caught.value.code == "too_few_trajectories"


LAYOUT = StoreLayout(
    family="burgers",
    fields=("u",),
    grid=GridRecord(n=(8,), extent=((0.0, 1.0),), offset=(0.5,)),
    times=(0.0, 0.05, 0.1),
    boundary=(("periodic", "periodic"),),
    coefficients=("nu",),
)


def stored(path: Path, start: float = 0.0, nu: float = 0.1, **changes: Any) -> Store:
    """Three rows, whose states tell them apart."""
    layout = LAYOUT.model_copy(update=changes)
    with StoreWriter(path, layout) as writer:
        for row in range(3):
            values = np.full(layout.row_shape, start + row, np.float32)
            writer.append(values[None], np.full((1, 1), nu))
    return Store.open(path)


@pytest.fixture
def training(tmp_path: Path) -> Store:
    return stored(tmp_path / "training")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"family": "advection", "coefficients": ("beta",)}, "equation"),
        ({"fields": ("v",)}, "fields"),
        ({"grid": GridRecord(n=(16,), extent=((0.0, 1.0),), offset=(0.5,))}, "number of points"),
        ({"grid": GridRecord(n=(8,), extent=((0.0, 2.0),), offset=(0.5,))}, "extent"),
        ({"grid": GridRecord(n=(8,), extent=((0.0, 1.0),), offset=(0.0,))}, "place of the points"),
        ({"boundary": (("dirichlet", "dirichlet"),)}, "boundary"),
        ({"times": (0.0, 0.1, 0.2)}, "frame spacing"),
    ],
)
def test_another_problem_is_refused(training: Store, tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    other = stored(tmp_path / "other", **changes)
    with pytest.raises(UserError, match=f"in its {named}") as caught:
        check_agreement(training, other)
    assert caught.value.code == "validation_file_mismatch"
    assert caught.value.got != caught.value.expected


def test_rows_frames_coefficients_and_rounding_may_differ(training: Store, tmp_path: Path) -> None:
    rounded = GridRecord(n=(8,), extent=((0.0, float(np.float32(1.0000001))),), offset=(0.5,))
    times = tuple(float(np.float32(0.05 * index)) for index in range(5))
    check_agreement(training, stored(tmp_path / "other", nu=0.2, grid=rounded, times=times))


def test_trajectories_that_are_trained_on_are_not_held_out(training: Store, tmp_path: Path) -> None:
    other = stored(tmp_path / "other", start=2.0)  # its first row is the last one of the training file
    with pytest.raises(UserError) as caught:
        check_disjoint(training, [0, 2], other)
    assert (caught.value.code, caught.value.got) == ("validation_file_overlaps", "1 of 3, the first is row 0")
    check_disjoint(training, [0, 1], other)
    check_disjoint(training, [0, 2], stored(tmp_path / "third", start=2.0, nu=0.2))


def test_so_many_bytes_are_compared(training: Store, tmp_path: Path) -> None:
    one_row = 4 * 8 * len(training.fields)
    check_disjoint(training, [1, 2], training, most_bytes=one_row)
    with pytest.raises(UserError, match="trained on"):
        check_disjoint(training, [1, 2], training, most_bytes=2 * one_row)


def test_a_forcing_of_its_own_makes_another_trajectory(tmp_path: Path) -> None:
    flow = family("incompressible_ns_2d")
    forced = build_store(flow, {}, 2, 8, 0, tmp_path / "flow", frame_dt=0.05, t_final=0.05)
    with pytest.raises(UserError, match="trained on"):
        check_disjoint(forced, [0], forced)
    check_agreement(forced, forced)
