"""How both clients begin: where the service is, and which key they show."""

import os
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 600.0


def connection(base_url: str, timeout: float, key: str | None) -> dict[str, Any]:
    """Arguments of httpx's clients; without a key, that of the environment variable UPS_KEY."""
    key = key or os.environ.get("UPS_KEY")
    headers = {} if not key else {"Authorization": f"Bearer {key}"}
    return {"base_url": base_url, "timeout": timeout, "headers": headers}
