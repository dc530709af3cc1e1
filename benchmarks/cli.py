"""`resnet-jax bench`: runs a benchmark."""

import importlib
import importlib.util
import runpy
import sys

from train.config import ConfigError

USAGE = """\
usage: resnet-jax bench COMMAND ...

  step [NAME[,BATCH[,PIXELS]] ...] [--peers ...]   training steps on random data, against peers
  end_to_end [RECIPE] --data.dir DIR               training on real images, and the input's share
  training [RECIPE] --seconds 120                  training within a time limit, and its accuracy
  input ...                                        the data loader alone
  augment ...                                      the data loader with augmentation
  resident RECIPE                                  images on the device, against the data loader
  compile [NAMES]                                  time to trace and compile, and the first step
  startup                                          time from process start to the first step
  memory [NAME] [--topology h200]                  the largest batch that fits into memory
  profile [NAME[,BATCH[,PIXELS]]]                  the kernels that take the most time
  program [NAME[,BATCH]] --topology h200           a step compiled ahead of time, without the chip
  report [FILE ...] [--plot FILE]                  tables and a plot of results

A result is one line of JSON, appended to the file of `--out`: device, versions, flags, load, n,
median and range. `resnet-jax bench COMMAND --help` lists a command's options.
"""

# Name of the command: (module, whether it is run as a script).
COMMANDS = {
    "step": ("benchmarks.step", False),
    "end_to_end": ("benchmarks.end_to_end", False),
    "training": ("benchmarks.training", False),
    "input": ("benchmarks.input", True),
    "augment": ("benchmarks.augment", True),
    "resident": ("benchmarks.resident", False),
    "compile": ("benchmarks.compile", True),
    "startup": ("benchmarks.startup", True),
    "memory": ("benchmarks.memory", False),
    "profile": ("benchmarks.profiler", False),
    "program": ("benchmarks.program", False),
    "report": ("benchmarks.report", False),
}


def bench(args: list[str]) -> None:
    """Runs a benchmark.

    Raises:
      ConfigError: no such command, or bad options.
    """
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    name, *options = args
    if name not in COMMANDS:
        raise ConfigError(f"unknown command 'bench {name}': choose from {', '.join(COMMANDS)}")
    module, script = COMMANDS[name]
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"bench {name}: {module} is not in this checkout")
    if script:
        sys.argv = [f"resnet-jax bench {name}", *options]
        runpy.run_module(module, run_name="__main__")
    else:
        importlib.import_module(module).main(options)
