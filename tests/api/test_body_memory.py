"""What hostile bodies cost the API process: at most three times the body limit for each that is read at a time."""

import io
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from tests.api.test_problems import misdeclared
from tests.serving import Serving, serving

LIMIT, AT_ONCE, SENDERS = 8 * 2**20, 2, 6
SLACK = 48 * 2**20
"""Pieces of the texts that are read, what connections buffer, and what the allocator does not give back."""
JSON, SAFETENSORS, NPZ = "application/json", "application/vnd.safetensors", "application/x-npz"
REQUEST = {"model": "persistence", "family": "burgers", "n_steps": 10**8, "save_every": 10**8}
"""Refused for its steps, once its states were looked at."""


def listed(numbers: bytes) -> bytes:
    body = b'{"initial_condition": {"values": [%s]}, ' + json.dumps(REQUEST).encode()[1:]
    return body % numbers


def archive(**entries: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **entries)
    return buffer.getvalue()


def bomb() -> bytes:
    """Some hundred kilobytes that unpack to 256 MB, of which the directory admits one."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**18 - 32,)}
    packed = zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED)
    with packed, packed.open("initial_condition.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for _ in range(256):
            stream.write(bytes(2**20))
    return misdeclared(buffer.getvalue(), "initial_condition.npy", 2**20)


def state(values: int, dtype: str) -> np.ndarray:
    return np.zeros(values, dtype)


BODIES: dict[str, tuple[str, Callable[[], bytes], int]] = {
    "digits": (JSON, lambda: listed(b"0," * (LIMIT // 2 - 200) + b"0"), 422),
    "columns": (JSON, lambda: listed(b"[0]," * (LIMIT // 4 - 100) + b"[0]"), 422),
    "numbers": (JSON, lambda: listed(b"0.123456," * (LIMIT // 9 - 100) + b"0"), 422),
    "no numbers": (JSON, lambda: b'{"coefficients": {"a": [%s]}}' % (b"{}," * (LIMIT // 3 - 100) + b"0"), 413),
    "float32": (
        SAFETENSORS,
        lambda: save({"initial_condition": state(LIMIT // 4 - 200, "f4")}, {"request": json.dumps(REQUEST)}),
        422,
    ),
    "float64": (
        SAFETENSORS,
        lambda: save({"initial_condition": state(LIMIT // 8 - 200, "f8")}, {"request": json.dumps(REQUEST)}),
        422,
    ),
    "header": (SAFETENSORS, lambda: (LIMIT - 100).to_bytes(8, "little") + b"[{}," * (LIMIT // 4 - 20), 413),
    "zeros": (
        NPZ,
        lambda: archive(initial_condition=state(LIMIT // 4 - 2000, "f4"), request=np.array(json.dumps(REQUEST))),
        422,
    ),
    "bomb": (NPZ, bomb, 400),
    "drawn": (JSON, lambda: json.dumps({**REQUEST, "grid": {"n": [2**19]}, "n_steps": 1, "save_every": 1,
                                        "initial_condition": {"sample": {"count": 64}}}).encode(), 422),
}  # fmt: skip


def memory(service: Serving, entry: str) -> int:
    """Bytes of an entry of the process's status: `VmRSS` now, `VmHWM` the most since it was reset."""
    lines = Path(f"/proc/{service.process.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_body_takes_more_than_it_may(tmp_path: Path) -> None:
    settings = {"DEFAULT_MODEL": "persistence", "WORKER": "false", "QUEUE_TIMEOUT_S": "900"}
    bounds = {"MAX_BODY_BYTES": str(LIMIT), "MAX_BODIES": str(AT_ONCE)}
    grown: dict[str, float] = {}
    with (
        serving(tmp_path, **settings, **bounds) as service,
        ThreadPoolExecutor(SENDERS) as senders,
    ):
        before = memory(service, "VmRSS")
        for name, (media_type, build, status) in BODIES.items():
            body = build()
            assert len(body) <= LIMIT

            def send(prefer: str, body: bytes = body, media_type: str = media_type) -> int:
                headers = {"Content-Type": media_type, "Prefer": prefer}
                answer = httpx.post(f"{service.url}/v1/rollouts", content=body, headers=headers, timeout=300)
                return answer.status_code

            Path(f"/proc/{service.process.pid}/clear_refs").write_text("5")
            answers = list(senders.map(send, ["wait=9", "respond-async"] * (SENDERS // 2)))
            grown[name] = (memory(service, "VmHWM") - before) / 2**20
            assert answers == [status] * SENDERS, name
    print({name: round(size) for name, size in grown.items()})
    assert max(grown.values()) * 2**20 <= 3 * LIMIT * AT_ONCE + SLACK, grown
