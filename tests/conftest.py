"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# Before any test imports torch: spinning OpenMP threads on a busy machine are tens of times slower than one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def pdebench() -> Path:
    """The folder of PDEBench's own files beside the checkout; skips where it is absent."""
    folder = REPOSITORY.parent / "shared" / "pdebench"
    if not folder.is_dir():
        pytest.skip("PDEBench's files (../shared/pdebench) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random language model, in the Hugging Face layout."""
    from tests.small_models import write_language_model

    return write_language_model(tmp_path_factory.mktemp("language"))
