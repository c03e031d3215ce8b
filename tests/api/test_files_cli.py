"""`ups files` against a real service."""

import json
from pathlib import Path

import pytest
import yaml

from tests.api.conftest import RunningService
from tests.files.test_declaration import EQUATION
from tests.files.test_examination import allen_cahn
from ups_server.cli import main


def ups(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)"""
    with pytest.raises(SystemExit) as ended:
        main(["files", *map(str, words)])
    captured = capsys.readouterr()
    return int(str(ended.value.code or 0)), captured.out, captured.err


def test_the_page_is_opened(
    service: RunningService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def nowhere(url: str) -> bool:
        opened.append(url)
        return False

    monkeypatch.setattr("webbrowser.open", nowhere)
    with pytest.raises(SystemExit) as ended:
        main(["open", "--url", service.url])
    assert not ended.value.code
    assert (opened, capsys.readouterr().out.strip()) == ([service.url], service.url)


def test_upload_list_show_delete(
    service: RunningService, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPS_URL", service.url)
    file, declaration = allen_cahn(tmp_path / "mine.h5"), tmp_path / "mine.yaml"
    equation = EQUATION | {"fields": [{"name": "u", "slot": 0, "dataset": "phase"}]}
    declaration.write_text(yaml.safe_dump({"equation": equation}))
    code, out, err = ups(capsys, "upload", file, "--declaration", declaration)
    assert (code, out) == (2, "")
    assert "the file does not say eps" in err
    code, out, _ = ups(capsys, "upload", file, "--declaration", declaration, "--coef", "eps=0.02", "--json")
    record = json.loads(out)
    assert (code, record["state"], record["report"]["check"]["family"]) == (0, "ready", "allen_cahn")
    code, out, _ = ups(capsys, "list")
    assert code == 0
    assert record["id"] in out
    picture = tmp_path / "preview.png"
    code, out, _ = ups(capsys, "show", record["id"], "--picture", picture)
    assert code == 0
    assert "eps = 0.02" in out
    assert "3, 3 usable" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert ups(capsys, "delete", record["id"])[0] == 0
    code, _, err = ups(capsys, "show", record["id"])
    assert code == 2
    assert "there is no file" in err


def test_mistakes_before_any_byte_is_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ups(capsys, "upload", tmp_path / "absent.h5")[0] == 2
    broken = tmp_path / "broken.yaml"
    broken.write_text("[1, 2]")
    code, _, err = ups(capsys, "upload", broken, "--declaration", broken)
    assert code == 2
    assert "no mapping" in err
