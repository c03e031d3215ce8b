from pathlib import Path

import pytest

from tests.small_models import SMALL, make
from ups_server.model.operator import UPSModel


@pytest.fixture(scope="session")
def small(language_model: Path) -> UPSModel:
    return make(SMALL, language_model)
