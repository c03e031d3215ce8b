"""Steps of a training on each device there is: on an accelerator in bfloat16, close to those of the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.test_run import Recorder, recipe
from ups_server.train import run
from ups_server.train.config import TrainConfig
from ups_server.train.run import TrainingRun

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"), id="cuda")
CLOSE = {"cpu": 0.0, "cuda": 0.05}
"""Largest relative difference from the CPU's losses: bfloat16 has eight bits."""


def curve(language_model: Path, folder: Path, device: str) -> list[float]:
    """Losses of every step of both stages, without noise, which devices draw differently."""
    config = recipe(
        language_model,
        stage1={"steps": 4, "alignment": "mmd", "warmup": 2, "unroll": [[0.0, 1], [0.5, 2]]},
        stage2={"steps": 2, "body": True, "warmup": 1},
        validate_every=100,
    )
    recorder = Recorder()
    TrainingRun(TrainConfig.model_validate(config), folder, recorder, device).train()
    assert len(recorder.reports) == 6
    assert not any(report.skipped for report in recorder.reports)
    return [loss for report in recorder.reports for loss in report.losses.values()]


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_losses_are_those_of_the_cpu(
    language_model: Path, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LOG_EVERY", 1)
    expected = curve(language_model, tmp_path / "expected", "cpu")
    found = curve(language_model, tmp_path / device, device)
    np.testing.assert_allclose(found, expected, rtol=CLOSE[device])
