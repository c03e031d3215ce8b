"""A tenth of the soak: `make soak` runs all of it."""

from pathlib import Path

import pytest

from tests.soak.kills import soak


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_random_kills_lose_nothing_and_change_no_bit(tmp_path: Path) -> None:
    found = soak(kills=5, seed=3, folder=tmp_path)
    assert found.kills.total() >= 5
    assert found.fine, found.document()
