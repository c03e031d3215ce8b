"""An answer on a finer grid than the state's: the model itself there, beside interpolation, with the true errors.

python docs/examples/finer_grid.py --points 64 --times 4
"""

import argparse
import json

from ups_server.client import Client

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
parser.add_argument("--model", default="ups-mini")
parser.add_argument("--points", type=int, default=64, help="points of the state")
parser.add_argument("--times", type=int, default=4, help="as many times finer is the answer")
parser.add_argument("--steps", type=int, default=20)
options = parser.parse_args()

with Client(options.url) as client:
    solution = client.super_resolution(
        "burgers",
        options.steps,
        {"sample": {"seed": 7}},
        [options.times * options.points],
        model=options.model,
        coefficients={"nu": 0.01},
        grid={"n": [options.points]},
        reference=True,
    )

print(f"{options.points} points became {solution.sizes['x']}")
for sentence in json.loads(solution.attrs["super_resolution"])["explained"]:
    print(sentence)
for method, errors in json.loads(solution.attrs["errors"]).items():
    print(f"{method}: nRMSE {errors['nrmse_trajectory']:.4f}")
