"""A generation in parts, killed or not, is what one process makes, byte for byte."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ups_server.cli import main
from ups_server.data import simulate
from ups_server.data.parts import DataPart, merge_file, merge_store, parts_folder
from ups_server.data.simulate import CoefficientDraw, Draw, build_store, generate
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, family
from ups_server.pde.family import Family

OPENED = BoundaryCondition.uniform(BoundaryKind.OUTFLOW, 1)
DRAW: dict[str, float | Draw] = {"beta": CoefficientDraw(low=0.1, high=4.0)}

PART = """
import sys
from ups_server.data import simulate
from ups_server.data.parts import DataPart
from ups_server.pde import family

simulate.SHARD_BYTES, simulate.BATCH = 1, 4
simulate.generate(family("diffusion_reaction_2d"), {}, 36, 16, sys.argv[1], 3, t_final=0.05, part=DataPart(2, 3),
                  progress=lambda done, total: print(done, total, flush=True))
"""


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "SHARD_BYTES", 1)
    monkeypatch.setattr(simulate, "BATCH", 4)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def make_parts(path: Path, *parts: DataPart | None, seed: int = 0, count: int = 16) -> None:
    """Those parts, or the whole where it is None."""
    for part in parts:
        generate(family("advection"), DRAW, count, 16, path, seed, part=part)


@pytest.mark.parametrize("of", [1, 2, 5])
def test_merged_files_have_the_bytes_of_one_command(tmp_path: Path, of: int) -> None:
    whole, merged = tmp_path / "whole.h5", tmp_path / "merged.h5"
    make_parts(whole, None, count=18)
    make_parts(merged, *(DataPart(number, of) for number in reversed(range(1, of + 1))), count=18)
    assert {folder.name for folder in parts_folder(merged).iterdir()} == {
        f"{number + 1}-of-{of}" for number in range(of)
    }
    assert merge_file(merged).read_bytes() == whole.read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"whole.h5", "merged.h5"}


def test_several_datasets_and_another_boundary(tmp_path: Path) -> None:
    whole, merged = tmp_path / "whole.h5", tmp_path / "merged.h5"
    for path, part in ((whole, None), (merged, DataPart(1, 2)), (merged, DataPart(2, 2))):
        generate(
            family("compressible_ns_1d"), {}, 6, 16, path, 2, frame_dt=0.01, t_final=0.02,
            kinds={"shock": 1.0}, boundary=OPENED, part=part,
        )  # fmt: skip
    assert merge_file(merged).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("shard_bytes", [1, 80_000, 2**20])
def test_merged_stores_have_the_bytes_of_one_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relaxation: Family, shard_bytes: int
) -> None:
    """With static fields; shards of a batch, of several that end within a part, and of all."""
    monkeypatch.setattr(simulate, "SHARD_BYTES", shard_bytes)
    whole, merged = tmp_path / "whole", tmp_path / "merged"
    build_store(relaxation, {}, 50, 16, 3, whole, batch=4)
    for number in (1, 2, 3):
        part = DataPart(number, 3)
        build_store(relaxation, {}, 50, 16, 3, part.folder(merged), batch=4, part=part)
    assert merge_store(merged).manifest.count == 50
    assert contents(merged) == contents(whole)
    assert len(list(whole.glob("values-*"))) == {1: 13, 80_000: 5, 2**20: 1}[shard_bytes]


def test_a_merge_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    whole, merged = tmp_path / "whole", tmp_path / "merged"
    build_store(family("advection"), DRAW, 24, 16, 3, whole, batch=4)
    for part in (DataPart(1, 2), DataPart(2, 2)):
        build_store(family("advection"), DRAW, 24, 16, 3, part.folder(merged), batch=4, part=part)

    def stop(done: int, total: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_store(merged, stop)
    with pytest.raises(UserError, match="manifest"):
        Store.open(merged)
    reported: list[int] = []
    merge_store(merged, lambda done, total: reported.append(done))
    assert reported == [20, 24]
    assert contents(merged) == contents(whole)


def test_a_killed_part_goes_on_where_it_was(tmp_path: Path, repository: Path) -> None:
    whole, merged = tmp_path / "whole.h5", tmp_path / "merged.h5"
    command = [sys.executable, "-c", PART, str(merged)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line.split()[0]) >= 4:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    again = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True)
    assert int(again.stdout.split()[0]) > 4
    assert again.stdout.split()[-2:] == ["12", "12"]

    def make(path: Path, part: DataPart | None) -> None:
        generate(family("diffusion_reaction_2d"), {}, 36, 16, path, 3, t_final=0.05, part=part)

    for path, part in ((merged, DataPart(1, 3)), (merged, DataPart(3, 3)), (whole, None)):
        make(path, part)
    assert merge_file(merged).read_bytes() == whole.read_bytes()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with pytest.raises(UserError, match="holds no part"):
        merge_file(path)
    make_parts(path, DataPart(1, 4), DataPart(4, 4))
    with pytest.raises(UserError, match=r"4 to 11 .* are missing"):
        merge_file(path)
    make_parts(path, DataPart(1, 2))
    with pytest.raises(UserError, match=r"0 to 3 .* are there twice"):
        merge_file(path)
    shutil.rmtree(DataPart(1, 4).folder(path))
    with pytest.raises(UserError, match=r"8 to 11 .* are missing"):
        merge_file(path)
    make_parts(path, DataPart(3, 4))
    merge_file(path)
    assert [file.name for file in tmp_path.iterdir()] == ["file.h5"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"count": 24}])
def test_parts_of_different_generations_are_not_merged(tmp_path: Path, change: dict[str, int]) -> None:
    path = tmp_path / "file.h5"
    make_parts(path, DataPart(1, 2))
    make_parts(path, DataPart(2, 2), **change)
    with pytest.raises(UserError) as caught:
        merge_file(path)
    assert caught.value.code == "parts_differ"
    build_store(family("advection"), DRAW, 4, 16, 0, DataPart(2, 2).folder(tmp_path / "other.h5"))
    with pytest.raises(UserError, match="no part of a generation"):
        merge_file(tmp_path / "other.h5")


def test_a_part_that_was_damaged_on_its_way_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    make_parts(path, DataPart(1, 2), DataPart(2, 2))
    values = DataPart(2, 2).folder(path) / "values-00000.f32"
    content = bytearray(values.read_bytes())
    content[100] ^= 1
    values.write_bytes(content)
    with pytest.raises(UserError) as caught:
        merge_file(path)
    assert caught.value.code == "store_corrupt"
    assert not path.exists()


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UserError) as caught:
        DataPart.from_text(text)
    assert caught.value.code == "invalid_part"


def test_more_parts_than_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most 4"):
        make_parts(tmp_path / "file.h5", DataPart(5, 5))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ups(*words: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["data", *words])
        assert ended.value.code == 0, capsys.readouterr().err

    whole, merged = tmp_path / "whole.h5", tmp_path / "merged.h5"
    common = ["generate", "burgers", "-n", "9", "--resolution", "32", "--coef", "nu=0.01:0.1", "-o"]
    ups(*common, str(whole))
    for shard in ("2/3", "1/3", "3/3"):
        ups(*common, str(merged), "--shard", shard)
    ups("merge", str(merged))
    assert merged.read_bytes() == whole.read_bytes()
