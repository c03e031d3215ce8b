from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.cases import ups
from tests.pdebench_files import static_of, values_of, write
from ups_server.data import check
from ups_server.data import source as source_module
from ups_server.data.check import check_file, report_text
from ups_server.data.formats import open_source
from ups_server.data.simulate import generate
from ups_server.data.store import Store
from ups_server.data.writer import transcode
from ups_server.errors import UserError
from ups_server.pde import family


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return generate(family("advection"), {"beta": 0.7}, 4, 32, tmp_path / "file.h5", 3)


def test_a_good_file(file: Path) -> None:
    report = check_file(file)
    assert report.ok
    assert (report.family, report.trajectories, report.usable) == ("advection", 4, 4)
    assert report.coefficients == {"beta": (0.7, 0.7)}
    assert report.dt == pytest.approx(0.01)
    assert report.frames == 201
    with h5py.File(file) as content:
        values = content["tensor"][:]
    assert report.fields[0].min == values.min()
    assert report.fields[0].mean == pytest.approx(values.mean(), abs=1e-6)
    assert report.axes[0].n == 32
    text = report_text(report)
    assert "advection" in text
    assert text.endswith("  ok")


def test_the_report_is_json(file: Path) -> None:
    report = check_file(file)
    assert type(report).model_validate_json(report.model_dump_json()) == report


def test_values_that_are_not_finite(file: Path) -> None:
    with h5py.File(file, "a") as content:
        content["tensor"][2, 3, 4:6] = np.nan
        content["tensor"][3, 0, 0] = np.inf
    report = check_file(file)
    assert not report.ok
    assert report.usable == 2
    assert report.unusable_rows == (2, 3)
    assert report.fields[0].not_finite == 3
    assert report.problems == ("u holds 3 values that are not finite",)
    assert "NOT ok" in report_text(report)
    source = open_source(file)
    with pytest.raises(UserError) as caught:
        transcode(source, file.with_name("store"))
    assert caught.value.code == "non_finite"
    source.close()


def test_a_file_without_one_finite_value(file: Path) -> None:
    with h5py.File(file, "a") as content:
        content["tensor"][:] = np.nan
    report = check_file(file)
    assert report.usable == 0
    assert report.fields[0].min is None
    assert "no finite value" in report_text(report)


def test_negative_concentrations(tmp_path: Path) -> None:
    path = generate(family("diffusion_reaction_1d"), {}, 2, 32, tmp_path / "file.h5", 3)
    assert check_file(path).ok
    with h5py.File(path, "a") as content:
        content["tensor"][0, 5, 5] = -0.1
    assert check_file(path).problems == ("u must not be negative and is at 1 points",)


def test_ragged_groups_are_a_problem_of_the_rest(tmp_path: Path) -> None:
    path = generate(family("diffusion_sorption"), {}, 3, 32, tmp_path / "file.h5", 3, frame_dt=25.0)
    with h5py.File(path, "a") as content:
        del content["0002/data"]
        content["0002/data"] = np.ones((3, 32, 1), np.float32)
    report = check_file(path)
    assert report.usable == 2
    assert report.unusable_rows == (2,)
    assert "0002" in report.problems[0]


def test_steps_that_do_not_fit_are_noted(tmp_path: Path) -> None:
    path = generate(family("advection"), {}, 2, 32, tmp_path / "file.h5", 3, frame_dt=0.04)
    report = check_file(path)
    assert report.ok
    assert "do not divide" in report.warnings[0]


def test_still_trajectories_are_noted(file: Path) -> None:
    with h5py.File(file, "a") as content:
        content["tensor"][1] = 1.0
    assert check_file(file).warnings == ("1 trajectories do not change in time",)


def test_transcoding_keeps_everything(file: Path) -> None:
    source = open_source(file)
    store = transcode(source, file.with_name("store"), {"file": file.name})
    assert np.array_equal(store.read(range(4)), source.read(range(4)))
    assert np.array_equal(store.coefficients, source.coefficients)
    assert store.grid == source.grid
    assert np.array_equal(store.times, source.times)
    source.close()
    report = check_file(file.with_name("store"))
    assert report.ok
    assert report.layout == "transcoded store"
    assert isinstance(open_source(file.with_name("store"), "advection"), Store)
    with pytest.raises(UserError) as caught:
        open_source(file.with_name("store"), "burgers")
    assert caught.value.code == "family_mismatch"


@pytest.mark.parametrize("limit", [1, 2**20])
def test_transcoding_keeps_static_fields_and_rows_larger_than_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    for function in (source_module.block_rows, source_module.frame_slices):
        monkeypatch.setattr(function, "__defaults__", (limit,))
    source = open_source(write(tmp_path / "file.h5", "incompressible_ns_2d"))
    store = transcode(source, tmp_path / "store")
    assert np.array_equal(store.read(range(3)), values_of("incompressible_ns_2d"))
    static, expected = store.read_static([2, 0]), static_of("incompressible_ns_2d")
    assert static is not None
    assert expected is not None
    assert np.array_equal(static, expected[[2, 0]])
    source.close()
    assert check_file(tmp_path / "store").ok


def test_a_large_file_is_sampled_unless_all_of_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = generate(family("burgers"), {"nu": 0.1}, 7, 32, tmp_path / "large.h5", seed=0)
    monkeypatch.setattr(check, "LARGE_BYTES", 1000)
    monkeypatch.setattr(check, "SAMPLE_BYTES", 1000)
    report = check_file(path, probed=False, whole=False)
    assert (report.trajectories, report.sampled, report.usable, report.ok) == (7, 3, 3, True)
    assert "3 trajectories of 7; `--all` reads every one" in report.warnings[-1]
    assert "7, 3 of them looked at, 3 usable" in report_text(report)
    with h5py.File(path, "a") as file:
        file["tensor"][1] = np.nan
    assert check_file(path, probed=False, whole=False).ok
    assert ups("data", "check", str(path), "--no-probe") == 0
    assert "of them looked at" in capsys.readouterr().out
    assert ups("data", "check", str(path), "--no-probe", "--all") == 2
    with h5py.File(path, "a") as file:
        file.attrs["Nu"] = [0.1, 0.1, 0.1, 0.1, 0.1, -1.0, 0.1]
    assert "1 trajectories not looked at cannot be used" in check_file(path, probed=False, whole=False).problems[0]
