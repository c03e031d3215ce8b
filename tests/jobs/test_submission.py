"""What is known to be wrong with a job is said before it is queued, without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ups_server.catalog import Catalog
from ups_server.data.simulate import build_store
from ups_server.data.statistics import FamilyStatistics
from ups_server.errors import UserError
from ups_server.jobs.spec import EvaluationSpec, FineTuningSpec
from ups_server.jobs.submission import check_evaluation, check_fine_tuning
from ups_server.model.config import KnownFamily, UPSConfig
from ups_server.pde import family


def known(fields: tuple[str, ...] = ("u",), dt: float = 0.05) -> KnownFamily:
    ones = (1.0,) * len(fields)
    statistics = FamilyStatistics(
        family="burgers", fields=fields, dt=dt, n=32, trajectories=1, mean=ones, std=ones, increment_std=ones,
        min=ones, max=ones,
    )  # fmt: skip
    return KnownFamily(dt=dt, name="B", ndim=1, fields=fields, slots=tuple(range(len(fields))), statistics=statistics)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Five Burgers trajectories on 48 points; models that know Burgers, other fields, another step, or nothing."""
    store = tmp_path / "files" / "burgers" / "store"
    build_store(family("burgers"), {"nu": 0.1}, 5, 48, 0, store, frame_dt=0.05, t_final=0.2)
    plane = tmp_path / "files" / "plane" / "store"
    build_store(family("diffusion_reaction_2d"), {}, 5, 16, 0, plane, frame_dt=0.05, t_final=0.1)
    models = {
        "knows": UPSConfig(resolution=48, families={"burgers": known()}),
        "other": UPSConfig(resolution=48, families={"burgers": known(("u", "v"))}),
        "slower": UPSConfig(resolution=48, families={"burgers": known(dt=0.1)}),
        "nothing": UPSConfig(resolution=48),
        "coarser": UPSConfig(resolution=32),
        "adapters": UPSConfig(resolution=48),
        "fno": UPSConfig(resolution=48, operator="fno"),
        "narrow": UPSConfig(resolution=16).changed(slots=1),
    }
    for name, config in models.items():
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        config.changed(name=name).save(folder)
    (tmp_path / "models" / "adapters" / "adapter.json").write_text(json.dumps({"base": {"id": "knows"}}))
    return tmp_path


def tuned(data_dir: Path, model: str = "nothing", **changes: Any) -> None:
    document = {"training_file": "burgers", "n_trajectories": 3, **changes}
    spec = FineTuningSpec.model_validate_json(json.dumps(document))
    check_fine_tuning(spec, Catalog(data_dir, data_dir / "none").model(model), data_dir)


def evaluated(data_dir: Path, model: str, **changes: Any) -> None:
    spec = EvaluationSpec(file="burgers", **changes)
    check_evaluation(spec, Catalog(data_dir, data_dir / "none").model(model), data_dir)


def test_what_can_be_done_is_not_refused(data_dir: Path) -> None:
    for model in ("nothing", "knows", "fno"):
        tuned(data_dir, model)
    for model in ("knows", "numerical", "persistence"):
        evaluated(data_dir, model)
    evaluated(data_dir, "knows", dt=0.1, resolution=24)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"n_trajectories": 4}, "too_few_trajectories"),
        ({"validation_file": "burgers"}, "validation_file_overlaps"),
        ({"training_file": "absent"}, "unknown_file"),
        ({"model": "persistence"}, "not_tunable"),
        ({"model": "slower"}, "dt_mismatch"),
        ({"model": "other"}, "family_mismatch"),
        ({"model": "narrow", "training_file": "plane"}, "superspace_too_small"),
        ({"model": "coarser"}, "resolution_mismatch"),
        ({"model": "adapters", "tuning": "lora"}, "adapted_already"),
        ({"model": "fno", "alignment": "mmd"}, "no_language_model"),
    ],
)
def test_what_cannot_be_tuned(data_dir: Path, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(UserError) as caught:
        tuned(data_dir, **changes)
    assert caught.value.code == code


def test_another_step_comes_with_what_to_do(data_dir: Path) -> None:
    slow = data_dir / "files" / "slow" / "store"
    build_store(family("burgers"), {"nu": 0.1}, 5, 48, 0, slow, frame_dt=0.08, t_final=0.4)
    with pytest.raises(UserError) as caught:
        tuned(data_dir, training_file="slow")
    assert caught.value.code == "dt_mismatch"
    assert "0.05" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("model", "changes", "code"),
    [
        ("nothing", {}, "family_not_in_model"),
        ("knows", {"dt": 0.07}, "dt_mismatch"),
        ("knows", {"resolution": 32}, "resolution_mismatch"),
        ("persistence", {"dt": 0.07}, "dt_mismatch"),
    ],
)
def test_what_cannot_be_evaluated(data_dir: Path, model: str, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(UserError) as caught:
        evaluated(data_dir, model, **changes)
    assert caught.value.code == code


def test_it_takes_no_torch() -> None:
    program = "import sys, ups_server.jobs.submission; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
