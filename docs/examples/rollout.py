"""A rollout of Burgers' equation beside its numerical reference: true error, expected error, and a picture.

python docs/examples/rollout.py --output rollout.png
"""

import argparse
import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ups_server.client import Client

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
parser.add_argument("--model", default="ups-mini")
parser.add_argument("--points", type=int, default=128)
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--nu", type=float, default=0.001, help="viscosity")
parser.add_argument("--output", default="rollout.png")
options = parser.parse_args()

coefficients, grid = {"nu": options.nu}, {"n": [options.points]}
initial = {"sample": {"seed": 7}}
with Client(options.url) as client:
    solution = client.rollout(
        "burgers",
        options.steps,
        initial,
        model=options.model,
        coefficients=coefficients,
        grid=grid,
        diagnostics=True,
        reference=True,
    )
    reference = client.rollout(
        "burgers", options.steps, initial, model="numerical", coefficients=coefficients, grid=grid
    )

compared = json.loads(solution.attrs["reference"])
print(f"true error of the whole trajectory, nRMSE: {compared['nrmse_trajectory']:.4f}")
print(compared["remark"])
expected = json.loads(solution.attrs["diagnostics"])["expected_error"]
if expected["available"]:
    first, level = expected["bounds"]["u"][1], expected["level"]
    print(f"expected error of the first step, RMSE: at most {first:.4f} with a probability of {level}")
else:
    print(f"expected error: unknown, {expected['reason']}")

shown = {options.model: solution["u"], "reference": reference["u"], "difference": solution["u"] - reference["u"]}
figure, axes = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
for axis, (name, field) in zip(axes, shown.items(), strict=True):
    field.plot.pcolormesh(ax=axis, x="x", y="time", cmap="RdBu_r" if name == "difference" else "viridis")
    axis.set_title(name)
figure.savefig(options.output, dpi=120)
print(f"{options.output} shows all three")
