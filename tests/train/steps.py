"""A small training in float64, run by as many processes as there are; writes loss curve, weights and state.

``torchrun --nproc-per-node 2 -m tests.train.steps CONFIG FOLDER STEPS OUT``
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from ups_server.align import ALIGNMENTS
from ups_server.train.config import TrainConfig
from ups_server.train.loop import Position, StageTrainer, load_state, save_state
from ups_server.train.parallel import Processes, joined
from ups_server.train.run import NoListener, TrainingRun


def stage_2(
    config: TrainConfig, folder: Path, steps: int, processes: Processes, state: Path | None = None
) -> tuple[StageTrainer, list[float]]:
    """The trainer after so many steps of stage 2, and of each: losses, distance, gradient norm.

    Args:
        folder: where the data are kept, for trainings with the same.
        state: folder of the state to go on from.
    """
    own = folder / f"{processes.count}-{config.accumulate}-{config.stage2.alignment}"
    run = TrainingRun(config, own, NoListener(), "cpu", stores=folder / "data", processes=processes)
    model = run._initial_model().double().train()
    alignment = ALIGNMENTS[config.stage2.alignment]()
    trainer = StageTrainer(model, run.families, config, 1, alignment, processes=processes)
    if state is not None:
        load_state(state, trainer)
    curve = []
    while trainer.step < steps:
        report = trainer.run_step()
        assert not report.skipped
        curve += [*report.losses.values(), report.alignment, report.gradient]
    return trainer, curve


def main() -> None:
    config, folder, steps, out = sys.argv[1:]
    torch.set_num_threads(1)
    with joined("cpu") as (processes, _):
        settings = TrainConfig.model_validate_json(config)
        trainer, curve = stage_2(settings, Path(folder), int(steps), processes)
        if processes.first:
            Path(out).mkdir()
            save_state(Path(out), trainer, Position(stage=1))
            save_file({name: value.detach() for name, value in trainer.trained.items()}, f"{out}.safetensors")
            Path(f"{out}.json").write_text(json.dumps({"processes": processes.count, "curve": curve}))


if __name__ == "__main__":
    main()
