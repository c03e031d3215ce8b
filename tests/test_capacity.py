"""The simulation of `benchmarks/capacity.py` beside queueing theory and a real run, and the page with its figures."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.capacity import BLOCK, CLIENTS, Costs, Scenario, costs_of, simulate, steady, tables

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return dict(json.loads((REPOSITORY / "benchmarks/capacity.json").read_text(encoding="utf-8")))


def repairmen(clients: int, pause_s: float, service_s: float) -> float:
    """Answers a second of one exponential server with so many clients, each with an exponential pause (M/M/1//N)."""
    weights = [math.perm(clients, n) * (service_s / pause_s) ** n for n in range(clients + 1)]
    return (1 - weights[0] / sum(weights)) / service_s


@pytest.mark.parametrize("clients", [2, 10, 40])
def test_an_exponential_server_answers_as_many_as_theory_says(clients: int) -> None:
    chance = random.Random(1)
    costs = Costs(request_s=0.1, frame_s=0.0, refusal_s=0.0, step_s={1: 0.0})
    scenario = Scenario(clients, 1.0, engines=1, sites=1, steps=1, most_rows=1)
    outcome = simulate(
        scenario, costs, 3000.0, 100.0, api_time=lambda mean: chance.expovariate(1 / mean) if mean else 0.0
    )
    expected = repairmen(clients, 1.0, 0.1)
    assert len(outcome.latencies) / outcome.seconds == pytest.approx(expected, rel=0.02)
    assert np.mean(outcome.latencies) == pytest.approx(clients / expected - 1.0, rel=0.05), "Little's law"
    assert outcome.api_s / outcome.seconds == pytest.approx(expected * 0.1, rel=0.02)


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_a_constant_server_has_them_wait_as_long_as_theory_says(busy: float) -> None:
    """Pollaczek and Khinchine's formula for M/D/1; many clients with long pauses are nearly a Poisson stream."""
    service_s, clients = 0.1, 2000
    costs = Costs(request_s=0.0, frame_s=0.0, refusal_s=0.0, step_s={1: service_s})
    pause_s = clients * service_s / busy
    scenario = Scenario(clients, pause_s, engines=1, sites=1, steps=1, most_rows=1)
    outcome = simulate(scenario, costs, 4000.0, 3 * pause_s)
    waits = float(np.mean(outcome.latencies)) - service_s
    assert waits == pytest.approx(busy * service_s / (2 * (1 - busy)), rel=0.08)


def test_engines_share_and_batches_pay() -> None:
    """In saturation an engine makes whole batches, and two make twice as many."""
    costs = Costs(0.0, 0.0, 0.0, {1: 0.1, 4: 0.2})
    rates = []
    for engines in (1, 2):
        outcome = simulate(Scenario(16, 0.0, engines, 1, steps=5, most_rows=4), costs, 200.0, 20.0)
        rates.append(len(outcome.latencies) / outcome.seconds)
        assert outcome.refusals == 0
    assert rates[0] == pytest.approx(4 / (5 * 0.2), rel=0.02)
    assert rates[1] == pytest.approx(2 * rates[0], rel=0.02)


def test_who_finds_every_place_taken_comes_again() -> None:
    costs = Costs(0.0, 0.0, 0.001, {1: 1.0})
    scenario = Scenario(10, 0.0, 1, 1, steps=1, most_rows=1, active=2, queued=1, retry_s=0.5)
    outcome = simulate(scenario, costs, 500.0, 10.0)
    assert len(outcome.latencies) / outcome.seconds == pytest.approx(1.0, rel=0.02), "no place stays empty"
    assert outcome.refusals > len(outcome.latencies)


def test_in_between_a_step_costs_in_proportion() -> None:
    assert [Costs(0, 0, 0, {1: 1.0, 3: 2.0}).step(rows) for rows in (1, 2, 3)] == [1.0, 1.5, 2.0]


def test_a_real_run_answers_what_is_simulated(record: dict[str, Any]) -> None:
    """An API process before engines of a fixed time, as it was measured."""
    for one in record["validation"]:
        assert one["simulated_per_second"] == pytest.approx(one["measured_per_second"], rel=0.2), one


def test_what_is_written_down_is_what_the_simulation_gives(record: dict[str, Any]) -> None:
    assert record["clients"] == CLIENTS
    found = {(one["workload"], one["engines"], one["sites"]): one for one in record["simulated"]}
    scenario = Scenario(CLIENTS, record["pause_s"], 4, 1, 20)
    again = steady(scenario, costs_of(record["measured"]["line"]))
    assert {"workload": "line", **again} == found["line", 4, 1]


def test_the_page_has_these_figures(record: dict[str, Any]) -> None:
    found = BLOCK.search((REPOSITORY / "docs/scale.md").read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == tables(record)
