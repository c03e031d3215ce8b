"""How far does a rollout depend on its initial state? Mean and band of an ensemble, at every time.

python docs/examples/ensemble.py --members 16 --amplitude 0.05 --output ensemble.png
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ups_server.client import Client

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
parser.add_argument("--model", default="ups-mini")
parser.add_argument("--points", type=int, default=128)
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--members", type=int, default=16)
parser.add_argument("--amplitude", type=float, default=0.05, help="of a perturbation, over the state's own deviation")
parser.add_argument("--output", default="ensemble.png")
options = parser.parse_args()

with Client(options.url) as client:
    solution = client.rollout(
        "burgers",
        options.steps,
        {"sample": {"seed": 7}},
        model=options.model,
        coefficients={"nu": 0.001},
        grid={"n": [options.points]},
        ensemble={"members": options.members, "amplitude": options.amplitude, "quantiles": [0.05, 0.95]},
    )

spread = solution["u"].sel(statistic="spread")
growth = spread.mean("x")
print(f"spread, mean over x: {float(growth[0]):.4f} at the beginning, {float(growth[-1]):.4f} at the end")
print(f"widest at the end at x = {float(spread.isel(time=-1).idxmax('x')):.3f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
end = solution["u"].isel(time=-1)
low, high = end.sel(statistic="quantile 0.05"), end.sel(statistic="quantile 0.95")
left.fill_between(end["x"], low, high, alpha=0.3, label="5 % to 95 %")
left.plot(end["x"], end.sel(statistic="mean"), label="mean")
left.plot(end["x"], end.sel(statistic="control"), "--", label="unperturbed")
left.set(xlabel="x", ylabel="u", title="at the end")
left.legend()
right.plot(growth["time"], growth)
right.set(xlabel="t", title="spread, mean over x")
figure.savefig(options.output, dpi=120)
print(f"{options.output} shows both")
