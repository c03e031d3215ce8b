"""Files as people bring them, over HTTP. On the command line: `tests/data/test_cases.py`."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import DEADLINE_S, RunningService
from tests.api.test_files import examined, post, problem
from tests.cases import BETA, CASES, SHARED, Case, expect, moving, single, ups

Output = pytest.CaptureFixture[str]


def uploaded(service: RunningService, path: Path, **said: Any) -> dict[str, Any]:
    answer = post(service, path.read_bytes(), name=path.name, declaration=json.dumps(said))
    assert answer.status_code == 201, answer.text
    return examined(service, answer.json()["id"])


def judged(service: RunningService, case: Case, path: Path) -> None:
    record = uploaded(service, path)
    if case.outcome in ("refused", "unusable"):
        assert record["state"] == "refused"
        text = " ".join(filter(None, (record["problem"]["detail"], record["problem"]["hint"])))
        for words in case.says:
            assert words in text, text
    else:
        assert record["state"] == "ready", record["problem"]
        expect(case, record["report"]["check"])


@pytest.mark.parametrize("case_id", CASES)
def test_over_http(case_id: str, service: RunningService, tmp_path: Path) -> None:
    case = CASES[case_id]
    path = tmp_path / case.name
    case.make(path)
    judged(service, case, path)


@pytest.mark.slow
@pytest.mark.parametrize("case_id", CASES)
def test_given_files(case_id: str, service: RunningService) -> None:
    path = SHARED / "inputs" / CASES[case_id].name
    if not path.is_file():
        pytest.skip(f"there is no ../shared/cases/inputs/{path.name} on this machine")
    judged(service, CASES[case_id], path)


def test_frames_that_are_not_equally_spaced_are_not_scored(service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "adv_t_log.hdf5"
    CASES["t-nonuniform"].make(path)
    record = uploaded(service, path, family="advection")
    assert "not equally spaced" in record["report"]["not_learnable"]
    answer = service.send("POST", "/v1/evaluations", {"model": "persistence", "file": record["id"]})
    assert problem(answer) == (422, "dt_mismatch")
    assert "spaced" in answer.json()["detail"]


def test_an_empty_file(service: RunningService) -> None:
    answer = post(service, b"", name="empty.h5")
    assert problem(answer) == (422, "empty_file")
    assert answer.json()["detail"] == "empty.h5 is empty"
    announced = httpx.post(f"{service.url}/v1/files", json={"name": "empty.h5", "size": 0}, timeout=DEADLINE_S)
    assert problem(announced) == (422, "empty_file")


def test_a_declaration_as_text_or_file(service: RunningService, tmp_path: Path, capsys: Output) -> None:
    path, declaration = tmp_path / "data.hdf5", tmp_path / "said.yaml"
    single(path, moving(), {})
    text = json.dumps({"family": "advection", "coefficients": {"beta": BETA}})
    declaration.write_text(text)
    for said in (text, str(declaration)):
        assert ups("files", "upload", str(path), "--declaration", said, "--url", service.url) == 0
        assert "beta = 0.4" in capsys.readouterr().out
    assert ups("files", "upload", str(path), "--declaration", "missing.yaml", "--url", service.url) == 2
    assert "there is no file missing.yaml" in capsys.readouterr().err
