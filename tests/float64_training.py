"""A training run in float64, so that what differs is more than rounding: `python -m float64_training RECIPE.yaml`.

Of two processes, the one that RANK_TO_LOSE names takes its torchrun with it at its sixth step, as a machine does that fails.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from conditional_detr.stopping import StopRequest
from conditional_detr.train.loop import carry_out
from conditional_detr.train.recipe import Recipe, read_recipe
from conditional_detr.train.setup import set_up
from conditional_detr.train.watch import watching


def train_in_float64(recipe):
    torch.set_default_dtype(torch.float64)
    try:
        with StopRequest(say=False) as stop, watching(Path(recipe.output)):
            run = set_up(recipe, stop)

            def before(model, inputs):
                if (
                    run.progress.step == 5
                    and os.environ.get("RANK_TO_LOSE") == os.environ.get("RANK")
                    and run.processes.count == 2
                ):
                    for process in (os.getppid(), os.getpid()):
                        os.kill(process, signal.SIGKILL)
                return inputs[0].double(), *inputs[1:]

            run.state.model.register_forward_pre_hook(before)
            carry_out(run)
    finally:
        torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    train_in_float64(Recipe(**read_recipe(Path(sys.argv[1]))))
