"""A small model that adaptations start from."""

from pathlib import Path

import pytest

from tests.small_models import write_parent


@pytest.fixture(scope="module")
def parent(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parent(tmp_path_factory.mktemp("models") / "tiny", language_model)
