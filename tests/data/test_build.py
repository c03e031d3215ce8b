"""Building stores: reproducible, resumable, killed or not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ups_server.data import simulate as build
from ups_server.data.simulate import CoefficientDraw, build_store
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.pde import evolution as solver
from ups_server.pde import family
from ups_server.pde.family import Family

DRAW = {"beta": CoefficientDraw(low=0.1, high=4.0, gaps=((0.6, 0.8),))}

BUILD = """
import sys
from ups_server.data import simulate as build
from ups_server.data.simulate import CoefficientDraw
from ups_server.pde import family

build.SHARD_BYTES = 1
draw = {"beta": CoefficientDraw(low=0.1, high=4.0, gaps=((0.6, 0.8),))}
build.build_store(family("advection"), draw, 200, 64, 3, sys.argv[1], batch=4,
                  progress=lambda done, total: print(done, flush=True))
"""


def build_here(path: Path, monkeypatch: pytest.MonkeyPatch, workers: int = 1) -> Store:
    monkeypatch.setattr(build, "SHARD_BYTES", 1)
    return build_store(family("advection"), DRAW, 200, 64, 3, path, batch=4, workers=workers)


def test_a_killed_build_resumes_to_the_same_bytes(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_here(tmp_path / "whole", monkeypatch)
    path = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(path)], stdout=subprocess.PIPE, text=True, cwd=repository
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 40:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    finished = {file.name: file.stat().st_mtime_ns for file in path.glob("values-*.f32")}
    assert finished
    with pytest.raises(UserError, match="manifest"):
        Store.open(path)
    resumed = build_here(path, monkeypatch)
    assert resumed.manifest.fingerprint == whole.manifest.fingerprint
    assert all((path / name).stat().st_mtime_ns == written for name, written in finished.items())
    assert not list(path.glob("*.part"))


@pytest.mark.slow
def test_several_workers_build_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = build_here(tmp_path / "one", monkeypatch)
    assert build_here(tmp_path / "two", monkeypatch, workers=2).manifest.fingerprint == alone.manifest.fingerprint


def test_rows_do_not_depend_on_batch_or_count(wave: Family, tmp_path: Path) -> None:
    draw = {"c": CoefficientDraw(low=0.1, high=2.0)}
    few = build_store(wave, draw, 5, 32, 7, tmp_path / "few", batch=2)
    many = build_store(wave, draw, 11, 32, 7, tmp_path / "many", batch=8)
    assert np.array_equal(few.read(range(5)), many.read(range(5)))
    assert np.array_equal(few.coefficients, many.coefficients[:5])


def test_advection_and_burgers_share_initial_states_row_by_row(tmp_path: Path) -> None:
    stores = [
        build_store(family(name), {}, 6, 64, 1, tmp_path / name, frame_dt=0.05, t_final=0.05)
        for name in ("advection", "burgers")
    ]
    first, second = (store.read(range(6), [0]) for store in stores)
    assert np.array_equal(first, second)


def test_a_finished_build_is_opened_and_another_refused(wave: Family, tmp_path: Path) -> None:
    done = build_store(wave, {}, 3, 16, 1, tmp_path / "s")
    calls: list[int] = []
    again = build_store(wave, {}, 3, 16, 1, tmp_path / "s", progress=lambda *numbers: calls.append(numbers[0]))
    assert again.manifest == done.manifest
    assert not calls
    with pytest.raises(UserError) as caught:
        build_store(wave, {}, 3, 16, 2, tmp_path / "s")
    assert caught.value.code == "store_exists"


def test_static_fields_are_stored(relaxation: Family, tmp_path: Path) -> None:
    store = build_store(relaxation, {"a": 2.0}, 3, 16, 1, tmp_path / "s")
    fixed = store.static_view(2)
    assert fixed is not None
    left = np.exp(-2.0 * 0.5)
    values = store.read([2])[0]
    assert np.allclose(values[-1], values[0] * left + fixed * (1 - left), atol=1e-6)


def test_frames_can_be_chosen(wave: Family, tmp_path: Path) -> None:
    store = build_store(wave, {}, 2, 16, 1, tmp_path / "s", frame_dt=0.1, t_final=0.3)
    assert np.allclose(store.times, [0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"draw": {"nu": 1.0}}, "unknown_coefficient"),
        ({"draw": {"c": -1.0}}, "coefficient_out_of_domain"),
        ({"draw": {"c": CoefficientDraw(low=1.0, high=20.0)}}, "coefficient_out_of_domain"),
        ({"draw": {"c": CoefficientDraw(low=1.0, high=2.0, also=(11.0,))}}, "coefficient_out_of_domain"),
        ({"frame_dt": 0.3}, "dt_mismatch"),
        ({"count": 0}, "invalid_count"),
    ],
)
def test_mistakes(wave: Family, tmp_path: Path, settings: dict[str, object], code: str) -> None:
    given: dict[str, object] = {"draw": {}, "count": 2, "resolution": 16, "seed": 0, "path": tmp_path / "s", **settings}
    with pytest.raises(UserError) as caught:
        build_store(wave, **given)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_a_diverging_solution_is_not_stored(wave: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(wave), "solve", lambda *_: np.full((2, 21, 16, 2), np.nan))
    with pytest.raises(UserError) as caught:
        build_store(wave, {}, 2, 16, 0, tmp_path / "s")
    assert caught.value.code == "solver_diverged"


def test_equations_of_random_terms_are_drawn_together(tmp_path: Path) -> None:
    entry = family("evolution_1d")
    store = build_store(entry, {}, 6, 32, 0, tmp_path / "s", batch=3, frame_dt=0.05, t_final=0.05)
    present = store.coefficients != 0.0
    assert (present.sum(axis=1) >= 1).all()
    assert (present.sum(axis=1) <= 4).all()
    assert len(np.unique(present, axis=0)) > 3
    values, static = store.read(range(6)).astype(np.float64), store.read_static(range(6))
    assert static is not None
    columns = {name: store.coefficients[:, index] for index, name in enumerate(store.coefficient_names)}
    again = entry.solve(values[:, 0], store.times, store.grid, columns, static.astype(np.float64))
    np.testing.assert_allclose(again, values, atol=2e-3)


def test_an_equation_whose_solution_leaves_all_bounds_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = family("evolution_1d")
    asked = iter([{"quadratic": 50.0}, {"self_advection": -1.0}, {"transport": -1.0}])
    monkeypatch.setattr(solver, "DOUBLINGS", 1)
    monkeypatch.setattr(type(entry), "sample_coefficients", lambda self, rng: next(asked))
    monkeypatch.setattr(build, "draws_together", lambda *given: True)
    store = build_store(entry, {}, 1, 32, 0, tmp_path / "s", frame_dt=0.5, t_final=0.5)
    assert store.coefficients[0, store.coefficient_names.index("transport")] == -1.0
