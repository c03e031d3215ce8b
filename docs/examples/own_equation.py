"""An equation of one's own: trajectories in a file, uploaded, a model adapted to them, its rollout beside the truth.

The equation is a damped wave that travels, u_t + c u_x = -k u, whose solution is known: u(x, t) = f(x - c t) exp(-k t).

    python docs/examples/own_equation.py --max-steps 100
"""

import argparse
import tempfile
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.client import Client

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
parser.add_argument("--model", default="ups-mini", help="what is adapted")
parser.add_argument("--points", type=int, default=128, help="the model's own number, a multiple, or fewer")
parser.add_argument("--trajectories", type=int, default=12, help="those in the file; all but four are trained on")
parser.add_argument("--tuning", default="operator", choices=["operator", "full", "lora", "layernorm", "prefix", "head"])
parser.add_argument("--max-steps", type=int, default=100, help="of training")
options = parser.parse_args()

SPEED, DAMPING = 0.4, 0.5
DECLARATION = {
    "equation": {
        "id": "damped_wave",
        "name": "1D Damped Travelling Wave",
        "equation": "u_t + c u_x = - k u",
        "fields": [{"name": "u", "slot": 1}],
        "coefficients": [{"name": "c", "value": SPEED}, {"name": "k", "value": DAMPING}],
        "extent": [[0.0, 1.0]],
        "boundary": [["periodic", "periodic"]],
    }
}


def travelling(count: int, seed: int) -> NDArray[np.float64]:
    """(count, times, points) of exact solutions: five sine waves with random phases and amplitudes each."""
    rng = np.random.default_rng(seed)
    amplitudes = rng.uniform(0.2, 1.0, (count, 5, 1, 1))
    phases = rng.uniform(0.0, 2.0 * np.pi, (count, 5, 1, 1))
    cycles = np.arange(1, 6)[:, None, None]
    moved = x - SPEED * t[:, None]
    waves = amplitudes / cycles * np.sin(2.0 * np.pi * cycles * moved + phases)
    return np.asarray(waves.sum(1) * np.exp(-DAMPING * t)[:, None])


x = (np.arange(options.points) + 0.5) / options.points
t = 0.05 * np.arange(21)
with tempfile.TemporaryDirectory() as folder, Client(options.url) as client:
    path = Path(folder) / "waves.hdf5"
    with h5py.File(path, "w") as file:
        file["u"] = travelling(options.trajectories, seed=0).astype(np.float32)
        file["x-coordinate"], file["t-coordinate"] = x, t
    record = client.upload(path, DECLARATION, lambda done, size: print(f"sent {done} of {size} bytes"))
    print(f"{record['report']['check']['trajectories']} trajectories are accepted")

    job = client.fine_tune(
        record["id"],
        options.trajectories - 4,
        model=options.model,
        tuning=options.tuning,
        max_steps=options.max_steps,
        suffix="wave",
    )
    for name, data in client.follow(job["id"]):
        if name in ("phase", "validation", "state"):
            print(name, {key: value for key, value in data.items() if key not in ("seq", "at")})
    job = client.job(job["id"])
    if job["state"] != "succeeded":
        raise SystemExit(f"the adaptation ended as {job['state']}: {job['error']}")
    print(job["result"]["verdict"])

    (truth,) = travelling(1, seed=1)
    solution = client.rollout("damped_wave", len(t) - 1, truth[0], model=job["result"]["model"])
    error = np.linalg.norm(solution["u"] - truth) / np.linalg.norm(truth)
    print(f"{job['result']['model']} from a wave it has never seen: nRMSE {error:.4f}")
