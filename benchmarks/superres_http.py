"""Super-resolution as users get it: over HTTP, both methods beside the numerical solver on the fine grid.

A real service is asked (`POST /v1/super-resolution`, `reference`) for rollouts of fresh samples, given on the grid each
family was trained on and wanted on finer ones, in 2-D also on one that is not square. The default method of every
family, which is the one the service chose from `super_resolution.json`, should nowhere be worse than the other.

    python benchmarks/superres_http.py [--model ups-mini] [--family burgers ...] [--samples 4] [--json OUT]
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.service import service
from benchmarks.superres import COEFFICIENTS, grids
from ups_server.catalog import Catalog
from ups_server.model.config import UPSConfig
from ups_server.pde import family
from ups_server.specs import Method
from ups_server.tensors import SAFETENSORS, from_safetensors

STEPS = {1: 10, 2: 3}
"""Of a rollout, by dimensions."""
SEED = 7_200_001


@dataclass(frozen=True)
class Answer:
    """One family on one finer grid: the default method, and nRMSE over the trajectory by method, mean over samples."""

    equation: str
    given: tuple[int, ...]
    output: tuple[int, ...]
    default: str
    nrmse: dict[str, float]

    @property
    def best(self) -> bool:
        """Is the default at least as good as the other?"""
        return self.nrmse[self.default] == min(self.nrmse.values())


def asked(client: httpx.Client, model: str, equation: str, values: dict[str, float], n: int, output: tuple[int, ...],
          samples: int) -> Answer:  # fmt: skip
    entry = family(equation)
    default, errors = "", dict[str, list[float]]()
    for sample in range(samples):
        document = {
            "model": model,
            "family": equation,
            "coefficients": values,
            "grid": {"n": [n] * entry.ndim},
            "initial_condition": {"sample": {"seed": SEED + sample}},
            "n_steps": STEPS[entry.ndim],
            "output_resolution": list(output),
            "reference": True,
        }
        answer = client.post("/v1/super-resolution", json=document, headers={"Accept": SAFETENSORS})
        answer.raise_for_status()
        found = json.loads(from_safetensors(answer.content)[1]["header"])
        default = found["methods"][0]
        for method, comparison in found["errors"].items():
            if not comparison["complete"]:
                raise RuntimeError(f"{equation} at {output}: {comparison['reason']}")
            errors.setdefault(method, []).append(comparison["nrmse_trajectory"])
    name = " ".join([equation, *(f"{key}={value:g}" for key, value in values.items())])
    means = {method: float(np.mean(own)) for method, own in errors.items()}
    return Answer(name, (n,) * entry.ndim, output, default, means)


def table(answers: list[Answer]) -> Iterator[str]:
    yield "| equation | given | asked for | default | resolution-free | interpolation | default is best |"
    yield "|---|---|---|---|---|---|---|"
    for answer in answers:
        given, output = (" x ".join(map(str, points)) for points in (answer.given, answer.output))
        errors = [f"{answer.nrmse[method.value]:.5f}" for method in (Method.RESOLUTION_FREE, Method.INTERPOLATION)]
        cells = (answer.equation, given, output, answer.default, *errors, "yes" if answer.best else "NO")
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="ups-mini")
    parser.add_argument("--family", action="append", help="default: every family of the model")
    parser.add_argument("--samples", type=int, default=4, help="in 1-D; in 2-D a quarter")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cards = UPSConfig.load(Path(Catalog().model(options.model).source)).families
    cases = [
        (name, values, output)
        for name in options.family or cards
        for values in COEFFICIENTS.get(name, ({},))
        for output in [*grids(family(name), cards[name].statistics.n)][1:]  # the first is the trained one
    ]
    answers = list[Answer]()
    with (
        service(1, reference_timeout_s=600, max_body_bytes=2**30) as (url, _),
        httpx.Client(base_url=url, timeout=1200) as client,
    ):
        for name, values, output in track(cases, "asking", console=Console(stderr=True)):
            samples = options.samples if cards[name].ndim == 1 else max(1, options.samples // 4)
            answers.append(asked(client, options.model, name, values, cards[name].statistics.n, output, samples))
    print("\n".join(table(answers)))
    missed = [f"{answer.equation} at {answer.output}" for answer in answers if not answer.best]
    print(f"\nthe default method is worse than the other: {', '.join(missed) or 'nowhere'}")
    if options.json:
        options.json.write_text(json.dumps([asdict(answer) for answer in answers], indent=1) + "\n")


if __name__ == "__main__":
    main()
