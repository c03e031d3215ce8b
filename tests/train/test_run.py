"""Training end to end on a small model: it learns, and a run killed and resumed is the run left alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ups_server.data.simulate import CoefficientDraw
from ups_server.errors import UserError
from ups_server.model.checkpoint import WEIGHTS_FILE, from_pretrained
from ups_server.solvers.neural import UPSSolver
from ups_server.train.config import Stage, TrainConfig
from ups_server.train.loop import Diverged, StepReport, read_position, schedule, scheduled_unroll
from ups_server.train.run import TrainingRun
from ups_server.train.validation import Score, total

SMALL_MODEL = {"hidden_channels": 8, "n_layers": 2, "n_modes": 12, "tokens": 4, "condition_size": 16, "resolution": 32}


class Recorder:
    def __init__(self) -> None:
        self.reports: list[StepReport] = []
        self.scores: list[dict[str, Score]] = []

    def data(self, family: str, done: int, count: int) -> None:
        pass

    def step(self, stage: int, step: int, steps: int, report: StepReport) -> None:
        self.reports.append(report)

    def validation(self, stage: int, step: int, scores: dict[str, Score], best: bool) -> None:
        self.scores.append(scores)


def recipe(language_model: Path, **changes: Any) -> dict[str, Any]:
    burgers = {"count": 24, "resolution": 32, "frame_dt": 0.05, "coefficients": {"nu": {"low": 0.1, "high": 0.5}}}
    advection = {"count": 24, "resolution": 32, "frame_dt": 0.05, "coefficients": {"beta": {"low": 0.5, "high": 1.0}}}
    batch = {"trajectories": 4, "windows": 2, "validation": 2}
    return {
        "name": "small",
        "model": SMALL_MODEL,
        "families": {"burgers": burgers | batch, "advection": advection | batch},
        "stage1": {"steps": 6, "alignment": "mmd", "noise": 0.01, "warmup": 2, "unroll": [[0.0, 1], [0.5, 2]]},
        "stage2": {"steps": 4, "body": True, "schedule": "linear", "warmup": 1},
        "language_model": str(language_model),
        "validate_every": 3,
        **changes,
    }


def train(config: dict[str, Any], folder: Path, stop_after: int | None = None) -> Recorder:
    recorder, calls = Recorder(), iter(range(10_000))
    run = TrainingRun(
        TrainConfig.model_validate(config),
        folder,
        recorder,
        "cpu",
        cancelled=lambda: stop_after is not None and next(calls) >= stop_after,
    )
    run.train()
    return recorder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in load_file(folder / "state.safetensors").items()
        if name.startswith(("model", "average"))
    }


def test_learns_and_its_model_solves(language_model: Path, tmp_path: Path) -> None:
    stage = {"steps": 60, "learning_rate": 5e-3, "warmup": 5, "alignment": "mmd"}
    recorder = train(recipe(language_model, stage1=stage, validate_every=20), tmp_path)
    first, last = recorder.scores[0], recorder.scores[-1]
    assert last["advection"].one_step < 0.5 * last["advection"].persistence
    assert total(last) < total(first)
    solver = UPSSolver(from_pretrained(tmp_path / "best"))
    assert solver.dt("burgers") == 0.05
    card = solver.model.config.families["burgers"]
    assert 0.1 <= card.coefficients["nu"].low < card.coefficients["nu"].high <= 0.5


@pytest.mark.parametrize("stop_after", [2, 6, 8])
def test_resumed_equals_uninterrupted(language_model: Path, tmp_path: Path, stop_after: int) -> None:
    train(recipe(language_model), tmp_path / "whole")
    train(recipe(language_model), tmp_path / "parts", stop_after)
    interrupted = weights(tmp_path / "parts")
    train(recipe(language_model), tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert interrupted.keys() != whole.keys() or any(not torch.equal(whole[k], interrupted[k]) for k in whole)
    best = [load_file(tmp_path / run / "best" / WEIGHTS_FILE) for run in ("whole", "parts")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


KILLED = """
import sys
from pathlib import Path
import torch
from tests.train.test_run import Recorder
from ups_server.train.config import TrainConfig
from ups_server.train.run import TrainingRun
torch.set_num_threads(1)
config = TrainConfig.model_validate_json(sys.argv[1])
def report():
    print("step", flush=True)
    return False
TrainingRun(config, Path(sys.argv[2]), Recorder(), "cpu", cancelled=report).train()
"""


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 7, 9])
def test_killed_and_resumed_equals_uninterrupted(
    language_model: Path, tmp_path: Path, steps: int, repository: Path
) -> None:
    config = recipe(language_model, save_minutes=0.0)
    train(config, tmp_path / "whole")
    arguments = [sys.executable, "-c", KILLED, json.dumps(config), str(tmp_path / "killed")]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, cwd=repository, env=os.environ | {"PYTHONPATH": "."}
    ) as process:
        assert process.stdout is not None
        for _ in range(steps):
            assert process.stdout.readline() == b"step\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    train(config, tmp_path / "killed")
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_word_embeddings_stay_frozen_and_stage_1_leaves_the_body(language_model: Path, tmp_path: Path) -> None:
    train(recipe(language_model), tmp_path)
    state = load_file(tmp_path / "state.safetensors")
    before = load_file(language_model / "model.safetensors")
    words = "embeddings.word_embeddings.weight"
    torch.testing.assert_close(state[f"model.body.encoder.{words}"], before[words], atol=0, rtol=0)
    layer = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(state[f"model.body.encoder.{layer}"], before[layer])
    train(recipe(language_model, stage2={"steps": 0}), tmp_path / "first")
    first = load_file(tmp_path / "first" / "state.safetensors")
    torch.testing.assert_close(first[f"model.body.encoder.{layer}"], before[layer], atol=0, rtol=0)


def test_warm_start_takes_weights_alone(language_model: Path, tmp_path: Path) -> None:
    train(recipe(language_model), tmp_path / "first")
    none = {"steps": 0}
    init = str(tmp_path / "first" / "best")
    warm = recipe(language_model, init=init, stage1={"steps": 1, "learning_rate": 1e-12, "warmup": 1}, stage2=none)
    train(warm, tmp_path / "second")
    old, new = (from_pretrained(tmp_path / run / "best").operator for run in ("first", "second"))
    torch.testing.assert_close(
        new.state_dict()["embedder.lift.weight"],
        old.state_dict()["embedder.lift.weight"],
        atol=1e-6,
        rtol=0,
    )


def test_random_body_is_random_after_a_warm_start_too(language_model: Path, tmp_path: Path) -> None:
    train(recipe(language_model), tmp_path / "first")
    once = {"steps": 1, "learning_rate": 1e-12, "warmup": 1}
    warm = recipe(language_model, init=str(tmp_path / "first" / "best"), stage1=once, stage2={"steps": 0})
    train(warm | {"random_body": True, "seed": 1}, tmp_path / "random")  # of seed 0 is the language model itself
    old, new = (from_pretrained(tmp_path / run / "best").operator.state_dict() for run in ("first", "random"))
    layer, words = "encoder.layer.0.output.dense.weight", "embeddings.word_embeddings.weight"
    assert (new[f"body.encoder.{layer}"] - old[f"body.encoder.{layer}"]).abs().max() > 0.01
    torch.testing.assert_close(new[f"body.encoder.{words}"], old[f"body.encoder.{words}"], atol=1e-3, rtol=0)


def test_paper_preset_trains_around_a_frozen_body(language_model: Path, tmp_path: Path) -> None:
    model = {"hidden_channels": 8, "n_layers": 2, "n_modes": 4, "tokens": 6, "resolution": 32}
    stage1 = {"steps": 3, "alignment": "mmd", "body": True, "body_learning_rate": 0.0, "warmup": 1}
    config = recipe(language_model, preset="ups-paper", model=model, stage1=stage1, stage2={"steps": 0})
    recorder = train(config, tmp_path)
    assert total(recorder.scores[-1]) < float("inf")
    state, before = load_file(tmp_path / "state.safetensors"), load_file(language_model / "model.safetensors")
    layer = "encoder.layer.0.output.dense.weight"
    torch.testing.assert_close(state[f"model.body.encoder.{layer}"], before[layer], atol=0, rtol=0)


def test_all_of_the_paper_s_model_trains_in_stage_2(language_model: Path, tmp_path: Path) -> None:
    model = {"hidden_channels": 8, "n_layers": 2, "n_modes": 4, "tokens": 6, "resolution": 32}
    stage2 = {"steps": 3, "body": True, "optimiser": "adam", "learning_rate": 1e-2, "body_learning_rate": 1e-2}
    config = recipe(
        language_model, preset="ups-paper", model=model, stage1={"steps": 0}, stage2=stage2 | {"warmup": 0},
        ema=0.0, clip=0.0,
    )  # fmt: skip
    before = TrainingRun(TrainConfig.model_validate(config), tmp_path / "new", Recorder(), "cpu")._initial_model()
    train(config, tmp_path / "run")
    state = load_file(tmp_path / "run" / "state.safetensors")
    same = [name for name, value in before.named_parameters() if torch.equal(state[f"model.{name}"], value)]
    assert same == []
    # Without an average, what is validated are the weights themselves.
    for name, _ in before.named_parameters():
        torch.testing.assert_close(state[f"average.{name}"], state[f"model.{name}"], atol=0, rtol=0)


def test_warm_up_of_a_share_and_a_constant_rate() -> None:
    paper = Stage(steps=100, schedule="linear", warmup_share=0.05)
    rates = [schedule(paper, step, step / 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.8])
    assert rates[5] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01 / 0.95)
    timed = paper.model_copy(update={"steps": 0, "minutes": 10.0})
    assert 0 < schedule(timed, 0, 0.0) < 0.01
    assert schedule(timed, 3, 0.05) == pytest.approx(1.0)
    assert {schedule(Stage(steps=9, schedule="constant", warmup=0), step, step / 9) for step in range(9)} == {1.0}


@pytest.mark.parametrize(("keep", "kept"), [("best", "stage 1, step 60"), ("last", "stage 2, step 4")])
def test_keeps_the_best_model_or_the_last(language_model: Path, tmp_path: Path, keep: str, kept: str) -> None:
    learns = {"steps": 60, "learning_rate": 5e-3, "warmup": 5}
    forgets = {"steps": 4, "learning_rate": 10.0, "warmup": 1}
    config = recipe(language_model, stage1=learns, stage2=forgets, keep=keep, validate_every=1000)
    recorder = train(config, tmp_path)
    assert total(recorder.scores[0]) < total(recorder.scores[1])
    progress = read_position(tmp_path)
    assert progress is not None
    assert progress.best_at == kept


def test_other_configuration_in_the_same_folder_is_refused(language_model: Path, tmp_path: Path) -> None:
    train(recipe(language_model), tmp_path, stop_after=1)
    with pytest.raises(UserError, match="another configuration"):
        train(recipe(language_model, seed=5), tmp_path)


def test_unknown_alignment_is_refused_before_any_data_is_made(language_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="alignment"):
        train(recipe(language_model, stage2={"steps": 1, "alignment": "magic"}), tmp_path / "run")
    assert not (tmp_path / "run" / "data").exists()


def test_gives_up_where_nothing_is_finite(language_model: Path, tmp_path: Path) -> None:
    config = recipe(language_model, stage1={"steps": 40, "noise": float("inf"), "warmup": 1})
    with pytest.raises(Diverged):
        train(config, tmp_path)


def test_faulty_configuration_is_the_user_s_mistake(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "stage1": {"steps": -1}}))
    with pytest.raises(UserError, match=r"train\.yaml"):
        TrainConfig.load(path)


def test_shipped_recipes_keep_the_held_out_values_out(repository: Path) -> None:
    recipes = {
        path.stem: TrainConfig.load(path) for path in (repository / "models" / "ups-mini" / "recipes").glob("*.yaml")
    }
    assert {"01_three_families", "14_deltas_of_advection", "15_burgers_at_256_points"} <= recipes.keys()
    for name, config in recipes.items():
        families = config.families
        assert not {"diffusion_reaction_1d", "diffusion_reaction_2d"} & families.keys(), name
        if "burgers" in families:
            nu = families["burgers"].coefficients["nu"]
            assert isinstance(nu, CoefficientDraw), name
            assert nu.high < 0.8, name
            assert (0.003, 0.006) in nu.gaps, name
        if "advection" in families:
            beta = families["advection"].coefficients["beta"]
            assert isinstance(beta, CoefficientDraw), name
            assert (0.6, 0.8) in beta.gaps, name


def test_schedules() -> None:
    stage = Stage(steps=110, warmup=10, schedule="linear", unroll=((0.0, 1), (0.5, 3)))
    assert [schedule(stage, step, step / 110) for step in (0, 9, 60, 110)] == pytest.approx([0.1, 1.0, 0.5, 0.0])
    assert [scheduled_unroll(stage, step / 110) for step in (0, 54, 55, 109)] == [1, 1, 3, 3]
    cosine = stage.model_copy(update={"schedule": "cosine"})
    assert [schedule(cosine, step, step / 110) for step in (10, 60, 110)] == pytest.approx([1.0, 0.5, 0.0])
