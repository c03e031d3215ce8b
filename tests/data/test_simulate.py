"""Draws, and stores and files of reference solutions: reproducible, resumable, killed or not."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from ups_server.data import simulate as build
from ups_server.data.formats import open_source
from ups_server.data.formats.pdebench.card import card_of
from ups_server.data.simulate import (
    CoefficientDraw,
    Draw,
    SameAs,
    build_store,
    complete_draws,
    complete_kinds,
    draw_table,
    generate,
    pick_kind,
)
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, family
from ups_server.pde import evolution as solver
from ups_server.pde.family import Family
from ups_server.pde.registry import families

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


def test_log_uniform() -> None:
    drawn = CoefficientDraw(low=1e-3, high=0.5).sample(np.random.default_rng(0), 4000)
    low, high = np.log(1e-3), np.log(0.5)
    assert stats.kstest(np.log(drawn), "uniform", (low, high - low)).pvalue > 1e-3


def test_gaps_are_never_drawn_and_the_rest_is_uniform() -> None:
    draw = CoefficientDraw(low=0.0, high=4.0, scale="linear", gaps=((1.0, 2.0), (1.5, 3.0)))
    drawn = draw.sample(np.random.default_rng(1), 4000)
    assert not ((drawn > 1.0) & (drawn < 3.0)).any()
    squeezed = np.where(drawn >= 3.0, drawn - 2.0, drawn)
    assert stats.kstest(squeezed, "uniform", (0.0, 2.0)).pvalue > 1e-3


def test_a_share_lies_at_given_values() -> None:
    drawn = CoefficientDraw(low=0.1, high=4.0, also=(0.4, 1.0), also_share=0.5).sample(np.random.default_rng(2), 4000)
    for value in (0.4, 1.0):
        assert abs((drawn == value).mean() - 0.25) < 0.03


def test_a_fixed_value() -> None:
    assert (CoefficientDraw.fixed(-0.3).sample(np.random.default_rng(3), 5) == -0.3).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"low": 2.0, "high": 1.0},
        {"low": 0.0, "high": 1.0, "scale": "log"},
        {"low": 1.0, "high": 2.0, "gaps": [[0.5, 3.0]]},
        {"low": 1.0, "high": 2.0, "gaps": [[1.2, 1.4]], "also": [1.3]},
        {"low": 1.0, "high": 2.0, "also_share": 1.5},
        {"low": 1.0, "high": 2.0, "step": 3},
    ],
)
def test_contradictions_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CoefficientDraw.model_validate(settings)


def test_a_coefficient_may_be_the_same_as_another() -> None:
    gas = family("compressible_ns_1d")
    draws = complete_draws(gas, {"Zeta": SameAs(same_as="Eta"), "eta": CoefficientDraw(low=1e-3, high=0.3)})
    assert list(draws) == ["eta", "zeta"]
    table = draw_table(draws, seed=3, rows=range(20))
    np.testing.assert_array_equal(table[:, 0], table[:, 1])
    assert len(set(table[:, 0])) == 20
    alone = complete_draws(gas, {"eta": CoefficientDraw(low=1e-3, high=0.3)})
    np.testing.assert_array_equal(draw_table(alone, seed=3, rows=range(20))[:, 0], table[:, 0])


@pytest.mark.parametrize(
    ("draws", "code"),
    [
        ({"zeta": SameAs(same_as="eta")}, "invalid_draw"),
        ({"eta": SameAs(same_as="zeta"), "zeta": SameAs(same_as="eta")}, "invalid_draw"),
        ({"eta": CoefficientDraw(low=-1.0, high=1.0, scale="linear")}, "coefficient_out_of_domain"),
        ({"nu": 0.1}, "unknown_coefficient"),
        ({"eta": 0.1, "Eta": 0.2}, "coefficient_given_twice"),
    ],
)
def test_draws_that_do_not_fit_the_family_are_refused(draws: dict[str, Draw | float], code: str) -> None:
    with pytest.raises(UserError) as caught:
        complete_draws(family("compressible_ns_1d"), draws)
    assert caught.value.code == code


def test_kinds_are_picked_by_their_shares() -> None:
    rng = np.random.default_rng(0)
    picked = [pick_kind(rng, {"rand": 3.0, "turb": 1.0, "none": 0.0}) for _ in range(4000)]
    assert abs(picked.count("turb") / 4000 - 0.25) < 0.03
    assert "none" not in picked


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        ({"rand": -1.0, "turb": 2.0}, "invalid_draw"),
        ({"turb": 0.0}, "invalid_draw"),
        ({"shock": 1.0}, "unknown_initial_kind"),
        ({"kh": 1.0}, "boundary_not_supported"),
    ],
)
def test_kinds_that_do_not_fit_the_family_are_refused(kinds: dict[str, float], code: str) -> None:
    with pytest.raises(UserError) as caught:
        complete_kinds(family("compressible_ns_2d"), kinds)
    assert caught.value.code == code
    assert complete_kinds(family("compressible_ns_2d"), {}) == {"rand": 1.0}


CHANNEL = BoundaryCondition(((BoundaryKind.PERIODIC,) * 2, (BoundaryKind.OUTFLOW,) * 2))


@pytest.mark.parametrize("name", [name for name in families() if card_of(name) is not None])
def test_files_hold_the_reference_solution(tmp_path: Path, name: str) -> None:
    equation = family(name)
    span = min(equation.t_final, 4 * equation.dt)
    path = generate(equation, {}, 3, 32, tmp_path / "file.h5", 5, frame_dt=equation.dt, t_final=span)
    source = open_source(path)
    values, stored = source.read(range(3)), source.read_static(range(3))
    static = None if stored is None else stored.astype(np.float64)
    columns = {c.name: np.full(3, c.default) for c in equation.coefficients}
    again = equation.solve(values[:, 0].astype(np.float64), source.times, source.grid, columns, static)
    assert np.allclose(again, values, atol=2e-3 * np.abs(values).max())
    source.close()


def test_the_same_seed_shares_initial_states_across_coefficients(tmp_path: Path) -> None:
    frames = []
    for beta in (0.4, 4.0):
        source = open_source(generate(family("advection"), {"beta": beta}, 3, 32, tmp_path / f"{beta}.h5", 5))
        frames.append(source.read(range(3)))
        source.close()
    assert np.array_equal(frames[0][:, 0], frames[1][:, 0])
    assert not np.array_equal(frames[0][:, 1], frames[1][:, 1])


def test_coefficients_drawn_per_trajectory_are_in_the_file(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    draw = {"beta": CoefficientDraw(low=0.1, high=4.0)}
    path = generate(family("advection"), draw, 40, 32, tmp_path / "file.h5", 5, lambda *numbers: calls.append(numbers))
    assert calls == [(32, 40), (40, 40)]
    source = open_source(path)
    table = source.coefficients[:, 0]
    assert len(np.unique(table)) == 40
    initial, later = source.read(range(40), [0, 100])[..., 0].astype(np.float64).swapaxes(0, 1)
    k = np.arange(17)
    turn = np.exp(-2j * np.pi * k * table[:, None])
    assert np.allclose(np.fft.rfft(initial)[:, 1:4] * turn[:, 1:4], np.fft.rfft(later)[:, 1:4], atol=1e-2)
    source.close()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"count": 0}, "invalid_count"),
        ({"coefficients": {"nu": 1.0}}, "unknown_coefficient"),
        ({"out": "no/such/folder/file.h5"}, "not_found"),
    ],
)
def test_files_that_cannot_be_generated(tmp_path: Path, change: dict[str, object], code: str) -> None:
    given = {"coefficients": {}, "count": 1, "resolution": 16, "out": tmp_path / "f.h5", "seed": 0, **change}
    with pytest.raises(UserError) as caught:
        generate(family("advection"), **given)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_a_family_without_published_layout(wave: Family, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        generate(wave, {}, 1, 16, tmp_path / "f.h5", 0)
    assert caught.value.code == "no_layout"


GENERATE = """
import sys
from ups_server.data import simulate as build
from ups_server.data import simulate as generate
from ups_server.pde import family

build.SHARD_BYTES = 1
generate.BATCH = 4
generate.generate(family("diffusion_reaction_2d"), {}, 60, 16, sys.argv[1], 3, t_final=0.2,
                  progress=lambda done, total: print(done, flush=True))
"""


def test_a_killed_run_goes_on_and_the_file_is_the_same(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-c", GENERATE]
    whole, killed = tmp_path / "whole.h5", tmp_path / "killed.h5"
    subprocess.run([*command, str(whole)], cwd=repository, check=True, capture_output=True)
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.PIPE, text=True, cwd=repository)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 12:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert not killed.exists()
    again = subprocess.run([*command, str(killed)], cwd=repository, check=True, capture_output=True, text=True)
    assert int(again.stdout.split()[0]) > 4
    assert killed.read_bytes() == whole.read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"whole.h5", "killed.h5"}


def test_an_interrupted_run_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(family("advection"), {}, 40, 16, tmp_path / "f.h5", 0, stop)
    with pytest.raises(UserError) as caught:
        generate(family("advection"), {}, 40, 16, tmp_path / "f.h5", 1)
    assert caught.value.code == "store_exists"
    generate(family("advection"), {}, 40, 16, tmp_path / "f.h5", 0)
    assert [file.name for file in tmp_path.iterdir()] == ["f.h5"]


@pytest.mark.slow
def test_several_workers_write_the_same_file(tmp_path: Path) -> None:
    for workers in (1, 2):
        generate(family("advection"), {}, 70, 32, tmp_path / f"{workers}.h5", 0, workers=workers)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


def test_shocks_between_zero_gradients_are_what_the_file_says(tmp_path: Path) -> None:
    gas, opened = family("compressible_ns_1d"), BoundaryCondition.uniform(BoundaryKind.OUTFLOW, 1)
    draw: dict[str, float | Draw] = {"eta": CoefficientDraw(low=1e-3, high=0.3), "zeta": SameAs(same_as="eta")}
    made = generate(
        gas, draw, 4, 64, tmp_path / "shocks.h5", 2, frame_dt=0.05, t_final=0.1, kinds={"shock": 1.0}, boundary=opened
    )
    source = open_source(made)
    assert source.boundary == opened
    np.testing.assert_array_equal(source.coefficients[:, 0], source.coefficients[:, 1])
    first = source.read(range(4), [0])[:, 0]
    # Of every quantity there are two values.
    assert all(len(np.unique(state[:, field])) == 2 for state in first for field in range(3))
    coefficients = {"eta": source.coefficients[:, 0], "zeta": source.coefficients[:, 1]}
    again = gas.under(opened).solve(first.astype(np.float64), source.times, source.grid, coefficients)
    np.testing.assert_allclose(again, source.read(range(4)), rtol=1e-3, atol=1e-3)
    source.close()


def test_a_store_has_kinds_by_their_shares(tmp_path: Path) -> None:
    water = family("shallow_water")
    built = build_store(water, {}, 24, 16, 1, tmp_path / "dams", t_final=0.01, kinds={"rand": 1.0, "dams": 1.0})
    first = built.read(range(24), [0])[:, 0]
    usual = [set(np.unique(state)) <= {1.0, 2.0} for state in first]
    assert 6 < sum(usual) < 18
    assert built.manifest.provenance["kinds"] == {"rand": 1.0, "dams": 1.0}
    plain = build_store(water, {}, 24, 16, 1, tmp_path / "plain", t_final=0.01)
    assert "kinds" not in plain.manifest.provenance
    np.testing.assert_array_equal(plain.read(range(24), [0])[usual, 0], first[usual])


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"kinds": {"kh": 1.0}}, "boundary_not_supported"),
        ({"kinds": {"shock": 1.0}}, "unknown_initial_kind"),
        ({"boundary": BoundaryCondition.uniform(BoundaryKind.NO_SLIP, 2)}, "boundary_not_supported"),
    ],
)
def test_what_files_or_solvers_cannot_hold_is_refused(tmp_path: Path, settings: dict[str, Any], code: str) -> None:
    with pytest.raises(UserError) as caught:
        generate(family("compressible_ns_2d"), {}, 1, 16, tmp_path / "file.h5", 0, **settings)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_a_channel_has_no_word_in_pdebench_but_a_text(tmp_path: Path) -> None:
    gas = family("compressible_ns_2d")
    made = generate(gas, {}, 1, 64, tmp_path / "kh.h5", 0, t_final=0.05, kinds={"kh": 1.0}, boundary=CHANNEL)
    source = open_source(made)
    assert source.boundary == CHANNEL
    source.close()
