"""The program: turns a recipe into a run. `python -m train`, also installed as `resnet-jax`."""

import time

STARTED = time.perf_counter()
"""When the process came here: what the wait for a first step is counted from."""
