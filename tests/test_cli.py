"""The command line, as a person at a terminal meets it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from PIL import Image

from ups_server.cli import main
from ups_server.cli.data import parse_draws
from ups_server.cli.options import parse_coefficient_values, parse_coefficients
from ups_server.data.formats import open_source
from ups_server.data.simulate import CoefficientDraw
from ups_server.errors import UserError
from ups_server.pde import families


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


Ups = Callable[..., Ran]


@pytest.fixture
def ups(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ups:
    """Runs a command in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str | Path) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def burgers(ups: Ups, tmp_path: Path) -> Path:
    """A small file made by the command itself."""
    path = tmp_path / "burgers.hdf5"
    made = ups("data", "generate", "burgers", "--coef", "nu=0.02", "-n", "2", "--resolution", "64", "-o", path)
    assert made.code == 0, made.err
    return path


def test_help_starts_quickly_and_without_torch() -> None:
    program = (
        "import sys; from ups_server.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    before = os.times()
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    elapsed = time.perf_counter() - started
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert {"serve", "solve", "evaluate", "train", "data", "families", "models", "jobs", "adapt"} <= set(
        done.stdout.split()
    )
    # On a busy machine the wall clock measures the others.
    processor = after.children_user - before.children_user + after.children_system - before.children_system
    assert min(elapsed, processor) < 1.0


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["serve"], "serve"),
        (["jobs", "list", "--data-dir", "DIR"], "serve"),
        (["keys", "list", "--data-dir", "DIR"], "serve"),
        (["solve", "burgers", "--seed", "1", "--n-steps", "1", "-o", "DIR/a.nc"], "model"),
        (["adapt", "ups-mini", "FILE", "--n-trajectories", "1", "-o", "DIR/tuned"], "train"),
        (["equation", "a dye that spreads"], "model"),
        (["equation", "u_t = 0.1*u_xx"], None),
        (["families", "burgers", "--json"], None),
        (["models", "list", "--data-dir", "DIR"], None),
        (["data", "check", "FILE"], None),
        (["solve", "burgers", "--method", "numerical", "--n-steps", "1", "-o", "DIR/a.nc"], None),
    ],
)
def test_the_base_says_which_extra_a_command_needs(
    words: list[str], extra: str | None, burgers: Path, tmp_path: Path
) -> None:
    (tmp_path / "ups.sqlite").touch()
    words = [word.replace("FILE", str(burgers)).replace("DIR", str(tmp_path)) for word in words]
    program = (
        "import sys; from ups_server.cli import EXTRAS, main\n"
        "sys.modules.update(dict.fromkeys(EXTRAS))  # as if none were installed\n"
        f"main({words!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == (0 if extra is None else 2), done.stderr
    assert extra is None or f"pip install 'ups-server[{extra}]'" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("serve", "solve", "evaluate", "train", "train baseline", "adapt", "families", "data generate", "data check"),
        *("models", "models export", "jobs", "jobs follow", "files", "files upload"),
    ],
)
def test_every_command_has_help(ups: Ups, command: str) -> None:
    shown = ups(*command.split(), "--help")
    assert shown.code == 0
    assert len(shown.out.splitlines()) > 4


def test_version(ups: Ups) -> None:
    assert ups("--version").out.startswith("ups-server ")


def test_families(ups: Ups) -> None:
    assert all(name in ups("families").out for name in families())
    assert "(nu / pi) u_xx" in ups("families", "burgers").out
    listed = json.loads(ups("families", "--json").out)
    assert [entry["id"] for entry in listed] == list(families())
    assert json.loads(ups("families", "burgers", "--json").out)["coefficients"][0]["name"] == "nu"


def test_models(ups: Ups, tmp_path: Path) -> None:
    assert "persistence" in ups("models", "list", "--data-dir", tmp_path).out
    listed = json.loads(ups("models", "list", "--data-dir", tmp_path, "--json").out)
    assert {"numerical", "persistence"} <= {entry["id"] for entry in listed}
    assert json.loads(ups("models", "show", "numerical", "--json").out)["kind"] == "builtin"
    assert "reference solver" in ups("models", "show", "numerical").out


@pytest.mark.parametrize(
    ("words", "mentions"),
    [
        (["families", "heat"], ["heat", "burgers"]),
        (["models", "show", "gpt"], ["gpt", "persistence"]),
        (["models", "delete", "numerical"], ["numerical", "adapted"]),
        (["models", "export", "numerical", "-o", "x.zip"], ["numerical"]),
        (["jobs", "show", "ft-0", "--data-dir", "."], ["no service", "--data-dir"]),
        (["adapt", "ups-mini", ".", "--max-seconds", "0", "--n-trajectories", "2", "-o", "out"], ["max_seconds", "0"]),
        (["adapt", "ups-mini", "absent.h5", "--n-trajectories", "2", "-o", "out"], ["absent.h5"]),
        (["adapt", "ups-mini", ".", "--validation-file", "no.h5", "--n-trajectories", "2", "-o", "out"], ["no.h5"]),
        (["data", "check", "absent.h5"], ["absent.h5"]),
        (["data", "generate", "burgers", "-n", "1", "-o", "nowhere/x.h5"], ["nowhere"]),
        (["data", "generate", "burgers", "-n", "1", "--coef", "nu", "-o", "x.h5"], ["nu=0.001"]),
        (["data", "generate", "burgers", "-n", "1", "--coef", "mu=1", "-o", "x.h5"], ["mu", "nu"]),
        (["data", "generate", "burgers", "-n", "1", "--coef", "nu=-1", "-o", "x.h5"], ["domain"]),
        (["solve", "burgers", "--method", "numerical", "-o", "x.jpg"], [".jpg", ".nc", ".png"]),
        (["solve", "burgers", "--model", "a", "--method", "numerical", "-o", "x.nc"], ["--model", "--method"]),
        (["solve", "burgers", "--method", "numerical", "--dt", "-1", "-o", "x.nc"], ["dt"]),
        (["solve", "burgers", "--method", "numerical", "--initial", "absent.h5", "-o", "x.nc"], ["absent.h5"]),
        (["evaluate", "numerical", "absent.h5"], ["absent.h5"]),
        (["adapt", "ups-line", ".", "--alignment", "mmd", "--n-trajectories", "2", "-o", "out"], ["lead times", "mmd"]),
        (["adapt", "numerical", ".", "--n-trajectories", "2", "-o", "out"], ["numerical", "no weights"]),
        (["train", "absent.yaml"], ["absent.yaml"]),
        (["train", "baseline", "fno", "absent.yaml"], ["absent.yaml"]),
        (["serve", "--host", "0.0.0.0"], ["0.0.0.0", "loopback"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    ups: Ups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], mentions: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = ups(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("ups: ")
    assert len(ran.err.splitlines()) == 1
    assert all(word in ran.err for word in mentions)
    assert not [path for path in tmp_path.iterdir() if path.is_file()], "a mistake leaves no file"


def test_generate_is_reproducible_and_checked(ups: Ups, burgers: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.hdf5"
    ups("data", "generate", "burgers", "--coef", "Nu=0.02", "-n", "2", "--resolution", "64", "-o", again, "--seed", "0")
    report, repeated = (json.loads(ups("data", "check", path, "--json").out) for path in (burgers, again))
    assert report["fields"] == repeated["fields"]
    assert (report["family"], report["trajectories"], report["usable"]) == ("burgers", 2, 2)
    text = ups("data", "check", burgers)
    assert text.code == 0
    assert "nu = 0.02" in text.out


def test_a_file_with_unusable_values_fails_the_check(ups: Ups, burgers: Path) -> None:
    import h5py

    with h5py.File(burgers, "r+") as file:
        file["tensor"][1, 3, 5] = np.nan
    checked = ups("data", "check", burgers)
    assert checked.code == 2
    assert "not finite" in checked.out


def test_evaluate_prints_a_table_and_writes_every_score(ups: Ups, burgers: Path, tmp_path: Path) -> None:
    scores, predictions = tmp_path / "scores.json", tmp_path / "predictions.h5"
    ran = ups(
        *("evaluate", "persistence", burgers, "--resolution", "32", "--trajectories", "1"),
        *("--json", scores, "--predictions", predictions),
    )
    assert ran.code == 0, ran.err
    assert "burgers.hdf5" in ran.out
    (entry,) = json.loads(scores.read_text())
    assert entry["trajectories"] == 1
    assert entry["one_step"]["skill"] == pytest.approx(1.0)
    assert predictions.stat().st_size > 0
    printed = ups("evaluate", "numerical", burgers, "--trajectories", "1", "--json", "-")
    assert json.loads(printed.out)[0]["one_step"]["nrmse"] < 1e-3


def test_evaluate_reads_a_pattern_as_one_file(ups: Ups, burgers: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"part_{number}.hdf5").write_bytes(burgers.read_bytes())
    alone, both = (ups("evaluate", "persistence", path, "--json", "-") for path in (burgers, tmp_path / "part_*.hdf5"))
    assert both.code == 0, both.err
    assert json.loads(both.out)[0]["trajectories"] == 2 * json.loads(alone.out)[0]["trajectories"]
    none = ups("evaluate", "persistence", tmp_path / "absent_*.hdf5")
    assert (none.code, "there is no file" in none.err) == (2, True)


def test_solve_from_a_drawn_state(ups: Ups, tmp_path: Path) -> None:
    path = tmp_path / "wave.nc"
    words = ("solve", "advection", "--coef", "beta=1", "--seed", "3", "--method", "numerical", "--resolution", "64")
    ran = ups(*words, "--n-steps", "20", "-o", path)
    assert ran.code == 0, ran.err
    with xr.open_dataset(path, engine="h5netcdf") as solution:
        assert dict(solution.sizes) == {"time": 21, "x": 64}
        # After one time unit at speed one the wave is back where it was, but for the Nyquist mode.
        np.testing.assert_allclose(solution.u[20], solution.u[0], atol=1e-3)


def test_solve_at_other_points(ups: Ups, burgers: Path, tmp_path: Path) -> None:
    path = tmp_path / "nodes.nc"
    words = ("solve", "advection", "--method", "numerical", "--resolution", "64", "--n-steps", "2", "-o", path)
    for place, first in (("nodes", 0.0), ("0.0625", 0.0625 / 64)):
        ran = ups(*words, "--points", place)
        assert ran.code == 0, ran.err
        with xr.open_dataset(path, engine="h5netcdf") as solution:
            assert float(solution.x[0]) == pytest.approx(first)
    refused = ups(*words, "--points", "edges")
    assert (refused.code, "cells, nodes" in refused.err) == (2, True)
    thinned = ("solve", "burgers", "--method", "numerical", "--initial", burgers, "--resolution", "32", "-o", path)
    assert ups(*thinned, "--n-steps", "1").code == 0
    with xr.open_dataset(path, engine="h5netcdf") as solution:
        assert float(solution.x[0]) == pytest.approx(0.25 / 32)
    refused = ups(*thinned, "--points", "cells")
    assert (refused.code, "the file itself" in refused.err) == (2, True)


def test_solve_says_how_far_it_can_be_trusted(ups: Ups, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    words = ("solve", "burgers", "--method", "persistence", "--resolution", "32", "--n-steps", "3", "-o", out)
    done = ups(*words, "--diagnostics", "--reference")
    assert done.code == 0, done.err
    for line in ("conserved: the mean of u moves by at most 0 ", "expected error: unknown", "true error of u: nRMSE"):
        assert line in done.err
    with xr.open_dataset(out, engine="h5netcdf") as dataset:
        assert len(json.loads(dataset.attrs["reference"])["nrmse"]) == 4
        assert json.loads(dataset.attrs["diagnostics"])["stopped"] is None
    found = json.loads(ups(*words, "--diagnostics", "--reference", "--json").out)
    assert (found["output"], len(found["times"]), len(found["reference"]["nrmse"])) == (str(out), 4, 4)
    refused = ups("solve", "burgers", "--method", "numerical", "-o", out, "--reference")
    assert (refused.code, "reference itself" in refused.err) == (2, True)


def test_solve_an_ensemble(ups: Ups, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    words = ("solve", "advection", "--method", "numerical", "--resolution", "32", "--n-steps", "2")
    done = ups(*words, "--ensemble", "3", "--amplitude", "0.1", "-o", out)
    assert done.code == 0, done.err
    assert "control, mean, spread" in done.err
    with xr.open_dataset(out, engine="h5netcdf") as dataset:
        assert dataset["u"].shape == (6, 3, 32)


def test_solve_on_a_finer_grid(ups: Ups, burgers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    words = ("solve", "burgers", "--method", "numerical", "--n-steps", "2", "-o", out, "--output-resolution")
    done = ups(*words, "100", "--initial", burgers, "--resolution", "32", "--finer-by", "interpolation")
    assert done.code == 0, done.err
    assert "up to 16 cycles per box" in done.err
    with xr.open_dataset(out, engine="h5netcdf") as dataset:
        assert dataset["u"].shape == (3, 100)
    refused = ups(*words, "1o0")
    assert (refused.code, "256x512" in refused.err) == (2, True)


def test_solve_from_a_file_follows_the_file(ups: Ups, burgers: Path, tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "again.npz"
    ran = ups("solve", "burgers", "--method", "numerical", "--initial", burgers, "--trajectory", "1", "-o", path)
    assert ran.code == 0, ran.err
    words = ("solve", "burgers", "--method", "numerical", "--initial", burgers, "--n-steps", "1", "-o")
    spelt = ups(*words, tmp_path / "spelt.npz", "--coef", "viscosity=0.02")
    assert spelt.code == 0, spelt.err
    with np.load(path, allow_pickle=False) as solution, h5py.File(burgers) as file:
        truth = file["tensor"][1, ::5]
        assert np.abs(solution["data"][..., 0] - truth).max() < 1e-3 * np.abs(truth).max()
    missing = ups("solve", "burgers", "--method", "numerical", "--initial", burgers, "--trajectory", "2", "-o", path)
    assert missing.code == 2
    assert "0 to 1" in missing.err


def test_solutions_keep_the_static_fields_of_each_state(ups: Ups, tmp_path: Path) -> None:
    words = ("solve", "darcy", "--method", "numerical", "--resolution", "16", "--n-steps", "1", "--seed", "2")
    for name, more in (("two.h5", ("--count", "2")), ("one.nc", ()), ("spread.npz", ("--ensemble", "2"))):
        ran = ups(*words, *more, "-o", tmp_path / name)
        assert ran.code == 0, ran.err
    with closing(open_source(tmp_path / "one.nc")) as one, closing(open_source(tmp_path / "spread.npz")) as spread:
        alone, members = one.read_static([0]), spread.read_static(range(spread.n_trajectories))
    with h5py.File(tmp_path / "two.h5") as two:
        permeability = two["nu"][()]
    assert alone is not None
    assert members is not None
    np.testing.assert_array_equal(permeability[0], alone[0, ..., 0])
    assert (permeability[1] != permeability[0]).any()
    assert (members == alone).all()


def test_solve_from_a_folder_of_zarr(ups: Ups, burgers: Path, tmp_path: Path) -> None:
    folder = tmp_path / "waves.zarr"
    with closing(open_source(burgers)) as source:
        values, times, x = source.read([0, 1])[..., 0], source.times, source.grid.axes[0]
    coordinates = {"time": times, "x": x, "nu": 0.02}
    written = xr.Dataset({"u": (("trajectory", "time", "x"), values)}, coordinates, {"family": "burgers"})
    written.to_zarr(folder, zarr_format=3, consolidated=False)
    words = ("solve", "burgers", "--method", "numerical", "--n-steps", "1", "--trajectory", "1", "--initial")
    for place, name in ((folder, "zarr.npz"), (burgers, "hdf5.npz")):
        ran = ups(*words, place, "-o", tmp_path / name)
        assert ran.code == 0, ran.err
    with np.load(tmp_path / "zarr.npz") as found, np.load(tmp_path / "hdf5.npz") as expected:
        np.testing.assert_array_equal(found["data"][0, :, 0], values[1, 0])
        np.testing.assert_array_equal(found["data"], expected["data"])


def test_solve_from_a_file_that_needs_a_mapping(ups: Ups, burgers: Path, tmp_path: Path) -> None:
    """The solution is that of the file that explains itself; without the mapping the file is refused."""
    with closing(open_source(burgers)) as source:
        values, times, x = source.read([0, 1])[..., 0], source.times, source.grid.axes[0]
    own, mapping = tmp_path / "own.npz", tmp_path / "mapping.yaml"
    np.savez(own, speed=values.transpose(2, 1, 0), when=times, where=x)
    document = {
        "family": "burgers",
        "fields": [{"name": "u", "array": "speed"}],
        "axes": ["x", "time", "trajectory"],
        "time": {"array": "when"},
        "space": {"x": {"array": "where"}},
        "coefficients": {"nu": 0.02},
    }
    mapping.write_text(json.dumps(document))
    words = ("solve", "burgers", "--method", "numerical", "--n-steps", "1", "--trajectory", "1", "--initial")
    for name, said in (("mapped.npz", (own, "--map", mapping)), ("hdf5.npz", (burgers,))):
        ran = ups(*words, *said, "-o", tmp_path / name)
        assert ran.code == 0, ran.err
    with np.load(tmp_path / "mapped.npz") as found, np.load(tmp_path / "hdf5.npz") as expected:
        np.testing.assert_array_equal(found["data"][0, :, 0], values[1, 0])
        np.testing.assert_array_equal(found["data"], expected["data"])
    without = ups(*words, own, "-o", tmp_path / "none.npz")
    assert (without.code, "header" in without.err) == (2, True)
    alone = ups("solve", "burgers", "--method", "numerical", "--map", mapping, "-o", tmp_path / "none.npz")
    assert (alone.code, "--initial" in alone.err) == (2, True)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".h5", ".json", ".safetensors"])
def test_solve_writes_by_suffix(ups: Ups, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"solution{suffix}"
    words = ("solve", "burgers", "--coef", "nu=0.1", "--method", "numerical", "--resolution", "32", "--n-steps", "4")
    ran = ups(*words, "-o", path)
    assert ran.code == 0, ran.err
    assert path.stat().st_size > 0
    if suffix in {".png", ".gif"}:
        with Image.open(path) as picture:
            assert picture.format == suffix[1:].upper()


def test_coefficients() -> None:
    assert parse_coefficients(["nu=0.001", " rho = 2"]) == {"nu": 0.001, "rho": 2.0}
    assert parse_draws(["nu=0.001:0.1", "rho=1"]) == {"nu": CoefficientDraw(low=0.001, high=0.1), "rho": 1.0}
    for wrong in (["nu"], ["nu=a"], ["nu=1", "nu=2"]):
        with pytest.raises(UserError) as error:
            parse_coefficients(wrong)
        assert error.value.code == "invalid_coefficient"
    with pytest.raises(UserError):
        parse_draws(["nu=2:1"])


def test_coefficients_of_several_states() -> None:
    assert parse_coefficient_values(["nu=0.1,0.2", "rho=2"]) == {"nu": [0.1, 0.2], "rho": 2.0}
    for wrong in (["nu=0.1,"], ["nu=0.1,a"], ["nu=1,2", "nu=3"]):
        with pytest.raises(UserError) as error:
            parse_coefficient_values(wrong)
        assert error.value.code == "invalid_coefficient"


def test_solve_a_batch_with_a_coefficient_for_each_state(ups: Ups, tmp_path: Path) -> None:
    words = ("solve", "burgers", "--method", "numerical", "--resolution", "32", "--n-steps", "2")
    path = tmp_path / "batch.h5"
    ran = ups(*words, "--count", "2", "--coef", "nu=0.02,0.4", "--diagnostics", "-o", path)
    assert ran.code == 0, ran.err
    assert re.search(r"energy of u: \S+ to \S+ at the start", ran.err)
    with closing(open_source(path)) as source:
        assert source.coefficients[:, source.coefficient_names.index("nu")].tolist() == [0.02, 0.4]
    refused = ups(*words, "--coef", "nu=0.02,0.4", "-o", path)
    assert (refused.code, "one value for each state" in refused.err) == (2, True)


def test_points_are_given_alike_everywhere(ups: Ups, burgers: Path, tmp_path: Path) -> None:
    out, flow = tmp_path / "out.nc", tmp_path / "flow.h5"
    assert ups("data", "convert", burgers, out, "--resolution", "32").code == 0
    made = ups("data", "generate", "shallow_water", "-n", "1", "--resolution", "16x16", "-o", flow)
    assert made.code == 0, made.err
    scored = ups("evaluate", "persistence", flow, "--resolution", "8x8", "--json", "-")
    assert json.loads(scored.out)[0]["resolution"] == [8, 8]
    for words in (
        ("data", "generate", "shallow_water", "-n", "1", "--resolution", "16x32", "-o", flow),
        ("evaluate", "persistence", flow, "--resolution", "8x16"),
        ("evaluate", "persistence", flow, "--resolution", "8 x a"),
    ):
        assert ups(*words).code == 2, words


def test_a_family_is_complained_about_before_what_is_missing(ups: Ups) -> None:
    for words in (("data", "generate", "heat"), ("solve", "heat")):
        assert "heat" in ups(*words).err
    assert "no -n and no -o" in ups("data", "generate", "burgers").err


def test_jobs_and_models_of_a_data_folder(ups: Ups, tmp_path: Path) -> None:
    from ups_server.jobs.database import open_database
    from ups_server.jobs.leases import Leases
    from ups_server.jobs.spec import EvaluationSpec
    from ups_server.jobs.store import JobStore

    database = open_database(tmp_path)
    store, leases = JobStore(database), Leases(database)
    first, second = (store.create(EvaluationSpec(model="persistence", file="f"))[0].id for _ in range(2))
    assert first in ups("jobs", "list", "--data-dir", tmp_path).out
    assert json.loads(ups("jobs", "show", first, "--data-dir", tmp_path, "--json").out)["state"] == "queued"
    ups("jobs", "cancel", first, "--data-dir", tmp_path)
    ups("jobs", "resume", first, "--data-dir", tmp_path)
    assert ups("jobs", "checkpoints", first, "--data-dir", tmp_path).code == 2  # an evaluation has none
    states = ["queued", "cancelled", "queued"]
    assert [event.data["state"] for event in store.events(first)[0]] == states
    lease = leases.claim("worker")
    assert lease is not None
    leases.fail(lease, {"code": "dt_mismatch", "status": 422, "detail": "no multiple", "got": 3})
    followed = ups("jobs", "follow", first, "--data-dir", tmp_path)
    assert followed.code == 2
    assert "failed" in followed.err
    assert "no multiple; got 3" in followed.err
    ups("jobs", "cancel", second, "--data-dir", tmp_path)
    assert ups("jobs", "follow", second, "--data-dir", tmp_path).code == 0
    assert "no multiple" in ups("jobs", "show", first, "--data-dir", tmp_path).out
    database.close()


def test_checkpoints_of_a_job(ups: Ups, tmp_path: Path) -> None:
    from ups_server.jobs.database import open_database
    from ups_server.jobs.leases import Leases
    from ups_server.jobs.spec import FineTuningSpec
    from ups_server.jobs.store import JobStore

    database = open_database(tmp_path)
    store, leases = JobStore(database), Leases(database)
    job, _ = store.create(FineTuningSpec(model="m", training_file="f", n_trajectories=2))
    lease = leases.claim("worker")
    assert lease is not None
    for step, error in ((0, 0.5), (5, 0.125), (10, None)):
        scored = {"step": step, "one_step": error, "rollout": error, "best": error is not None}
        leases.event(lease, "validation", scored, f"validation:{step}")
        leases.checkpoint(lease, {"step": step}, f"checkpoint:{step}")
    leases.checkpoint(lease, {"step": 12}, "checkpoint:12")  # between two validations
    words = ("jobs", "checkpoints", job.id, "--data-dir", tmp_path)
    listed = json.loads(ups(*words, "--json").out)
    assert [(entry["step"], entry["one_step"]) for entry in listed] == [(0, 0.5), (5, 0.125), (10, None), (12, None)]
    shown = ups(*words).out
    assert re.search(r"5 \*\s.*0\.125", shown)
    assert shown.count("*") == 1
    database.close()


def test_export_packs_a_model(ups: Ups, tmp_path: Path) -> None:
    import zipfile

    target = tmp_path / "mini.zip"
    assert ups("models", "export", "ups-mini", "-o", target, "--data-dir", tmp_path).code == 0
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        assert {"ups-mini/config.json", "ups-mini/model.safetensors"} <= set(archive.namelist())


def test_solve_an_equation_in_symbols(ups: Ups, tmp_path: Path) -> None:
    out = tmp_path / "own.nc"
    words = ("solve", "--equation", "u_t = -c*u_x + 0.01*u_xx - 2*u", "--coef", "c=0.5", "--method", "numerical")
    said = json.loads(ups(*words, "--resolution", "64", "--n-steps", "2", "-o", out, "--json").out)
    assert said["equation"] == "u_t = -0.5*u_x + 0.01*u_xx - 2*u"
    assert [term["name"] for term in said["terms"]] == ["transport", "diffusion", "decay"]
    solved = xr.load_dataset(out)
    assert solved.u.shape == (3, 64)
    assert solved.attrs["equation"] == said["equation"]
    assert "--equation" in ups("solve", "burgers", "--equation", "u_t = u_xx", "-o", out).err
    assert "character 14" in ups("solve", "--equation", "u_t = u_xx + $", "-o", out).err


def test_say_what_equation_a_text_names(ups: Ups) -> None:
    said = json.loads(ups("equation", "a dye carried to the right that slowly spreads and decays", "--json").out)
    assert [term["name"] for term in said["terms"]] == ["transport", "diffusion", "decay"]
    assert said["equation"].startswith("u_t = -")
    assert (said["unplaced"], said["abstained"]) == ([], False)
    assert "u_t = -u*u_x + 0.1*u_xx" in ups("equation", "u_t + u u_x = nu u_xx", "--coef", "nu=0.1").out
    assert "in other words" in ups("equation", "Who won the match?").err
