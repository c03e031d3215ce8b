import numpy as np
import pytest

from ups_server.data.splits import FRACTIONS, Split, few_shot_split, held_out_split, split_rows
from ups_server.errors import UserError


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
