"""`ups doctor` says what is in order and what is not."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from ups_server.cli import main
from ups_server.cli.serve import CHECKS, check_weights, data, database, examined, models, port
from ups_server.errors import UserError
from ups_server.jobs.database import FILE
from ups_server.settings import Settings


def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--data-dir", str(tmp_path), *words])
    code = ended.value.code
    return code if isinstance(code, int) else 0, capsys.readouterr().out


def test_this_installation_is_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = doctor(tmp_path, capsys, "--json")
    report: dict[str, Any] = json.loads(out)
    assert (code, report["ok"]) == (0, True), out
    assert [check["name"] for check in report["checks"]] == [check.__name__ for check in CHECKS]
    assert {check["status"] for check in report["checks"]} <= {"ok", "warning"}
    assert not (tmp_path / FILE).exists(), "looking makes nothing"
    code, out = doctor(tmp_path, capsys)
    assert code == 0
    assert len(out.splitlines()) == len(CHECKS)


def test_what_an_extra_would_bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    findings = {finding.name: finding for finding in examined(Settings(data_dir=tmp_path))}
    assert (findings["torch"].status, findings["torch"].hint) == ("failed", "pip install 'ups-server[serve]'")


def test_a_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPS_DEFAULT_MODEL", "absent")
    code, out = doctor(tmp_path, capsys)
    assert code == 1
    assert "FAILED  models     there is no model 'absent'" in out


def test_weights_that_are_cut_short(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    file = tmp_path / "model.safetensors"
    save_file({"weight": np.ones(100, np.float32)}, file)
    check_weights(file)
    whole = file.read_bytes()
    for content, words in ((whole[:-1], "not whole"), (whole + b"x", "not whole"), (b"\x08" * 64, "no safetensors")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=words):
            check_weights(file)


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    findings = {finding.name: finding for finding in examined(Settings(data_dir=blocked / "data"))}
    assert findings["models"].status == "ok"
    assert data(Settings(data_dir=tmp_path / "new" / "folder")).detail.count("will be made") == 1


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = port(Settings(port=taken.getsockname()[1]))
    assert (found.status, "already" in str(found.hint)) == ("warning", True)


def test_a_reachable_address_without_a_key(tmp_path: Path) -> None:
    assert database(Settings(data_dir=tmp_path)).status == "ok"
    found = database(Settings(data_dir=tmp_path, host="0.0.0.0"))
    assert (found.status, "ups keys create" in str(found.hint)) == ("failed", True)


def test_a_device_that_is_not_there() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    for settings, said in ((Settings(device="cuda"), "UPS_DEVICE is"), (Settings(devices=("cuda:0",)), "UPS_DEVICES")):
        findings = {finding.name: finding for finding in examined(settings)}
        assert (findings["torch"].status, said in str(findings["torch"].hint)) == ("failed", True)


def test_the_default_model_is_named() -> None:
    assert "by default persistence" in models(Settings(default_model="persistence")).detail
