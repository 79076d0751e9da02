"""The command `cdetr`: finds a command's module, and reports its errors in one line. Heavy imports wait until they are needed,
so that `--help` is instant.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module

from .. import __version__
from ..stopping import Interrupted, sigterm_unwinds
from .threads import wait_briefly
from .usage import UsageError

# Each is the module of this name here, whose function `run` takes the arguments behind it, and returns an exit code, or None.
COMMANDS = ("train", "eval", "report", "predict", "explain", "export", "serve", "demo", "data", "recipes")

HELP = """usage: cdetr COMMAND [options]

Conditional DETR and DETR: from a labelled folder to a trained, measured, usable detector.

commands:
  train     train a detector         cdetr train --config finetune --data path/to/data
  eval      score a detector         cdetr eval --model runs/finetune/model --data path/to/data
  report    say all of a detector    cdetr report --model runs/finetune/model --data path/to/data
  predict   detect in pictures       cdetr predict --model runs/finetune/model --images photos/
  explain   show where it looked     cdetr explain --model runs/finetune/model --images photos/
  export    for other engines        cdetr export --model runs/finetune/model --output model.onnx
  serve     detect over HTTP         cdetr serve --model runs/finetune/model
  demo      all of it, on generated scenes, in a few minutes on a CPU
  data      check a data set, convert it to another format, or generate one of scenes with boxes, masks and panoptic maps
  recipes   list the recipes that are shipped

cdetr COMMAND --help shows a command's options; cdetr --version the version.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0; 1 for a run that failed, or a check that found what stops training; 2 for bad usage, 128 + signal for one that was stopped."""
    wait_briefly()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"conditional-detr {__version__}")
        return 0
    # The handler is this package's alone: other libraries' loggers stay as they are.
    if not (ours := logging.getLogger("conditional_detr")).handlers:
        ours.addHandler(logging.StreamHandler())
    try:
        if arguments[0] not in COMMANDS:
            raise UsageError(f"there is no command {arguments[0]!r}; there are {', '.join(COMMANDS)}")
        with sigterm_unwinds():
            return import_module(f".{arguments[0]}", __name__).run(arguments[1:]) or 0
    except UsageError as error:
        return _fail(str(error), 2)
    except Interrupted as stopped:
        return _fail(str(stopped), 128 + stopped.signal)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:  # the program that reads the output has ended, as `| head` does
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return 0
    except Exception as error:
        if isinstance(error, OSError | ValueError | RuntimeError) and not os.environ.get("CDETR_TRACEBACK"):
            return _fail(str(error), 1)
        raise


def _fail(message: str, code: int) -> int:
    print("cdetr: " + " ".join(message.split()), file=sys.stderr)
    return code
