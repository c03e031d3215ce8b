"""Training of a recipe by one process or by several: ``torchrun --nproc-per-node 2 -m ups_server.train RECIPE``."""

import argparse
import sys
from pathlib import Path

from ups_server.errors import UserError
from ups_server.processes import keep_freed_memory, leave_torchrun
from ups_server.train.run import train_recipe


def main() -> None:
    parser = argparse.ArgumentParser(prog="ups_server.train", description=__doc__)
    parser.add_argument("recipe", type=Path, help="YAML, as of `ups train`")
    parser.add_argument("--fresh", action="store_true", help="start over where a run has begun")
    parser.add_argument("--device", help="default: a CUDA device for each process, else the CPU")
    parser.add_argument("--workers", type=int, default=1, help="processes that generate the data")
    given = parser.parse_args()
    keep_freed_memory()
    try:
        train_recipe(given.recipe, fresh=given.fresh, device=given.device, workers=given.workers)
    except UserError as error:
        sys.exit(f"ups_server.train: {error}")
    leave_torchrun()


if __name__ == "__main__":
    main()
