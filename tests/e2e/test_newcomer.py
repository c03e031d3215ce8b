"""The newcomer's way through the page, on small models: every step of it, in one visit."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.api.conftest import RunningService
from tests.e2e.newcomer import Visit, walk

pytestmark = pytest.mark.slow


def test_from_the_first_rollout_to_a_model_of_ones_own(page: Page, site: RunningService, burgers_file: Path) -> None:
    page.emulate_media(reduced_motion="no-preference")
    file = burgers_file.with_name("newcomer_Burgers_Nu0.1.hdf5")
    file.write_bytes(burgers_file.read_bytes())
    visit = Visit(file, "burgers", "tiny", trajectories=4, training_steps=6, tuning="full")
    steps = list(walk(page, site.url, visit))
    assert len(steps) == 7
    named = [step.name for step in steps if step.picture]
    assert named == ["first-rollout", "own-file", "adaptation", "adapted", "own-rollout"]
