"""A small model, and a target of few outlines."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from tests.small_models import SMALL, make
from ups_server.align.text import ReferenceText, reference_text
from ups_server.model.operator import UPSModel


@dataclass(frozen=True)
class FixedTarget:
    ndim: int = 1
    rows: torch.Tensor = field(default_factory=lambda: torch.arange(12.0)[:, None].expand(12, 64) // 3)

    @property
    def text(self) -> ReferenceText:
        return reference_text()

    def outlines(self, count: int) -> torch.Tensor:
        return self.rows


@pytest.fixture
def target() -> FixedTarget:
    """Twelve outlines in four groups of equal ones."""
    return FixedTarget()


@pytest.fixture(scope="package")
def model(language_model: Path) -> UPSModel:
    return make(SMALL, language_model)
