"""Evaluation: protocol, definitions (recomputed from the predictions file), JSON, and PDEBench's own files."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console

from ups_server.errors import UserError
from ups_server.evaluation import evaluate as evaluation_input
from ups_server.evaluation.evaluate import evaluate
from ups_server.evaluation.scores import FileScores, render
from ups_server.pde import family
from ups_server.pde.grid import Array
from ups_server.pde.metrics import error_moments, nrmse
from ups_server.solvers.solver import Frames, Problem, Session

BETA = 0.4


def write_advection(path: Path, count: int = 5, n: int = 64, frames: int = 21) -> Path:
    """A file in PDEBench's layout: smooth states, exact solution, frames 0.01 apart, one time too many."""
    grid = family("advection").default_grid(n)
    x, times = grid.axes[0], np.arange(frames) * 0.01
    rng = np.random.default_rng(3)
    phase = x[None, None, :] - BETA * times[None, :, None]
    shift, offset = rng.uniform(size=(2, count, 1, 1))
    tensor = np.sin(2 * np.pi * (phase + shift)) + 0.4 * np.cos(4 * np.pi * phase) + offset
    with h5py.File(path, "w") as file:
        file["tensor"] = tensor.astype(np.float32)
        file["x-coordinate"] = x.astype(np.float32)
        file["t-coordinate"] = (np.arange(frames + 1) * 0.01).astype(np.float32)
        file.attrs["beta"] = BETA
    return path


@pytest.fixture
def advection_file(tmp_path: Path) -> Path:
    return write_advection(tmp_path / "1D_Advection_Sols_beta0.4.hdf5")


@dataclass
class Scaled:
    """Multiplies a state by `factor` in every step; without a one-step protocol where `blind`."""

    factor: float
    blind: bool = False
    own_dt: float | None = None
    name = "scaled"

    def dt(self, family_id: str) -> float:
        if self.own_dt is None:
            raise UserError("family_not_in_model", "never seen", got=family_id)
        return self.own_dt

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        return ScaledSession(self.factor, initial)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        return None if self.blind else truth[:, :-1] * np.float32(self.factor)


@dataclass
class ScaledSession:
    factor: float
    state: Frames

    def step(self) -> Frames:
        with np.errstate(over="ignore", invalid="ignore"):
            self.state = self.state * np.float32(self.factor)
        return self.state


def relative(error: Array, target: Array, axes: tuple[int, ...]) -> Array:
    ratio: Array = np.sqrt((error**2).sum(axis=axes) / (target**2).sum(axis=axes))
    return ratio


def test_persistence_has_skill_one(advection_file: Path) -> None:
    (scores,) = evaluate("persistence", [advection_file])
    assert scores.one_step is not None
    assert scores.one_step.skill == 1
    assert scores.one_step.skill_per_field == {"u": 1}
    assert scores.one_step == scores.persistence.one_step
    assert scores.rollout == scores.persistence.rollout


def test_the_reference_method_is_exact(advection_file: Path) -> None:
    (scores,) = evaluate("numerical", [advection_file])
    assert scores.one_step is not None
    assert scores.one_step.nrmse is not None
    assert scores.one_step.nrmse < 1e-6
    assert scores.rollout.nrmse_trajectory is not None
    assert scores.rollout.nrmse_trajectory < 1e-6


def test_what_was_evaluated_is_said(advection_file: Path) -> None:
    (scores,) = evaluate("persistence", [advection_file], trajectories=3)
    assert scores.file == advection_file.name
    assert (scores.family, scores.coefficients, scores.dt) == ("advection", {"beta": BETA}, 0.05)
    assert (scores.resolution, scores.trajectories, scores.steps, scores.fields) == ([64], 3, 4, ["u"])
    assert len(scores.rollout.per_step) == 4


def test_dt_chooses_the_frames(advection_file: Path) -> None:
    """One persistence step of dt moves a wave by beta dt: the error over the norm of a shifted wave says which."""
    errors = []
    for dt in (0.01, 0.04):
        (scores,) = evaluate("persistence", [advection_file], dt=dt)
        assert scores.steps == round(0.2 / dt)
        assert scores.one_step is not None
        assert scores.one_step.nrmse is not None
        errors.append(scores.one_step.nrmse)
    assert errors[1] == pytest.approx(4 * errors[0], rel=0.02)


@pytest.mark.parametrize("own_dt", [0.02, None])
def test_dt_defaults_to_the_models_and_else_to_the_familys(advection_file: Path, own_dt: float | None) -> None:
    (scores,) = evaluate(Scaled(1.0, own_dt=own_dt), [advection_file])
    assert scores.dt == (own_dt or 0.05)


@pytest.mark.parametrize("dt", [0.015, 0.004, 0.0, -0.05, float("nan"), float("inf")])
def test_dt_must_be_whole_frames(advection_file: Path, dt: float) -> None:
    with pytest.raises(UserError) as caught:
        evaluate("persistence", [advection_file], dt=dt)
    assert caught.value.code == "dt_mismatch"


def test_a_file_that_ends_before_the_first_step_is_refused(advection_file: Path) -> None:
    with pytest.raises(UserError) as caught:
        evaluate("persistence", [advection_file], dt=1.0)
    assert caught.value.code == "too_few_frames"


def test_resolution_subsamples(advection_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.h5"
    (scores,) = evaluate("numerical", [advection_file], resolution=16, predictions=output)
    assert scores.resolution == [16]
    assert scores.one_step is not None
    assert scores.one_step.nrmse is not None
    assert scores.one_step.nrmse < 1e-6  # the waves are resolved, and the grid keeps its offset
    with h5py.File(output) as file, h5py.File(advection_file) as given:
        np.testing.assert_array_equal(file["truth"][..., 0], given["tensor"][:, ::5, ::4])


def test_resolution_must_divide(advection_file: Path) -> None:
    with pytest.raises(UserError) as caught:
        evaluate("persistence", [advection_file], resolution=48)
    assert caught.value.code == "resolution_mismatch"


def test_no_trajectories_is_the_users_mistake(advection_file: Path) -> None:
    with pytest.raises(UserError) as caught:
        evaluate("persistence", [advection_file], trajectories=0)
    assert caught.value.code == "invalid_trajectories"


def recomputed(group: h5py.Group) -> dict[str, object]:
    """Every figure of the issue's table from the predictions alone, straight from the definitions."""
    truth, rolled = group["truth"][()].astype(float), group["rollout"][()].astype(float)
    one_step = group["one_step"][()].astype(float)
    target, space = truth[:, 1:], tuple(range(2, truth.ndim - 1))
    both, whole = (*space, -1), (1, *space)
    stay, first = truth[:, :-1] - target, one_step - target
    later = rolled[:, 1:] - target
    deviation = target - target.mean(axis=space, keepdims=True)
    edge = np.concatenate([first[:, :, :1], first[:, :, -1:]], axis=2)
    spectrum = np.abs(np.fft.rfft(first, axis=2)) / truth.shape[2]
    return {
        "one_step.nrmse": relative(first, target, both).mean(),
        "one_step.per_field.u": relative(first, target, space).mean(),
        "one_step.nrmse_pdebench": relative(first, target, space).mean(),
        "one_step.skill": relative(first, stay, whole).mean(),
        "one_step.vrmse": relative(first, deviation, space).mean(),
        "one_step.rmse": np.sqrt((first**2).mean(axis=space)).mean(),
        "one_step.max": np.abs(first).max(axis=(0, *space)).mean(),
        "one_step.crmse": np.sqrt((first.sum(axis=space) ** 2).mean(axis=0)).mean() / truth.shape[2],
        "one_step.brmse": np.sqrt((edge**2).mean(axis=2)).mean(),
        "one_step.frmse_low": np.sqrt((spectrum[:, :, :4] ** 2).mean(axis=2)).mean(),
        "one_step.frmse_mid": np.sqrt((spectrum[:, :, 4:12] ** 2).mean(axis=2)).mean(),
        "one_step.frmse_high": np.sqrt((spectrum[:, :, 12:] ** 2).mean(axis=2)).mean(),
        "rollout.nrmse": relative(later, target, both).mean(),
        "rollout.nrmse_trajectory": relative(later, target, (*whole, -1)).mean(),
        "rollout.per_field.u": relative(later, target, whole).mean(),
        "rollout.per_step.1": relative(later, target, both).mean(axis=0)[1],
        "rollout.skill": relative(later, truth[:, :1] - target, whole).mean(),
        "persistence.one_step.nrmse": relative(stay, target, both).mean(),
        "persistence.rollout.nrmse": relative(truth[:, :1] - target, target, both).mean(),
    }


def figure(document: object, path: str) -> object:
    for key in path.split("."):
        document = document[int(key)] if isinstance(document, list) else document[key]  # type: ignore[index]
    return document


@pytest.mark.parametrize("batch", [1, 700, 2**22])
def test_every_score_follows_from_the_predictions_file(
    advection_file: Path, tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_input, "BATCH_VALUES", batch)
    output = tmp_path / "predictions.h5"
    (scores,) = evaluate(Scaled(1.05), [advection_file], predictions=output)
    document = scores.as_dict()
    with h5py.File(output) as file:
        assert file["truth"].shape == file["rollout"].shape == (5, 5, 64, 1)
        assert file["one_step"].shape == (5, 4, 64, 1)
        assert list(file.attrs["fields"]) == ["u"]
        assert (file.attrs["dt"], file.attrs["family"]) == (0.05, "advection")
        assert json.loads(file.attrs["coefficients"]) == {"beta": BETA}
        for path, expected in recomputed(file).items():
            assert figure(document, path) == pytest.approx(expected, rel=1e-9), path


def test_several_files_have_a_group_each(advection_file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    second = write_advection(tmp_path / "other" / advection_file.name, count=2)
    third = write_advection(tmp_path / "advection_beta0.4.hdf5", count=3)
    output = tmp_path / "predictions.h5"
    scores = evaluate("persistence", [advection_file, second, third], predictions=output)
    assert [entry.trajectories for entry in scores] == [5, 2, 3]
    with h5py.File(output) as file:
        stem = advection_file.stem
        assert set(file) == {f"{stem}-0", f"{stem}-1", third.stem}
        assert len(file[f"{stem}-1/truth"]) == 2
        assert file[third.stem].attrs["file"] == third.name


def test_a_solver_without_one_step_scores_null(advection_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.h5"
    (scores,) = evaluate(Scaled(1.0, blind=True), [advection_file], predictions=output)
    assert scores.one_step is None
    assert scores.as_dict()["one_step"] is None
    assert scores.persistence.one_step.skill == 1
    with h5py.File(output) as file:
        assert "one_step" not in file


def test_a_diverged_rollout_is_null_in_valid_json(advection_file: Path) -> None:
    (scores,) = evaluate(Scaled(1e14), [advection_file])
    document = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert document["rollout"]["finite"] is False
    assert document["rollout"]["nrmse"] is None
    assert document["rollout"]["nrmse_trajectory"] is None
    assert document["rollout"]["skill"] is None
    assert document["rollout"]["per_step"][0] is not None
    assert document["rollout"]["per_step"][-1] is None
    assert document["one_step"]["finite"] is True
    assert document["persistence"]["rollout"]["finite"] is True


def test_scores_survive_json(advection_file: Path) -> None:
    (scores,) = evaluate("persistence", [advection_file])
    assert FileScores.model_validate(json.loads(json.dumps(scores.as_dict(), allow_nan=False))) == scores


def test_a_failed_evaluation_leaves_no_predictions_file(advection_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.h5"
    with pytest.raises(UserError):
        evaluate("persistence", [advection_file, tmp_path / "absent.hdf5"], predictions=output)
    assert {path.name for path in tmp_path.iterdir()} == {advection_file.name}


def test_an_unwritable_predictions_file_is_the_users_mistake(advection_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        evaluate("persistence", [advection_file], predictions=tmp_path / "no" / "folder.h5")
    assert caught.value.code == "unwritable_file"


def test_progress_counts_trajectories(advection_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_input, "BATCH_VALUES", 2 * 5 * 64)
    seen: list[tuple[str, int, int]] = []
    evaluate("persistence", [advection_file], progress=lambda *call: seen.append(call))
    assert seen == [(advection_file.name, done, 5) for done in (2, 4, 5)]


def test_the_table_names_every_file_and_protocol(advection_file: Path) -> None:
    scores = evaluate(Scaled(1e14), [advection_file]) + evaluate(Scaled(1.0, blind=True), [advection_file])
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(render(scores))
    text = console.export_text()
    assert text.count(advection_file.name) == 2
    for words in ("advection, beta=0.4, dt=0.05, n=64, 5 trajectories", "scaled, 4 steps: diverged", "persistence"):
        assert words in text


PERSISTENCE = {"advection": 0.312, "burgers": 0.200, "diffusion_sorption": 0.089, "diffusion_reaction_1d": 0.046}
"""One-step nRMSE of persistence at 128 points over many trajectories of the benchmark."""


@pytest.mark.parametrize(
    ("family_id", "count", "points"),
    [
        ("advection", 200, 1024),
        pytest.param("burgers", 40, 1024, marks=pytest.mark.slow),
        pytest.param("diffusion_sorption", 40, 1024, marks=pytest.mark.slow),
        ("diffusion_reaction_1d", 100, 256),
    ],
)
def test_persistence_on_our_own_trajectories_is_as_published(family_id: str, count: int, points: int) -> None:
    equation = family(family_id)
    grid = equation.default_grid(points)
    initial = equation.sample_initial(np.random.default_rng(0), count, grid)
    coefficients = {name: np.full(count, value) for name, value in equation.complete(None).items()}
    coefficients |= {"beta": np.full(count, BETA)} if family_id == "advection" else {}
    times = np.arange(round(equation.t_final / equation.dt) + 1, dtype=np.float64) * equation.dt
    truth = equation.solve(initial, times, grid, coefficients)[:, :, :: points // 128]
    assert nrmse(error_moments(truth[:, :-1], truth[:, 1:])).mean() == pytest.approx(PERSISTENCE[family_id], rel=0.25)


FILES = {
    "1D_Advection_Sols_beta0.4.hdf5": ("advection", 0.0965),
    "1D_Burgers_Sols_Nu0.001.hdf5": ("burgers", 0.1108),
    "1D_diff-sorp_NA_NA.h5": ("diffusion_sorption", PERSISTENCE["diffusion_sorption"]),
    "ReacDiff_Nu0.5_Rho1.0_nx256.hdf5": ("diffusion_reaction_1d", PERSISTENCE["diffusion_reaction_1d"]),
}
"""Family and persistence of PDEBench's files. The first two hold two calm trajectories: figures of their own."""


@pytest.mark.parametrize("name", FILES)
def test_persistence_on_the_benchmarks_files(pdebench: Path, name: str) -> None:
    family_id, expected = FILES[name]
    (scores,) = evaluate("persistence", [pdebench / name], resolution=128)
    assert scores.family == family_id
    assert scores.dt == family(family_id).dt
    assert scores.one_step is not None
    assert scores.one_step.nrmse == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("name", FILES)
def test_reference_methods_on_the_benchmarks_files(pdebench: Path, name: str) -> None:
    (scores,) = evaluate("numerical", [pdebench / name])
    assert scores.one_step is not None
    assert scores.one_step.nrmse is not None
    assert scores.one_step.nrmse < 0.001
    assert scores.rollout.nrmse_trajectory is not None
    assert scores.rollout.nrmse_trajectory < 0.005


def test_the_last_state_alone_is_scored(advection_file: Path) -> None:
    """From the first frame, 0.2 before it, by four steps of 0.05; by hand."""
    (scores,) = evaluate(Scaled(0.9, own_dt=0.05), [advection_file], horizon="final")
    with h5py.File(advection_file) as file:
        values = file["tensor"][:].astype(np.float64)
    expected = relative(values[:, 0] * 0.9**4 - values[:, -1], values[:, -1], (1,)).mean()
    assert scores.horizon == "final"
    assert scores.dt == pytest.approx(0.2)
    assert scores.steps == 1
    assert scores.one_step is not None
    for part in (scores.one_step, scores.rollout):
        assert part.nrmse == pytest.approx(float(expected), rel=1e-4)
    still = relative(values[:, 0] - values[:, -1], values[:, -1], (1,)).mean()
    assert scores.persistence.rollout.nrmse == pytest.approx(float(still), rel=1e-4)
    (plain,) = evaluate(Scaled(0.9, own_dt=0.05), [advection_file])
    assert (plain.horizon, plain.steps) == ("step", 4)
    for solver, dt, code in ((Scaled(0.9, own_dt=0.07), None, "dt_mismatch"), (Scaled(0.9), 0.05, "horizon_mismatch")):
        with pytest.raises(UserError) as caught:
            evaluate(solver, [advection_file], dt=dt, horizon="final")
        assert caught.value.code == code


def test_a_steady_family_is_scored_on_its_solution(tmp_path: Path) -> None:
    from ups_server.data.simulate import generate

    file = tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5"
    generate(family("darcy"), {"beta": 1.0}, 3, 16, file, seed=0)
    (solved,) = evaluate("numerical", [file], horizon="final")
    assert solved.one_step is not None
    assert solved.one_step.nrmse == pytest.approx(0, abs=1e-5)
    (still,) = evaluate("persistence", [file], horizon="final")
    assert still.rollout.nrmse == pytest.approx(1)  # nothing is known of the solution before it
    with pytest.raises(UserError) as caught:
        evaluate("numerical", [file])
    assert caught.value.code == "too_few_frames"
    assert "`final`" in str(caught.value.hint)
