"""The load test of `benchmarks/service.py --load`, small: many clients, a killed engine, nothing unanswered."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.load import fairness, load_test
from tests.serving import serving

MOST_GROWTH = 100 * 2**20


@pytest.mark.slow
def test_nothing_accepted_is_lost_and_no_answer_is_ours_to_blame(tmp_path: Path) -> None:
    with serving(tmp_path, MAX_ACTIVE="1", MAX_QUEUED="0", RETRY_AFTER_S="1") as service:
        found = asyncio.run(load_test(service.url, 16, 8.0, service.process.pid, "persistence", steps=50))
    print(found.record())
    assert found.faults() == []
    assert found.answers[200] > 0
    assert found.retries > 0, "there is one place, and no queue"
    assert found.accepted
    assert found.restarts == 1
    assert found.grown_bytes <= MOST_GROWTH


@pytest.mark.slow
def test_neither_short_nor_long_rollouts_starve(tmp_path: Path) -> None:
    """Four places and a queue of four, asked for by thirty clients of one step and by eight of eight hundred."""
    with serving(tmp_path, MAX_ACTIVE="4", MAX_QUEUED="4", RETRY_AFTER_S="1") as service:
        found = asyncio.run(fairness(service.url, 30, 8, 800, 120.0, "persistence"))
    print(found.record())
    assert len(found.long_s) == 8
    assert len(found.short_s) > 30, "more than one for each client"
