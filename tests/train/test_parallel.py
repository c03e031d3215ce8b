"""Several processes, or a batch in several parts, make the steps that one process makes of the whole batch."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file

from tests.train.steps import stage_2
from tests.train.test_run import recipe
from ups_server.errors import UserError
from ups_server.train.config import TrainConfig
from ups_server.train.loop import read_position
from ups_server.train.parallel import ALONE, Processes, joined

CLOSE = 1e-5
STAGE = {"steps": 50, "body": True, "warmup": 2, "noise": 0.01, "unroll": [[0.0, 1], [0.5, 2]]}


def small(language_model: Path, alignment: str, **changes: Any) -> TrainConfig:
    """Trajectories that two processes cannot share equally, and a family that takes part in every other step."""
    document = recipe(language_model, stage2={**STAGE, "alignment": alignment}, **changes)
    document["families"]["burgers"] |= {"trajectories": 3}
    document["families"]["advection"] |= {"every": 2}
    return TrainConfig.model_validate(document)


def environment(repository: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository), "GLOO_SOCKET_IFNAME": "lo"}


def torchrun(count: int, *words: str | Path, cwd: Path, repository: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
    return subprocess.Popen(
        [*command, *map(str, words)], cwd=cwd, env=environment(repository), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def finished(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
@pytest.mark.parametrize("alignment", ["none", "mmd"])
def test_two_processes_equal_one_over_50_steps_of_stage_2(
    language_model: Path, tmp_path: Path, repository: Path, alignment: str
) -> None:
    config = small(language_model, alignment)
    trainer, alone = stage_2(config, tmp_path / "run", 50, ALONE)
    out = tmp_path / "two"
    finished(
        torchrun(
            2,
            "tests.train.steps",
            config.model_dump_json(),
            tmp_path / "run",
            "50",
            out,
            cwd=tmp_path,
            repository=repository,
        )
    )
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["processes"] == 2
    print("largest difference", np.abs(np.array(found["curve"]) - alone).max())
    np.testing.assert_allclose(found["curve"], alone, rtol=0.0, atol=CLOSE)
    after = load_file(out.with_suffix(".safetensors"))
    for name, value in trainer.trained.items():
        torch.testing.assert_close(after[name], value.detach(), rtol=0.0, atol=CLOSE)


@pytest.mark.slow
def test_two_processes_and_then_one_equal_one(language_model: Path, tmp_path: Path, repository: Path) -> None:
    config, out = small(language_model, "mmd"), tmp_path / "two"
    finished(torchrun(2, "tests.train.steps", config.model_dump_json(), tmp_path / "run", "8", out, cwd=tmp_path,
                      repository=repository))  # fmt: skip
    resumed, _ = stage_2(config, tmp_path / "run", 16, ALONE, state=out)
    whole, _ = stage_2(config, tmp_path / "run", 16, ALONE)
    for name, value in whole.trained.items():
        torch.testing.assert_close(resumed.trained[name], value, rtol=0.0, atol=CLOSE)
        torch.testing.assert_close(resumed.average[name], whole.average[name], rtol=0.0, atol=CLOSE)


def test_a_batch_in_parts_makes_the_same_step(language_model: Path, tmp_path: Path) -> None:
    def curve(parts: int) -> list[float]:
        config = small(language_model, "none", stage1={"steps": 0}, accumulate=parts)
        return stage_2(config, tmp_path, 4, ALONE)[1]

    whole = curve(1)
    for parts in (2, 9):
        np.testing.assert_allclose(curve(parts), whole, rtol=1e-9)


def test_what_an_alignment_sees_cannot_be_cut(language_model: Path) -> None:
    with pytest.raises(ValidationError, match="in parts"):
        small(language_model, "mmd", accumulate=2)


def test_shares_are_all_rows_once() -> None:
    for count in (1, 2, 3, 7):
        found = [list(range(7))[share] for share in Processes(0, count).shares(7)]
        assert [row for rows in found for row in rows] == list(range(7))
        assert all(found)
    with pytest.raises(UserError) as caught:
        Processes(0, 8).shares(7)
    assert caught.value.code == "too_many_processes"


def test_without_torchrun_a_process_is_alone() -> None:
    with joined("cpu") as (processes, device):
        assert (processes.count, processes.first, device) == (1, True, "cpu")
        assert not torch.distributed.is_initialized()


def test_a_method_that_draws_as_it_goes_is_for_one_process(language_model: Path, tmp_path: Path) -> None:
    class Two(Processes):
        def wait(self) -> None:
            """The other process of this test is never started."""

    with pytest.raises(UserError) as caught:
        stage_2(small(language_model, "pare"), tmp_path, 1, Two(0, 2))
    assert caught.value.code == "not_distributed"


@pytest.mark.slow
def test_the_command_is_interrupted_and_goes_on_with_another_number(
    language_model: Path, tmp_path: Path, repository: Path
) -> None:
    document = recipe(
        language_model, stage1={"steps": 10, "alignment": "mmd", "warmup": 2}, stage2={"steps": 60, "warmup": 2},
        validate_every=1000, out=str(tmp_path / "out"),
    )  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(document))
    two = torchrun(2, "ups_server.train", file, cwd=tmp_path, repository=repository)
    assert two.stdout is not None
    said = ""
    while "stage 1, step 10" not in said:
        line = two.stdout.readline()
        assert line, said
        said += line
    two.send_signal(signal.SIGTERM)
    said += two.communicate()[0]
    assert "the run was interrupted and its state saved" in said
    run = tmp_path / "runs" / "small"
    reached = read_position(run)
    assert reached is not None
    assert (reached.stage, reached.step < 60) == (1, True)
    command = [sys.executable, "-m", "ups_server.train", str(file)]
    subprocess.run(command, cwd=tmp_path, env=environment(repository), check=True)
    done = read_position(run)
    assert done is not None
    assert (done.stage, done.step) == (1, 60)
    assert (tmp_path / "out" / "config.json").is_file()
