"""Files that do not explain themselves: what is proposed for them, and what is read through the proposal."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from scipy.io import savemat

from tests.cases import ups
from tests.files.examined import examined
from tests.mapped_files import FRAMES, LAYOUTS, POINTS, TIMES, Layout, waves
from ups_server.data.check import check_file
from ups_server.data.formats import open_source
from ups_server.data.inspect import inspect
from ups_server.data.mapped import onto_cells
from ups_server.data.mapping import Mapping
from ups_server.data.store import Store
from ups_server.data.writer import transcode
from ups_server.errors import UserError
from ups_server.pde import Grid

Output = pytest.CaptureFixture[str]


def proposed(path: Path, layout: Layout) -> dict[str, object]:
    found = inspect(path)
    assert found.layout == layout.recognised
    assert found.mapping is not None
    assert found.yaml is not None
    assert yaml.safe_load(found.yaml) == found.mapping
    said = {finding.entry.partition(".")[0] for finding in found.findings}
    assert said >= {"equation", "fields", "axes", "time", "space", "boundary"}
    return {**found.mapping, **layout.changes}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_by_every_entrance(name: str, tmp_path: Path, capsys: Output) -> None:
    layout, path = LAYOUTS[name], tmp_path / name
    values = layout.write(path)
    document = proposed(path, layout)
    mapping = Mapping.from_document(document)
    with open_source(path, mapping=mapping) as source:
        channels = [source.fields.index(entry.name) for entry in mapping.fields]
        np.testing.assert_array_equal(source.read(range(len(values)))[..., channels], values)
        np.testing.assert_array_equal(source.read([2 % len(values)], [4, 1], 2, 1), values_at(values, channels))
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(document))
    words = ["--map", str(tmp_path / "mapping.yaml")]
    assert ups("data", "check", str(path), "--json", "--no-probe", *words) == 0
    assert json.loads(capsys.readouterr().out)["usable"] == len(values)
    assert ups("data", "convert", str(path), str(tmp_path / "out.npz"), *words) == 0
    with np.load(tmp_path / "out.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["data"], values)
    if not layout.folder:
        found = examined(path, tmp_path, mapping=document)
        assert found.result.problem is None, found.result.problem
        with Store.open(found.output / "store") as store:
            np.testing.assert_array_equal(store.read(range(len(values))), values)


def values_at(values: np.ndarray, channels: list[int]) -> np.ndarray:
    """The second and fifth frame, the later first, of every second point from the second on."""
    row = values[2 % len(values)][[4, 1]]
    space = (slice(1, None, 2),) * (values.ndim - 3)
    return np.asarray(row[(slice(None), *space, channels)][None])


def test_an_upload_without_a_mapping_is_refused_with_a_proposal(tmp_path: Path) -> None:
    path = tmp_path / "burgers_shock.mat"
    LAYOUTS[path.name].write(path)
    problem = examined(path, tmp_path).result.problem
    assert problem is not None
    assert (problem.code, problem.proposal) == ("not_hdf5", inspect(path).yaml)


def test_the_proposal_for_burgers_shock(tmp_path: Path) -> None:
    path = tmp_path / "burgers_shock.mat"
    LAYOUTS[path.name].write(path)
    found = inspect(path)
    assert found.mapping is not None
    assert found.mapping["space"] == {"x": {"array": "x", "points": "ends", "onto": POINTS}}
    assert found.mapping["boundary"] == [["dirichlet", "dirichlet"]]
    assert (found.mapping["axes"], found.mapping["segments"]) == (["x", "time"], 5)
    with open_source(path, mapping=Mapping.from_document(found.mapping)) as source:
        assert (source.grid, len(source.times)) == (Grid((POINTS,), ((-1.0, 1.0),)), 8)
        decay = np.exp(-source.times)[:, None]
        np.testing.assert_allclose(source.read([0])[0, ..., 0], np.sin(np.pi * source.grid.axes[0]) * decay, atol=2e-3)
        np.testing.assert_array_equal(source.read([1], [2], 3, 1)[0, 0], source.read([1])[0, 2, 1::3])
    on_nodes = Mapping.from_document({**found.mapping, "space": {"x": {"array": "x", "points": "ends"}}})
    with open_source(path, mapping=on_nodes) as source:
        assert (source.grid.closed, source.grid.extent) == ((True,), ((-1.0, 1.0),))
        assert (len(source.times), source.n_trajectories) == (8, 5)
        with transcode(source, tmp_path / "store", {}) as store:
            assert store.grid == source.grid


def test_a_box_that_begins_at_zero_is_the_rounder_one(tmp_path: Path) -> None:
    """PDEArena's points are the centres of cells: 1, 3, ..., 31 fill [0, 32], and are not nodes of [1, 31]."""
    path = tmp_path / "arena.h5"
    values = LAYOUTS[path.name].write(path)
    found = inspect(path).mapping
    assert found is not None
    assert {axis["points"] for axis in found["space"].values()} == {"cells"}
    with open_source(path, mapping=Mapping.from_document(found)) as source:
        assert source.grid == Grid(values.shape[2:4], ((0.0, 32.0), (0.0, 32.0)))


def test_a_time_too_many_is_found_all_the_same(tmp_path: Path) -> None:
    t = np.append(TIMES, TIMES[-1] + 0.25)
    path = plain(tmp_path / "a.mat", u=waves()[..., 0], t=t, x=np.arange(POINTS) / POINTS)
    found = inspect(path).mapping
    assert found is not None
    assert (found["axes"], found["time"]) == (["trajectory", "time", "x"], {"array": "t"})
    with open_source(path, mapping=Mapping.from_document(found)) as source:
        np.testing.assert_array_equal(source.times, TIMES)


def test_from_nodes_onto_cells() -> None:
    x, middle = np.linspace(0, 1, 9), (np.arange(12) + 0.5) / 12
    expected = [middle**3 - middle, middle]
    np.testing.assert_allclose(onto_cells(np.stack([x**3 - x, x]), 1, 12), expected, atol=1e-12)


def plain(path: Path, **arrays: np.ndarray) -> Path:
    savemat(path, arrays, appendmat=False)
    return path


MAPPING = {
    "equation": {"id": "mine", "name": "mine", "equation": "u_t = 0"},
    "fields": [{"name": "u", "array": "u"}],
    "axes": ["trajectory", "time", "x"],
    "time": {"array": "t"},
    "space": {"x": {"array": "x", "points": "nodes"}},
    "boundary": [["periodic", "periodic"]],
}


def refused(path: Path, **changes: object) -> UserError:
    with pytest.raises(UserError) as caught, open_source(path, mapping=Mapping.from_document({**MAPPING, **changes})):
        pass
    return caught.value


def test_times_that_are_not_equally_spaced_are_refused_with_their_steps(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.mat", u=waves()[..., 0], t=TIMES**2, x=np.arange(POINTS) / POINTS)
    error = refused(path)
    assert error.code == "not_uniform"
    assert "0.0625 to 0.5625" in error.message
    assert error.got == [0.0625, 0.1875, 0.3125, 0.4375, 0.5625]
    assert "onto: N" in (error.hint or "")
    found = inspect(path)
    assert any("0.0625 to 0.5625" in finding.why for finding in found.findings if finding.entry == "time")


@pytest.mark.parametrize("shape", [(0,), (0, 3), (FRAMES, 0)])
def test_times_and_coordinates_of_no_numbers_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = plain(tmp_path / "file.npz", u=waves()[..., 0], t=TIMES, x=np.arange(POINTS), none=np.zeros(shape))
    assert refused(path, time={"array": "none"}).code == "wrong_axis"
    assert refused(path, space={"x": {"array": "none", "points": "cells"}}).code == "wrong_axis"
    assert inspect(path).mapping is not None


@pytest.mark.parametrize("equation", [{}, {"symbols": "u_t = nu*u_xx", "equation": None}])
def test_coefficients_of_no_numbers_are_refused(equation: dict[str, object], tmp_path: Path) -> None:
    path = plain(tmp_path / "a.mat", u=waves()[..., 0], t=TIMES, x=np.arange(POINTS) / POINTS, nu=np.zeros(0))
    said = {"coefficients": {"nu": {"array": "nu"}}, **equation}
    assert refused(path, **said).code == "wrong_attribute"


def test_a_netcdf_file_whose_dimensions_have_no_names_is_read_without_a_warning(tmp_path: Path) -> None:
    values = waves()
    with h5py.File(tmp_path / "plain.nc", "w") as file:
        file.attrs["_NCProperties"] = "version=2,h5netcdf=1.0"
        file["u"], file["t"] = values[..., 0], TIMES
    mapping = inspect(tmp_path / "plain.nc").mapping
    assert mapping is not None
    with open_source(tmp_path / "plain.nc", mapping=Mapping.from_document(mapping)) as source:
        np.testing.assert_array_equal(source.read(range(len(values))), values)


def test_a_mapping_is_a_file_or_its_text(tmp_path: Path, capsys: Output) -> None:
    path = plain(tmp_path / "a.mat", u=waves()[..., 0], t=TIMES, x=np.arange(POINTS) / POINTS)
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(MAPPING))
    told = []
    for said in (str(tmp_path / "map.yaml"), json.dumps(MAPPING), yaml.safe_dump(MAPPING)):
        assert ups("data", "check", str(path), "--map", said, "--no-probe", "--json") == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1] == told[2]
    assert ups("data", "check", str(path), "--map", "absent.yaml") == 2
    assert ups("data", "check", str(path), "--map", "{fields: [}") == 2


def test_unequal_times_are_interpolated_on_request(tmp_path: Path, capsys: Output) -> None:
    """Exactly, for polynomials of third degree; the report says that it was done."""
    t, x = np.sqrt(np.arange(12)), np.arange(POINTS) / POINTS
    u = np.stack([(1 + row) * (t**3 - 2 * t)[:, None] + x for row in range(2)])
    path = plain(tmp_path / "a.mat", u=u, t=t, x=x)
    document = {**MAPPING, "time": {"array": "t", "onto": 20}, "segments": 2}
    with open_source(path, mapping=Mapping.from_document(document)) as source:
        every = np.linspace(0, np.sqrt(11), 20)
        expected = np.stack([(1 + row) * (every**3 - 2 * every)[:, None] + x for row in range(2)]).reshape(4, 10, -1)
        np.testing.assert_allclose(source.times, every[:10])
        np.testing.assert_allclose(source.read(range(4))[..., 0], expected, rtol=1e-6, atol=1e-5)
        np.testing.assert_array_equal(source.read([3], [7, 1], 2, 1), source.read([3])[:, [7, 1], 1::2])
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(document))
    assert ups("data", "check", str(path), "--no-probe", "--map", str(tmp_path / "mapping.yaml")) == 0
    assert "12 frames interpolated to 20 at equal steps" in capsys.readouterr().out
    few = plain(tmp_path / "b.mat", u=u[:, :3], t=t[:3], x=x)
    assert refused(few, time={"array": "t", "onto": 20}).code == "wrong_axis"


def test_a_periodic_axis_with_both_ends_loses_the_repeated_one(tmp_path: Path) -> None:
    values = np.concatenate([waves()[..., 0], waves()[:, :, :1, 0]], axis=2)
    path = plain(tmp_path / "a.mat", u=values, t=TIMES, x=np.linspace(0, 1, POINTS + 1))
    space = {"x": {"array": "x", "points": "ends"}}
    with open_source(path, mapping=Mapping.from_document({**MAPPING, "space": space})) as source:
        assert (source.grid.n, source.grid.closed, source.grid.offset) == ((POINTS,), (False,), (0.0,))
        np.testing.assert_array_equal(source.read(range(4)), waves())


def test_coefficients_by_row_and_by_hand(tmp_path: Path) -> None:
    numbers = np.array([0.1, 0.2, np.nan, 0.4])
    path = plain(tmp_path / "a.mat", u=waves()[..., 0], t=TIMES, x=np.arange(POINTS) / POINTS, nu=numbers)
    said = {"nu": {"array": "nu"}, "k": {"value": 2.0}}
    mapping = Mapping.from_document({**MAPPING, "coefficients": said})
    report = check_file(path, mapping=mapping, probed=False)
    assert report.coefficients == {"nu": (0.1, 0.4), "k": (2.0, 2.0)}
    assert [group.rows for group in report.left_out] == [(2,)]
    assert refused(path, coefficients={"nu": {"attribute": "nu"}}).code == "wrong_attribute"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"axes": ["trajectory", "x", "time"]}, "wrong_axis"),
        ({"axes": ["time", "x"]}, "wrong_shape"),
        ({"fields": [{"name": "u", "array": "v"}]}, "missing_dataset"),
        ({"time": {"array": "nowhere"}}, "missing_dataset"),
        ({"space": {"x": {"array": "x", "points": "nodes", "high": 2.0}}}, "wrong_axis"),
        ({"segments": 4}, "wrong_shape"),
        ({"equation": None, "family": "burgers"}, "missing_coefficient"),
    ],
)
def test_what_does_not_fit_is_said(changes: dict[str, object], code: str, tmp_path: Path) -> None:
    path = plain(tmp_path / "a.mat", u=waves()[..., 0], t=TIMES, x=np.arange(POINTS) / POINTS)
    assert refused(path, **changes).code in (code, "coefficient_missing")


@pytest.mark.parametrize(
    "changes",
    [
        {"boundary": None},
        {"family": "burgers"},
        {"axes": ["trajectory", "time"]},
        {"axes": ["trajectory", "time", "x", "component"]},
        {"time": {"array": "t", "step": 1.0}},
        {"time": {"step": 1.0, "onto": 8}},
        {"space": {"y": {"array": "x"}}},
        {"space": {"x": {"low": 0.0}}},
        {"unknown": 1},
    ],
)
def test_a_mapping_that_contradicts_itself(changes: dict[str, object]) -> None:
    with pytest.raises(UserError) as caught:
        Mapping.from_document({**MAPPING, **changes})
    assert caught.value.code == "invalid_mapping"


def test_a_family_by_its_own_box(tmp_path: Path) -> None:
    x = (np.arange(POINTS) + 0.5) / POINTS
    path = plain(tmp_path / "a.mat", u=waves()[..., 0], t=TIMES, x=x)
    said = {"equation": None, "family": "advection", "boundary": None, "space": {"x": {"array": "x"}}}
    mapping = Mapping.from_document({**MAPPING, **said, "coefficients": {"beta": {"value": 1.0}}})
    with open_source(path, mapping=mapping) as source:
        assert (source.family, source.grid.extent, source.coefficients[0, 0]) == ("advection", ((0.0, 1.0),), 1.0)
    moved = plain(tmp_path / "b.mat", u=waves()[..., 0], t=TIMES, x=2 * x)
    assert refused(moved, **said, coefficients={"beta": {"value": 1.0}}).code == "wrong_axis"


def test_the_table_of_the_documentation_has_every_layout_and_no_other(repository: Path) -> None:
    text = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    _, _, table = text.partition("| Layout | Found by |\n|---|---|\n")
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.partition("\n\n")[0].splitlines()]
    assert sorted(rows) == sorted(layout.name for layout in LAYOUTS.values())
