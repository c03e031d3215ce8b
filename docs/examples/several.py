"""Several rollouts at once with the client for coroutines: one for each viscosity, in the same batches of the service.

python docs/examples/several.py --nu 0.001 0.003 0.01 0.03 0.1
"""

import argparse
import asyncio
import time

from ups_server.client import AsyncClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
parser.add_argument("--model", default="ups-mini")
parser.add_argument("--points", type=int, default=128)
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--nu", type=float, nargs="+", default=[0.001, 0.003, 0.01, 0.03, 0.1], help="viscosities")
options = parser.parse_args()


async def steepest(client: AsyncClient, nu: float) -> float:
    """The steepest slope at the end of a rollout, whose steps are told as they come."""
    problem = {"model": options.model, "coefficients": {"nu": nu}, "grid": {"n": [options.points]}}
    async for step in client.stream("burgers", options.steps, {"sample": {"seed": 7}}, **problem):
        if step.step % 10 == 0:
            print(f"nu = {nu:g}: step {step.step}, t = {step.time:g}")
    u = step.values[:, 0]
    return float(abs(u[1:] - u[:-1]).max() * options.points)


async def main() -> None:
    began = time.perf_counter()
    async with AsyncClient(options.url) as client:
        slopes = await asyncio.gather(*(steepest(client, nu) for nu in options.nu))
    for nu, slope in zip(options.nu, slopes, strict=True):
        print(f"nu = {nu:g}: steepest slope {slope:.1f}")
    print(f"{len(slopes)} rollouts in {time.perf_counter() - began:.1f} s")


asyncio.run(main())
