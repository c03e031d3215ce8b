"""Every route against the OpenAPI document, by schemathesis: all its checks, with a key and without.

A seeded program on a service of its own; at least so many cases in all:

    python -m tests.api.contract --cases 5000
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.api.conftest import RunningService, running_service
from ups_server.access.keys import KeyStore
from ups_server.access.scopes import Scope
from ups_server.settings import Settings

CONFIGURATION = """
# What no schema can say makes a request wrong although it has the right form: coefficients of another family, shapes
# that do not fit, a file that was never uploaded, JSON in the query. It is answered with 4xx and a problem document.
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 406, 409, 411, 413, 415, 422, 429, 507]
"""


@dataclass(frozen=True)
class Ran:
    """One run of schemathesis."""

    code: int
    cases: int
    output: str


def small_settings(folder: Path) -> Settings:
    """A service whose every answer is quickly computed, so that cases are many."""
    return Settings(
        default_model="persistence",
        data_dir=folder,
        device="cpu",
        threads=1,
        worker=False,
        max_steps=8,
        max_points=2**14,
        max_json_values=2**13,
        max_body_bytes=2**18,
        max_file_bytes=2**20,
        files_quota_bytes=2**24,
        job_poll_s=0.05,
        keep_alive_s=0.5,
    )


PHASES = ("examples", "coverage", "fuzzing", "stateful")
DRAWN = ("examples", "fuzzing", "stateful")
"""Without the thousands of systematic requests."""


def run(
    service: RunningService,
    folder: Path,
    key: str | None,
    examples: int,
    seed: int,
    phases: Sequence[str] = PHASES,
) -> Ran:
    """All checks on all routes; `examples` drawn requests a route beside the systematic ones."""
    configuration = folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION, encoding="utf-8")
    shown = [] if key is None else ["--header", f"Authorization:Bearer {key}"]
    words = ["--config-file", str(configuration), "run", f"{service.url}/openapi.json"]
    options = ["--checks", "all", "--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure"]
    options += ["--suppress-health-check", "all", "--request-timeout", "60", "--no-color", *shown]
    options += ["--phases", ",".join(phases)]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *words, *options], cwd=folder, capture_output=True, text=True
    )
    output = done.stdout + done.stderr
    counted = re.search(r"([\d,]+) generated", output)
    return Ran(done.returncode, int(counted[1].replace(",", "")) if counted else 0, output)


def runs(folder: Path, examples: int, seed: int, open_phases: Sequence[str] = PHASES) -> dict[str, Ran]:
    """Without keys, then with one that may do everything.

    Args:
        open_phases: of the first run.
    """
    with running_service(small_settings(folder / "data")) as service:
        open_to_all = run(service, folder, None, examples, seed, open_phases)
        _, key = KeyStore(service.jobs.database).create("contract", [Scope.ADMIN], 1)
        return {"without a key": open_to_all, "with a key": run(service, folder, key, examples, seed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000, help="requests at least, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=25, help="requests drawn a route, to begin with")
    options = parser.parse_args()
    total, failed, examples = 0, False, options.examples
    while total < options.cases and not failed:
        with tempfile.TemporaryDirectory() as name:
            found = runs(Path(name), examples, options.seed + total)
        for kind, ran in found.items():
            print(ran.output)
            print(json.dumps({"kind": kind, "cases": ran.cases, "passed": ran.code == 0}), flush=True)
        total += sum(ran.cases for ran in found.values())
        failed = any(ran.code for ran in found.values())
        examples *= 2
    print(f"{total} cases, {'some failed' if failed else 'all passed'}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
