"""The program: turns a recipe into a run. `python -m train`, also installed as `resnet-jax`."""

import time

STARTED = time.perf_counter()
"""When the process started, by `perf_counter`: the delay of the first step counts from here."""
