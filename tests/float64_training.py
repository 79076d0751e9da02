"""A training run in float64, so that what differs is more than rounding: `python -m float64_training RECIPE.yaml`.

Of two processes, the one that LOST names ends in the sixth step, and its torchrun with it, as on a machine that fails; or
both only stop where HOW is SIGSTOP, as a machine does that is cut off.
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

LOST, HOW = os.environ.get("LOST"), getattr(signal, os.environ.get("HOW", "SIGKILL"))


def train_in_float64(recipe):
    torch.set_default_dtype(torch.float64)
    try:
        with StopRequest(say=False) as stop, watching(Path(recipe.output)):
            run = set_up(recipe, stop)

            def before(model, inputs):
                if run.progress.step == 5 and run.processes.count == 2 and str(run.processes.rank) == LOST:
                    for process in ([os.getppid()] if "TORCHELASTIC_RUN_ID" in os.environ else []) + [os.getpid()]:
                        os.kill(process, HOW)
                return inputs[0].double(), *inputs[1:]

            run.state.model.register_forward_pre_hook(before)
            carry_out(run)
    finally:
        torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    train_in_float64(Recipe(**read_recipe(Path(sys.argv[1]))))
