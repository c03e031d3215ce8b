import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ups_server.data.formats import open_source
from ups_server.data.formats.pdebench.card import card_of
from ups_server.data.simulate import CoefficientDraw, Draw, SameAs, build_store, generate
from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, family
from ups_server.pde.family import Family
from ups_server.pde.registry import families

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
def test_mistakes(tmp_path: Path, change: dict[str, object], code: str) -> None:
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
